import json
import math
from dataclasses import asdict

import pytest

from utils.training.skipped_steps import LOUDEST_AUDIO, SkippedStep, UsedBatch, cause_and_remedy


def skipped(*batches: UsedBatch, parameters=()) -> SkippedStep:
    return SkippedStep(1, 7, 0.5, math.nan, math.inf, list(parameters), [asdict(batch) for batch in batches])


SOUND = UsedBatch(0, ["a", "b"], 0.5, 1.0)


@pytest.mark.parametrize(
    "guilty",
    [
        UsedBatch(1, ["c"], 0.5, math.nan),
        UsedBatch(1, ["c"], math.nan, 1.0),
        UsedBatch(1, ["c"], 2 * LOUDEST_AUDIO, 1.0),
    ],
)
def test_the_batch_that_looks_guilty_is_named(guilty):
    assert list(skipped(SOUND, guilty).sample_ids) == ["c"]


def test_where_none_looks_guilty_all_are_named():
    assert list(skipped(SOUND, UsedBatch(1, ["c"], 0.5, 1.0)).sample_ids) == ["a", "b", "c"]


def test_the_loudest_is_no_number_where_a_peak_is_none():
    assert skipped(SOUND, UsedBatch(0, [], 2.0)).loudest == 2.0
    assert math.isnan(skipped(UsedBatch(0, [], math.nan), SOUND).loudest)


def test_an_entry_is_json_that_any_reader_takes():
    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads(json.dumps(skipped(UsedBatch(0, ["a"], -math.inf, 1.5)).entry()), parse_constant=refuse)
    assert (read["loss"], read["grad_norm"], read["step"]) == ("nan", "inf", 7)
    assert read["batches"] == [{"rank": 0, "sample_ids": ["a"], "audio_peak": "-inf", "loss": 1.5}]


def test_the_log_has_a_few_samples_and_the_first_parameter():
    text = str(skipped(UsedBatch(0, list("abcde"), 0.5, 1.0), parameters=["w", "v"]))
    assert text == "loss nan, gradient norm inf, first in w, samples a, b, c and 2 more"
    assert str(skipped(UsedBatch(0, []))).endswith("samples unknown")


@pytest.mark.parametrize(
    ("weight", "loudest", "precision", "cause", "remedy"),
    [
        ("w", math.nan, "32-true", "weights aren't finite (w)", "earlier checkpoint"),
        ("", math.nan, "32-true", "audio is not sound (peak nan)", "repair these samples"),
        ("", 1e5, "32-true", "audio is not sound (peak 1e+05)", "repair these samples"),
        ("", 1.0, "16-mixed", "weights and audio are finite", "trainer.precision=bf16-mixed"),
        ("", 1.0, "32-true", "weights and audio are finite", "lower model.optim.lr"),
    ],
)
def test_the_cause_decides_the_remedy(weight, loudest, precision, cause, remedy):
    told, advised = cause_and_remedy(weight, loudest, precision)
    assert cause in told and remedy in advised
    assert ("bf16" in advised) == (precision == "16-mixed")
