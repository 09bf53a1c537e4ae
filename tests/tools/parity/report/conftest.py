"""Comparisons made by hand: passed, failed, raised, with known differences, not run, not finite, empty."""

from collections.abc import Callable

import pytest
import torch

from tools.benchmark.figures import Figure
from tools.parity.aspects import computation
from tools.parity.cases import Case
from tools.parity.compare import Comparison
from tools.parity.diagnosis.culprit import Culprit
from tools.parity.records import Job, Measured, Record
from tools.parity.report.summary import Report
from tools.parity.rows import FAILED, KNOWN, NOT_RUN, PASSED, Row
from tools.parity.trace import EVALUATION

HOSTILE = "<script>alert('&')</script>[bold]$x_1$|\u2264\u4e2d\x1b[31m"  # a name that a config or a path may have
BLOCK = "parts.submodules.conformer_block.ConformerBlock"


@pytest.fixture
def compared() -> Callable[..., Comparison]:
    """`compared(rows, name=..., config=..., **of the comparison)`"""

    def make(rows: list[Row], name: str = "case", config: dict | None = None, **more) -> Comparison:
        job = Job(name, Case("models.ssl_models.Model", config or {"a": 1}), ("computation",))
        losses = {side: torch.tensor([4.0, 3.0, slip]) for side, slip in (("ours", 2.5), ("nemo", 2.0))}
        records = {
            side: Record(
                job,
                {"side": side, "seed": "2408"} | ({"nemo_version": "3.0.0"} if side == "nemo" else {}),
                {computation.NAME: Measured({"step_loss/losses": losses[side]})},
            )
            for side in losses
        }
        return Comparison(records["ours"], records["nemo"], rows, **more)

    return make


@pytest.fixture
def comparisons(compared) -> list[Comparison]:
    layers = [Row("layer", str(i), PASSED, 10.0 ** (i - 8), 1e-4, "rounding") for i in range(3)]
    gradients = [Row("gradient", f"layers.{i}.weight", PASSED, 0.0, 5e-3, "kinks") for i in range(3)]
    wrong = Row("layer", "0", FAILED, 0.5, 1e-4, "rounding", "[0, 3, 2]: 1.5 instead of 0.25")
    culprit = Culprit("layers.0", BLOCK, EVALUATION, 0.5, "[0, 3, 2]: 1.5 instead of 0.25", owner=BLOCK)
    infinite = Row("loss", "loss", FAILED, float("inf"), 1e-5, "a mean", "missing instead of shape ()")
    no_number = Row("gradient", "x", FAILED, float("nan"), 5e-3, "kinks", "[0]: nan instead of 1")
    keys = [
        Row("configuration", "model.same", PASSED, reason="same"),
        Row("configuration", HOSTILE, KNOWN, reason="only here, on purpose", detail="None; NeMo has no such option"),
    ]
    raised = Row("computation", "ours raised", FAILED, reason="both sides must run", detail="ValueError: no")
    return [
        compared([*keys, *layers, *gradients], "all_passed"),
        compared([wrong, *gradients], "a_layer_differs", culprit=culprit, cause="block order"),
        compared([infinite, no_number], "not_finite"),
        compared([raised], HOSTILE, config={HOSTILE: HOSTILE}),
        compared([Row("data", "tarred", NOT_RUN, reason="NeMo 2.6.0 has no such thing")], "only_not_run"),
    ]


@pytest.fixture
def report(comparisons) -> Report:
    """All of it, with speed and versions."""
    speed = [
        Figure("training step", "s", False, ours=[1.0, 1.1, 0.9], nemo=[2.0, 2.2, 2.1], note="CPU"),
        Figure("data", "items/s", True, ours=[5.0]),
    ]
    versions = [Row("versions", "max_mask_ratio", KNOWN, reason="NeMo 2.6.0 uses it", detail="0.8 instead of None")]
    return Report(comparisons, f"records of NeMo 3.0.0 in {HOSTILE}/", speed, versions)


@pytest.fixture
def passing(comparisons) -> Report:
    return Report([comparisons[0], comparisons[4]], "records of NeMo 3.0.0")
