"""Checkpoint files in both directions: each side opens what the other wrote, and has the same model.

Tensors are compared bit for bit, configurations key by key, then what the opened model computes. Both sides write into
one folder, ours first (`prepare`), so that NeMo finds our files when it is asked. Without NeMo its own come out of the
record, and what stands in ours is read by other means than ours.
"""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from tools.parity.aspects.file_differences import (
    Facts,
    changes,
    differing_keys,
    differing_lines,
    differing_tensors,
    digests,
    settings,
    sha256,
)
from tools.parity.aspects.file_formats import FORMATS, quiet
from tools.parity.cases import Levels
from tools.parity.comparison import compare_tensor
from tools.parity.levels import evaluate, feed_masks
from tools.parity.records import Measured, Record, below
from tools.parity.rows import FAILED, KNOWN, NOT_RUN, PASSED, Row
from tools.parity.side import Side, add_missing_transpose
from tools.parity.trace import Trace

NAME = "files"
MODULE = "core.connectors.save_restore"
FILES = "file/"  # prefix of files that a kept record carries
NEEDS_NEMO = "needs NeMo, run now"
BIT_FOR_BIT = "a file holds every tensor as it is"
SAME_MEANING = "every key of one file stands in the other, with its value"
NEMO_EDITS = (  # in post_conv mode, before it writes; our files say what NeMo makes these of
    "masking.block_size", "masking.feat_in", "quantizer.feat_in", "quantizer.combine_time_steps",
    "loss.combine_time_steps",
)  # fmt: skip
ONLY_OURS = "this side alone is given it, so that NeMo's files don't say it and ours do"
LARGEST_KEPT = 8 * 2**20  # bytes of a file that a record carries


# measured on each side


def prepare(side: Side) -> None:
    """Write our files where NeMo's side looks for them. What fails here fails in `measure` again, which says so."""
    attempt(write_all, side)


def hand_over(record: Record, folder: Path) -> None:
    """Put the files that a kept record carries where our side looks for them. It chooses neither names nor sizes."""
    carried = below(FILES, record.measured[NAME].tensors) if NAME in record.measured else {}
    for path in (file_of(Side("nemo", record.job, folder), "nemo", suffix) for suffix in FORMATS):
        if path.name in carried:
            path.write_bytes(unpacked(carried[path.name]))


def unpacked(content: Tensor) -> bytes:
    """The first LARGEST_KEPT bytes of what `kept_files` packed."""
    try:
        return zlib.decompressobj().decompress(content.numpy().tobytes(), LARGEST_KEPT)
    except zlib.error as error:
        raise ValueError(f"a file in the record is broken ({error}): make the record anew") from error


def measure(side: Side) -> Measured:
    """Write this side's files, and open those of the other side that are there."""
    model = side.build()
    facts: Facts = {"model": digests(model.state_dict()), "optimizer": optimizer_order(side)}
    facts |= {"written": write_all(side), "opened": {}}
    tensors = kept_files(side)
    for kind, path in files_to_open(side).items():
        facts["opened"][kind] = {"file": sha256(path)} | attempt(
            open_file, side, model, path, tensors, f"opened/{kind}"
        )
    return Measured(tensors, facts | attempt(note_log_probs, side, model, tensors, "model"))


def write_all(side: Side) -> Facts:
    """Suffix -> what stands in the file."""
    model = side.build()
    return {suffix: attempt(write, side, model, suffix) for suffix in FORMATS}


def attempt(do, *args) -> Facts:
    """What `do` returns, or in one line what it raised."""
    try:
        with quiet():
            return do(*args)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}


def file_of(side: Side, name: str, suffix: str) -> Path:
    """name: the side that writes it."""
    return side.folder / f"{side.job.name}.{name}{suffix}"


def files_to_open(side: Side) -> dict[str, Path]:
    """The other side's files, and the user's own checkpoint where both can open it."""
    other = "ours" if side.is_nemo else "nemo"
    found = {suffix: file_of(side, other, suffix) for suffix in FORMATS}
    if side.job.checkpoint and Path(side.job.checkpoint).suffix in FORMATS:
        found["checkpoint"] = Path(side.job.checkpoint)
    return {kind: path for kind, path in found.items() if path.is_file()}


