"""Whom to blame for what no module's call shows: gradients, statistics, rates, optimizer steps.

Each level of the computation has a rule, which reads the first row that failed and those that passed before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.optim.optimizers import OPTIMIZERS
from core.optim.schedulers import SCHEDULERS
from tools.parity.cases import LEVELS
from tools.parity.diagnosis.culprit import ROW, Culprit, Pair
from tools.parity.rows import FAILED, Row
from tools.parity.trace import EVALUATION, ROOT, TRAINING

SCHEDULE, OPTIMIZER = "optim.sched", "optim"


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
                return self.blame(row, row.module)
            if row.level in RULES:
                return RULES[row.level](self, row)
        return None

    def blame(self, row: Row, module: str, class_name: str = "", note: str = "") -> Culprit:
        cls = class_name or self.pair.class_of(module)
        is_part = module == ROOT or module in self.pair.classes
        owner = class_name or (self.pair.owner_of(module) if is_part else "")
        detail = f"{row.level}/{row.what} {row.detail}" + (f"; {note}" if note else "")
        phase = TRAINING if row.level in LEVELS else ""
        return Culprit(module, cls, phase, row.error, detail, owner=owner, reason=ROW, unit="")

    def failed(self, level: str) -> list[Row]:
        return [row for row in self.rows if row.level == level and row.status == FAILED]

    # rules

    def option(self, row: Row) -> Culprit:
        """The module that a key of the configuration belongs to."""
        key = row.what.removeprefix("model.")
        if key.startswith(SCHEDULE):
            return self.schedule(row)
        if key.startswith(OPTIMIZER):
            return self.optimizer(row)
        while key and key not in self.pair.classes:
            key = key.rpartition(".")[0]
        return self.blame(row, key or ROOT)

    def preprocessor(self, row: Row) -> Culprit:
        return self.blame(row, "preprocessor")

    def quantizer(self, row: Row) -> Culprit:
        return self.blame(row, "quantizer")

    def decoder(self, row: Row) -> Culprit:
        return self.blame(row, "decoder")

    def loss(self, row: Row) -> Culprit:
        return self.blame(row, "loss")

    def subsampling(self, row: Row) -> Culprit:
        return self.blame(row, f"{self.encoder}pre_encode")

    def layer(self, row: Row) -> Culprit:
        return self.blame(row, f"{self.encoder}layers.{row.what}")

    def whole_encoder(self, row: Row) -> Culprit:
        return self.blame(row, self.encoder.removesuffix(".") or ROOT)

    def step(self, row: Row) -> Culprit:
        """The encoder's outputs in training are right, and `forward` with the loss: what is left is the short way."""
        return self.blame(row, ROOT, note="forward and loss are right in evaluation: look at the model's `step`")

    def statistics(self, row: Row) -> Culprit:
        """What a batch norm gives is right, what it keeps isn't: momentum, or which frames it counts."""
        return self.blame(row, row.what.rpartition(".")[0], note="its outputs in training are right")

    def gradient(self, row: Row) -> Culprit:
        """Gradients flow backwards: of the parameters whose gradients are wrong, the last one used is first reached."""
        names = [row.what for row in self.failed("gradient")]
        if not names:
            return self.blame(row, f"{self.encoder}pre_encode")
        last = max((name.rpartition(".")[0] for name in names), key=self.place)
        wrong = next(row for row in self.failed("gradient") if row.what.rpartition(".")[0] == last)
        note = "gradients of all that is computed behind it are right, its outputs in training, too"
        if last.startswith("decoder"):
            return self.blame(wrong, "loss", note="no gradient is right")
        return self.blame(wrong, self.losing_gradient(last), note=note)

    def losing_gradient(self, last: str) -> str:
        """The module that loses the gradient of the output of `last`, where a wrong gradient of the bias says so, else
        `last`: what takes that output as it is, or the module around."""
        biases = [row for row in self.rows if row.level == "gradient" and row.what == f"{last}.bias"]
        module, calls = self.nearest_called(last), self.pair.nemo.calls
        is_leaf = not any(name.startswith(f"{last}.") for name in self.pair.classes)
        if not is_leaf or any(row.status != FAILED for row in biases):
            return module
        output = next(call.outputs[0] for call in calls if call.module == module)
        takers = [call.module for call in calls if output in call.inputs.values() and call.phase == EVALUATION]
        return min(takers, key=len, default=module.rpartition(".")[0] or ROOT)

    def schedule(self, row: Row) -> Culprit:
        name = self.optim.get("sched", {}).get("name", "")
        return self.blame(row, SCHEDULE, class_path(SCHEDULERS.get(name)))

    def optimizer(self, row: Row) -> Culprit:
        name = str(self.optim.get("name", "adam")).lower()
        note = "" if row.level == "configuration" else "gradients of the first step and the rates are right"
        return self.blame(row, OPTIMIZER, class_path(OPTIMIZERS.get(name)), note)

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


def class_path(cls: type | None) -> str:
    return "" if cls is None else f"{cls.__module__}.{cls.__qualname__}"


RULES: dict[str, Callable[[Unseen, Row], Culprit]] = {  # level -> rule
    "configuration": Unseen.option,
    "feature": Unseen.preprocessor,
    "code": Unseen.quantizer,
    "token": Unseen.quantizer,
    "log_prob": Unseen.decoder,
    "loss": Unseen.loss,
    "training_length": Unseen.subsampling,
    "training_subsampled": Unseen.subsampling,
    "training_layer": Unseen.layer,
    "training_encoded": Unseen.whole_encoder,
    "training_loss": Unseen.step,
    "input_gradient": Unseen.gradient,
    "gradient": Unseen.gradient,
    "batch_norm": Unseen.statistics,
    "learning_rate": Unseen.schedule,
    "step_loss": Unseen.losses_of_steps,
    "parameter": Unseen.optimizer,
}
