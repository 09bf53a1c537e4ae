"""The live cases and a user's own things, held against the NeMo of this environment, in one process.

Runs where NeMo can be imported (`pytest -m nemo tests/parity/test_own_job_against_nemo.py` in its environment).
"""

import importlib.util
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from tools.parity.compare import Comparison, compare_with
from tools.parity.jobs import LIVE_CASES
from tools.parity.nemo_side import measure_job
from tools.parity.own_job import own_job
from tools.parity.records import Job, Record, load, save, start_weights
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN
from tools.parity.side import Side

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo to be installed"),
]

NEMO_RAISES = {"live_vggnet4"}
COMPARED = ("parameters", "computation")
SMALL = [
    "model.encoder.d_model=16", "model.encoder.n_heads=2", "model.encoder.n_layers=1", "model.num_classes=32",
    "model.encoder.subsampling_conv_channels=4",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quiet_nemo():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def compared(job: Job, folder: Path) -> Comparison:
    """As tools.compare_with_nemo does it, but for the processes."""
    asked, answer = folder / "asked.safetensors", folder / "answer.safetensors"
    save(Record(replace(job, aspects=COMPARED), {"side": "nemo"}), asked)
    measure_job(str(asked), str(answer), str(folder))
    return compare_with(load(answer), folder)


def statuses(comparison: Comparison, *wanted: str) -> list[str]:
    return [row.what for row in comparison.rows if row.status in wanted]


@pytest.mark.parametrize("name", [name for name in LIVE_CASES if name not in NEMO_RAISES])
def test_every_level_of_a_live_case_equals_nemos(name, tmp_path):
    comparison = compared(LIVE_CASES[name](), tmp_path)
    assert statuses(comparison, FAILED, NOT_RUN) == []
    assert comparison.passed
    repaired = "post_conv" in name and "plain" not in name
    assert statuses(comparison, KNOWN) == ["NeMo repaired"] * repaired


@pytest.mark.parametrize("name", sorted(NEMO_RAISES))
def test_what_nemo_cant_run_is_a_row_that_isnt_run(name, tmp_path):
    comparison = compared(LIVE_CASES[name](), tmp_path)
    assert statuses(comparison, FAILED, BROKEN) == []
    assert statuses(comparison, NOT_RUN) == ["NeMo raised"]
    assert not comparison.passed


@pytest.mark.parametrize("weights", ["drawn", "given"])
def test_what_nemo_cant_build_is_a_row_that_broke_off(weights, tmp_path):
    job = own_job(overrides=SMALL)
    if weights == "given":
        job = replace(job, start=start_weights(Side("ours", job, tmp_path).fresh()))
    job.case.config["masking"]["a_key_of_tomorrow"] = 1
    comparison = compared(job, tmp_path)
    assert [(row.what, row.status) for row in comparison.rows] == [("NeMo raised", BROKEN)]
    assert "a_key_of_tomorrow" in comparison.rows[0].detail
    assert not comparison.passed


def test_real_weights_and_real_speech_are_the_same_in_both(golden, shared_data, tmp_path):
    speech = shared_data / "speech" / "librispeech" / "test-other"
    audio = [speech / "3331-159605-0004.flac", speech / "2414-128291-0003.flac"]
    comparison = compared(own_job(checkpoint=golden / "9_nemo_file" / "small_pre.nemo", audio=audio), tmp_path)
    assert comparison.failed == []
    assert comparison.passed


def test_what_is_drawn_in_training_makes_no_difference(tmp_path):
    comparison = compared(
        own_job(overrides=[*SMALL, "model.encoder.dropout=0.5", "model.preprocessor.dither=0.1"]), tmp_path
    )
    assert comparison.failed == []


def test_a_comparison_ends_where_it_is_told(tmp_path):
    levels = {row.level for row in compared(own_job(overrides=SMALL, until="layer"), tmp_path).rows}
    assert "layer" in levels
    assert not levels & {"log_prob", "loss", "training_layer", "parameter"}