def write(side: Side, model: nn.Module, suffix: str) -> Facts:
    """Write a file; what stands in it. before: digest of the file that `prepare` wrote."""
    path = file_of(side, side.name, suffix)
    before = sha256(path) if path.is_file() else ""
    path.unlink(missing_ok=True)
    FORMATS[suffix].write(model, path)
    state, config = FORMATS[suffix].read(path, side.is_nemo)
    size = path.stat().st_size
    return {"file": sha256(path), "before": before, "size": size, "state": digests(state), "config": config}


def open_file(side: Side, model: nn.Module, path: Path, tensors: Levels, name: str) -> Facts:
    """Open a file as a user does. changed: in which options its modules differ from those of `model`."""
    opened = FORMATS[path.suffix].open(side, path)
    if side.repairs:
        add_missing_transpose(opened)
    own = {key.rpartition(".")[2] for key in side.job.own_options}  # NeMo's files hold none of them
    facts = {
        "state": digests(opened.state_dict()),
        "config": OmegaConf.to_container(OmegaConf.create(opened.cfg), resolve=True),
        "changed": changes(settings(model, own), settings(opened, own)),
    }
    return facts | attempt(note_log_probs, side, opened, tensors, name)


def note_log_probs(side: Side, model: nn.Module, tensors: Levels, name: str) -> Facts:
    """Put what the model computes of the job's speech and masks, (B, S, V, Q), into `tensors`."""
    levels: Levels = {}
    feed_masks(model, side.job.inputs["masks"][0])
    evaluate(side.case, model, side.job.inputs, levels, Trace(phases=()))
    tensors[f"log_probs/{name}"] = levels["log_prob/log_probs"]
    return {}


def kept_files(side: Side) -> Levels:
    """NeMo's files themselves, compressed, for a record that is kept; but for large ones."""
    if not side.is_nemo:
        return {}
    paths = [path for path in (file_of(side, side.name, suffix) for suffix in FORMATS) if path.is_file()]
    paths = [path for path in paths if path.stat().st_size <= LARGEST_KEPT]
    packed = {path.name: bytearray(zlib.compress(path.read_bytes(), 9)) for path in paths}
    return {FILES + name: torch.frombuffer(content, dtype=torch.uint8) for name, content in packed.items()}


def optimizer_order(side: Side) -> list[str]:
    """Name and shape of each parameter, in the order in which a checkpoint's optimizer states count them."""
    if not side.case.config.get("optim"):
        return []
    model = side.build()
    optimizer, _ = model.setup_optimization(optim_config=side.case.build_optim())
    names = {parameter: name for name, parameter in sorted(model.named_parameters(remove_duplicate=False))[::-1]}
    return [f"{names[p]} {list(p.shape)}" for group in optimizer.param_groups for p in group["params"]]


# compared


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    """What each side made of the other's files, and what stands in ours."""
    mine, theirs, own = ours.measured[NAME], nemo.measured[NAME], ours.job.own_options
    for suffix in FORMATS:
        yield from compare_opened(f"NeMo's {suffix}, opened here", suffix, mine, theirs, theirs, own)
        yield from compare_written(f"our {suffix}", suffix, mine, theirs, own)
        yield from compare_opened(f"our {suffix}, opened by NeMo", suffix, theirs, mine, theirs, own)
    for key, value in own.items():
        yield Row(NAME, f"options of our side: {key}={value}", KNOWN, reason=ONLY_OURS, module=MODULE)
    if ours.job.checkpoint:
        yield from compare_checkpoint(Path(ours.job.checkpoint).name, mine, theirs)
    out_of_order = differing_lines(mine.facts["optimizer"], theirs.facts["optimizer"])
    yield verdict("optimizer states: order of the parameters", out_of_order, "a state is its parameter's by its number")


def compare_opened(
    what: str, suffix: str, opener: Measured, writer: Measured, nemo: Measured, own: Facts
) -> Iterator[Row]:
    """nemo: whose configuration the file must mean, but for our `own` options."""
    written, opened = writer.facts["written"][suffix], opener.facts["opened"].get(suffix)
    if "error" in written:
        yield failed(f"{what}: written", written["error"])
    elif opened is None or opened["file"] not in (written["file"], written["before"]):
        yield Row(NAME, what, NOT_RUN, reason=NEEDS_NEMO if opener is nemo else why_lacking(written))
    elif "state" not in opened:
        yield failed(f"{what}: opened", opened["error"])
    else:
        yield verdict(f"{what}: weights", differing_tensors(opened["state"], writer.facts["model"]), BIT_FOR_BIT)
        config = nemo.facts["written"][suffix].get("config", {})
        yield verdict(f"{what}: configuration", differing_keys(opened["config"], config, own), SAME_MEANING)
        yield verdict(f"{what}: options of its modules", opened["changed"], "as those of the model that was written")
        yield compare_log_probs(f"{what}: log-probabilities", nemo, opener, writer, f"opened/{suffix}")


