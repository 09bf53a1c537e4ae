"""Whom to blame for what no module's call shows: gradients, statistics, rates, optimizer steps.

Each level of the computation has a rule, which reads the first row that failed and those that passed before it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.classes.model import ModelPT
from core.optim.optimizers import OPTIMIZERS, build_optimizer
from core.optim.schedulers import SCHEDULERS
from tools.parity.cases import LEVELS
from tools.parity.diagnosis.culprit import OURS, ROW, Culprit, Pair
from tools.parity.rows import FAILED, Row
from tools.parity.trace import EVALUATION, ROOT, TRAINING

SCHEDULE, OPTIMIZER = "optim.sched", "optim"
SECTIONS = {"masking": "mask_processor", "spec_augment": "spec_augmentation"}  # of a config -> the part made of it
CONTAINERS = ("ModuleList", "ModuleDict", "Sequential")  # parts that only hold others
BUILT = ("configuration", "parameters", "initial_weights")  # aspects that show what a module is made of
ONLY_HERE, MISSING = "only here", "missing"  # what a row of a gradient says that one side lacks
PARAMETER_GROUPS = re.compile(  # rows that show which parameters the optimizer was given, in which groups
    r"optimizer states: order.*|built: optim\.param_groups(\.[\d*]+\.params)?"
)


@dataclass(frozen=True)
class Unseen:
    """pair: both traces.  rows: of the comparison.  optim: the section of the config, {} for an encoder."""

    pair: Pair
    rows: Sequence[Row]
    optim: dict = field(default_factory=dict)

    def culprit(self) -> Culprit | None:
        """Of the first row that failed and says whose it is."""
        for row in (row for row in self.rows if row.status == FAILED):
            if row.module:
                return self.of_module(row)
            rule = RULES.get(row.level)
            if isinstance(rule, str):
                return self.blame(row, rule.format(encoder=self.encoder, what=row.what).removesuffix(".") or ROOT)
            if rule is not None:
                return rule(self, row)
        return None

    def misbuilt(self) -> Culprit | None:
        """The module of the first row that says what one is made of, where that isn't NeMo's."""
        row = next((row for row in self.rows if row.status == FAILED and row.module and row.level in BUILT), None)
        return row and self.of_module(row)

    def of_module(self, row: Row) -> Culprit:
        """The module that the row names; of optimizer and schedule, what sets up what differs."""
        if row.module.startswith(SCHEDULE) or (self.optim.get("sched") and row.what.endswith(".lr")):
            return self.schedule(row)
        if row.module.split(".")[0] == OPTIMIZER or is_of_groups(row):
            return self.optimizer(row)
        return self.blame(row, self.holder_of(row.module))

    def holder_of(self, module: str) -> str:
        """The module itself, or of a list of modules the one that has it."""
        while self.pair.class_of(module).endswith(CONTAINERS):
            module = module.rpartition(".")[0] or ROOT
        return module

    def blame(self, row: Row, module: str, class_name: str = "", note: str = "", owner: str = "") -> Culprit:
        cls = class_name or self.pair.class_of(module)
        is_part = module == ROOT or module in self.pair.classes
        is_python = module.startswith(OURS)  # a file of ours, not a part of the model
        owner = owner or class_name or (self.pair.owner_of(module) if is_part else module if is_python else "")
        detail = f"{row.level}/{row.what} {row.detail}" + (f"; {note}" if note else "")
        phase = TRAINING if row.level in LEVELS else ""
        return Culprit(module, cls, phase, row.error, detail, owner=owner, reason=ROW, unit="")

    def failed(self, level: str) -> list[Row]:
        return [row for row in self.rows if row.level == level and row.status == FAILED]

    # rules

    def option(self, row: Row) -> Culprit:
        """The module that a key of the configuration belongs to."""
        section, _, option = row.what.removeprefix("model.").partition(".")
        key = f"{SECTIONS.get(section, section)}.{option}"
        if key.startswith(SCHEDULE):
            return self.schedule(row)
        if key.startswith(OPTIMIZER):
            return self.optimizer(row)
        while key and key not in self.pair.classes:
            key = key.rpartition(".")[0]
        return self.blame(row, key or ROOT)

    def step(self, row: Row) -> Culprit:
        """The encoder's outputs in training are right, and `forward` with the loss: what is left is the short way."""
        return self.blame(row, ROOT, note="forward and loss are right in evaluation: look at the model's `step`")

    def statistics(self, row: Row) -> Culprit:
        """What a batch norm gives is right, what it keeps isn't: momentum, or which frames it counts."""
        return self.blame(row, row.what.rpartition(".")[0], note="its outputs in training are right")

    def gradient(self, row: Row) -> Culprit:
        """Gradients flow backwards: of the parameters whose gradients are wrong, the last one used is first reached."""
        failed = self.failed("gradient")
        names = [row.what for row in failed]
        if not names:
            return self.blame(row, f"{self.encoder}pre_encode")
        if added := [row for row in failed if row.detail == ONLY_HERE]:
            return self.blame(added[0], self.cutting(added), note="NeMo lets no gradient through")
        if self.encoder and self.is_cut_off([row for row in self.rows if row.what.startswith(self.encoder)]):
            return self.blame(failed[0], ROOT, note="no gradient reaches the encoder")
        last = max((name.rpartition(".")[0] for name in names), key=self.place)
        wrong = next(row for row in self.failed("gradient") if row.what.rpartition(".")[0] == last)
        note = "gradients of all that is computed behind it are right, its outputs in training, too"
        if last.startswith("decoder"):
            return self.blame(wrong, "loss", note="no gradient is right")
        return self.blame(wrong, self.losing_gradient(last), note=note)

    def cutting(self, added: Sequence[Row]) -> str:
        """The module that cuts the gradient off in NeMo, where more than one parameter has one here and none there: the
        one around what they have in common; a part of the model itself is frozen instead."""
        modules = [row.what.rpartition(".")[0].split(".") for row in added]
        common = [names[0] for names in zip(*modules) if len(set(names)) == 1]
        return ".".join(common[:-1] or common) or ROOT

    def is_cut_off(self, rows: Sequence[Row]) -> bool:
        """No parameter of these has a gradient, and in NeMo some do."""
        gradients = [row for row in rows if row.level == "gradient"]
        return bool(gradients) and all(row.status == FAILED and row.detail.startswith(MISSING) for row in gradients)

    def losing_gradient(self, last: str) -> str:
        """The module that loses the gradient of the output of `last`, where a wrong gradient of the bias says so, else
        `last`: what takes that output as it is, or the module around."""
        biases = [row for row in self.rows if row.level == "gradient" and row.what == f"{last}.bias"]
        module, calls = self.nearest_called(last), self.pair.nemo.calls
        is_leaf = not any(name.startswith(f"{last}.") for name in self.pair.classes)
        if not is_leaf or any(row.status != FAILED for row in biases):
            return module
        output = next((call.outputs[0] for call in calls if call.module == module), "")
        takers = [call.module for call in calls if output in call.inputs.values() and call.phase == EVALUATION]
        return min(takers, key=len, default=module.rpartition(".")[0] or ROOT)

    def schedule(self, row: Row) -> Culprit:
        name = self.optim.get("sched", {}).get("name", "")
        return self.blame(row, SCHEDULE, class_path(SCHEDULERS.get(name)))

    def optimizer(self, row: Row) -> Culprit:
        name = str(self.optim.get("name", "adam")).lower()
        if any(is_of_groups(failed) for failed in (*self.failed("configuration"), *self.failed("files"))):
            return self.blame(row, OPTIMIZER, GROUPS, "the optimizer has other parameters, or in another order")
        note = "" if row.level == "configuration" else "gradients of the first step and the rates are right"
        return self.blame(row, OPTIMIZER, class_path(OPTIMIZERS.get(name)), note, class_path(build_optimizer))

    def losses_of_steps(self, row: Row) -> Culprit:
        """The first loss comes before any update."""
        return self.step(row) if row.detail.startswith("[0]") else self.optimizer(row)

    # names

    @property
    def encoder(self) -> str:
        """Prefix of the encoder's parts."""
        return "encoder." if "encoder" in self.pair.classes else ""

    def place(self, module: str) -> int:
        """When a module's first call in evaluation, or that of the smallest module around it, ended."""
        called = self.nearest_called(module)
        return next((i for i, call in enumerate(self.pair.nemo.calls) if call.module == called), -1)

    def nearest_called(self, module: str) -> str:
        called = {call.module for call in self.pair.nemo.calls}
        while module and module not in called:
            module = module.rpartition(".")[0]
        return module or ROOT


def is_of_groups(row: Row) -> bool:
    return bool(PARAMETER_GROUPS.fullmatch(row.what))


def class_path(made: Callable | None) -> str:
    return "" if made is None else f"{made.__module__}.{made.__qualname__}"


GROUPS = class_path(ModelPT)  # hands them out
RULES: dict[str, str | Callable[[Unseen, Row], Culprit]] = {  # level -> the module that makes it, or how to find it
    "configuration": Unseen.option,
    "feature": "preprocessor",
    "code": "quantizer",
    "token": "quantizer",
    "log_prob": "decoder",
    "loss": "loss",
    "training_length": "{encoder}pre_encode",
    "training_subsampled": "{encoder}pre_encode",
    "training_layer": "{encoder}layers.{what}",
    "training_encoded": "{encoder}",
    "training_loss": Unseen.step,
    "input_gradient": Unseen.gradient,
    "gradient": Unseen.gradient,
    "batch_norm": Unseen.statistics,
    "learning_rate": Unseen.schedule,
    "step_loss": Unseen.losses_of_steps,
    "parameter": Unseen.optimizer,
}
