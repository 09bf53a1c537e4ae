"""Records of NeMo: read one, build our model with its weights, measure it."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tools.parity.cases import OURS, Case
from tools.parity.levels import Levels, measure

RECORDS = Path(__file__).resolve().parents[2] / "tests" / "parity" / "records"
START = "start/"  # prefix of the start weights


@dataclass(frozen=True)
class Record:
    """What NeMo computed for `case` from `start` and `inputs`; `origin`: versions, seed and script that made it."""

    case: Case
    origin: dict[str, str]
    inputs: Levels
    start: dict[str, Tensor]
    levels: Levels

    def measure_ours(self) -> Levels:
        """The same levels from our model with NeMo's weights."""
        module = self.case.build(OURS)
        copy_weights(self.start, module)
        return measure(self.case, module, self.inputs)


def read_record(name: str) -> Record:
    tensors, origin = read(name)
    case = Case(origin.pop("class_path"), json.loads(origin.pop("config")))
    inputs, _ = read(origin.pop("inputs"))
    start = {key.removeprefix(START): tensor for key, tensor in tensors.items() if key.startswith(START)}
    levels = {key: tensor for key, tensor in tensors.items() if not key.startswith(START)}
    return Record(case, origin, inputs, start, levels)


def read(name: str) -> tuple[Levels, dict[str, str]]:
    with safe_open(RECORDS / f"{name}.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 (has no iterator)


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