def why_lacking(written: Facts) -> str:
    """Why a record doesn't carry a file of NeMo's."""
    if written.get("size", 0) > LARGEST_KEPT:
        return f"records carry no files above {LARGEST_KEPT // 2**20} MiB"
    return "the record lacks the file"


def compare_written(what: str, suffix: str, ours: Measured, nemo: Measured, own: Facts) -> Iterator[Row]:
    """What stands in our file, against the model that it is of and against NeMo's file of the same model."""
    written, theirs = ours.facts["written"][suffix], nemo.facts["written"][suffix]
    if "error" in written:
        return  # `compare_opened` says so
    yield verdict(f"{what}: weights in it", differing_tensors(written["state"], ours.facts["model"]), BIT_FOR_BIT)
    if "config" not in theirs:
        yield Row(NAME, f"{what}: configuration in it", NOT_RUN, reason=f"NeMo wrote no file: {theirs['error']}")
        return
    differing = differing_keys(written["config"], theirs["config"], own)
    is_post_conv = theirs["config"].get("mask_position") == "post_conv"
    edited = [line for line in differing if is_post_conv and line.startswith(NEMO_EDITS)]
    yield verdict(f"{what}: configuration in it", [line for line in differing if line not in edited], SAME_MEANING)
    if edited:
        reason = (
            "NeMo edits them in post_conv mode, and edits its own file again on opening; ours says what comes right"
        )
        yield Row(NAME, f"{what}: keys that NeMo edits", KNOWN, len(edited), 0, reason, edited[0], MODULE)


def compare_checkpoint(name: str, mine: Measured, theirs: Measured) -> Iterator[Row]:
    """The user's file, opened by both sides."""
    here, there = mine.facts["opened"].get("checkpoint"), theirs.facts["opened"].get("checkpoint")
    if Path(name).suffix not in FORMATS:
        reason = f"NeMo opens no {Path(name).suffix}: both sides are given the weights that we read from it"
        yield Row(NAME, f"{name}, opened by both", NOT_RUN, reason=reason)
    elif here is None or there is None:
        yield Row(NAME, f"{name}, opened by both", NOT_RUN, reason=f"{NEEDS_NEMO}, and the file")
    elif "state" not in here or "state" not in there:
        yield failed(f"{name}, opened by both", here.get("error") or f"NeMo: {there['error']}")
    else:
        what = f"{name}, opened by both"
        yield verdict(f"{what}: weights", differing_tensors(here["state"], there["state"]), BIT_FOR_BIT)
        kind = "opened/checkpoint"
        yield compare_log_probs(f"{what}: log-probabilities", theirs, mine, theirs, kind, kind)


def compare_log_probs(
    what: str, nemo: Measured, got: Measured, expected: Measured, name: str, other: str = "model"
) -> Row:
    """name, other: which of the log-probabilities of `got` and `expected`."""
    if "error" in nemo.facts:
        return Row(NAME, what, NOT_RUN, reason="NeMo raises for this model", detail=nemo.facts["error"], module=MODULE)
    mine, theirs = (side.tensors.get(f"log_probs/{key}") for side, key in ((got, name), (expected, other)))
    if theirs is None:
        return failed(what, expected.facts.get("error", "not computed"))
    row = compare_tensor("log_prob", f"log_prob/{what}", mine, theirs, theirs.norm().item())
    return replace(row, level=NAME, module=MODULE)


def verdict(what: str, differing: list[str], reason: str) -> Row:
    """Passed where nothing differs; the first line says what does."""
    detail = f"{differing[0]}{f' (and {len(differing) - 1} more)' * (len(differing) > 1)}" if differing else ""
    return Row(NAME, what, FAILED if differing else PASSED, len(differing), 0, reason, detail, MODULE)


def failed(what: str, error: str) -> Row:
    return Row(NAME, what, FAILED, float("inf"), 0, "both sides open both files", error, MODULE)
