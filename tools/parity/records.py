"""What is computed on a side, and what came of it: a job and its record, as one safetensors file each.

A job goes to NeMo's process, its record comes back; the records in tests/parity/records are the same files, kept.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tools.parity.cases import CLASS_PATHS, LEVELS, STEPS, Case, Levels

RECORDS = Path(__file__).resolve().parents[2] / "tests" / "parity" / "records"
START, INPUTS = "start/", "inputs/"  # prefixes of the start weights and the inputs; other tensors: `aspect/name`
FILE_NAME = re.compile(r"[\w.-]+")  # of a job: files are named after it


@dataclass(frozen=True)
class Job:
    """What both sides compute.

    aspects: keys of `tools.parity.aspects.ASPECTS`.
    inputs: of an encoder `features` (B, F, T) and `feature_lengths` (B,); of a model `clean` and `noisy` (B, N) int16,
        `lengths` (B,) and `masks` (1 + steps, B, T) uint8, which NeMo's side makes where they are missing.
    start: weights; empty: those that NeMo's side draws with the seed of `cases`, each moved off its initial value.
    until: the last of `tools.parity.cases.LEVELS` that is computed.
    own_options: dotted keys of this project's own options that the config has besides NeMo's.
    neutralised: dotted keys of the config -> the values that the models are built with instead: what is drawn at
        random in training is off, since two implementations draw in another order.
    notes: what a reader of the report must know of how the job was made, a sentence each.
    brief_trace: the trace of a record that is kept: see `tools.parity.trace.Trace`.
    checkpoint, manifest, noise_manifest: files of a user; None: what the tool makes itself.
    """

    name: str
    case: Case
    aspects: tuple[str, ...]
    inputs: Levels = field(default_factory=dict)
    start: Levels = field(default_factory=dict)
    steps: int = STEPS
    until: str = LEVELS[-1]
    brief_trace: bool = False
    own_options: dict[str, Any] = field(default_factory=dict)
    neutralised: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    checkpoint: str | None = None
    manifest: str | None = None
    noise_manifest: str | None = None


@dataclass(frozen=True)
class Measured:
    """What a side computed of one aspect. facts: what isn't a tensor, as JSON has it."""

    tensors: Levels = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What one side computed of a job.

    origin: `side`, versions, seed and script that made it.
    raised: why NeMo can't even build the model, where it can't; then nothing is measured and the job has no aspects.
    """

    job: Job
    origin: dict[str, str]
    measured: dict[str, Measured] = field(default_factory=dict)
    raised: str = ""


def save(record: Record, path: Path) -> None:
    """Write a record, or a job as a record of nothing."""
    job = record.job
    tensors = {START + k: v for k, v in job.start.items()} | {INPUTS + k: v for k, v in job.inputs.items()}
    for aspect, measured in record.measured.items():
        tensors |= {f"{aspect}/{name}": tensor for name, tensor in measured.tensors.items()}
    description = {
        "job": asdict(replace(job, inputs={}, start={})),
        "origin": record.origin,
        "facts": {aspect: measured.facts for aspect, measured in record.measured.items()},
        "raised": record.raised,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"record": json.dumps(description)}
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, path, metadata)


def load(path: Path) -> Record:
    """Raises ValueError, in one line, for a file that is no record, or is one of another class than ours.

    A record may come from a stranger: all it says is taken for data. What it names to be imported or written is checked
    here against what there is.
    """
    with told_by_path(path), safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (has no iterator)
        return record_of(json.loads(file.metadata()["record"]), tensors)


def description_of(path: Path) -> dict[str, Any]:
    """What a record says without its tensors: `job`, `origin`, `facts`, `raised`. Raises as `load` does."""
    with told_by_path(path), safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["record"])
        return {key: description[key] for key in ("job", "origin", "facts", "raised")}


@contextmanager
def told_by_path(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{path} is no record that --record made ({reason}): make it anew, or remove it") from error


def record_of(description: dict[str, Any], tensors: Levels) -> Record:
    job = description["job"]
    case = Case(**job.pop("case"))
    if case.class_path not in CLASS_PATHS:
        raise ValueError(f"class_path={case.class_path!r} is not one of {', '.join(CLASS_PATHS)}")
    job = Job(**job | {"inputs": below(INPUTS, tensors), "start": below(START, tensors)}, case=case)
    if not FILE_NAME.fullmatch(job.name):
        raise ValueError(f"name={job.name!r} is no name for a file")
    job = replace(job, aspects=tuple(job.aspects), notes=tuple(job.notes))
    measured = {aspect: Measured(below(f"{aspect}/", tensors), facts) for aspect, facts in description["facts"].items()}
    return Record(job, description["origin"], measured, description.get("raised", ""))


def below(prefix: str, tensors: Levels) -> Levels:
    """The tensors whose names start so, without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def kept(name: str) -> Record:
    """A record that stands in the project."""
    return load(RECORDS / f"{name}.safetensors")


def start_weights(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without window and filters of the preprocessor, which its features show."""
    return {k: v.clone() for k, v in module.state_dict().items() if not k.startswith("preprocessor.")}


def copy_weights(start: dict[str, Tensor], module: nn.Module) -> None:
    """Put all of `start` into `module`; names, shapes and types must be the same."""
    state = module.state_dict()
    own = {key for key in state if not key.startswith("preprocessor.")}
    if own != set(start):
        raise ValueError(f"names of weights differ: {sorted(own ^ set(start))}")
    types = {key: (state[key].dtype, start[key].dtype) for key in start if state[key].dtype != start[key].dtype}
    if types:
        raise ValueError(f"types of weights differ: {types}")
    with torch.no_grad():
        module.load_state_dict(state | start, strict=True)
