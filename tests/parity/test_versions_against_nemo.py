"""Two versions of NeMo against each other, and this project against the other one.

Runs where NEST_SSL_OTHER_NEMO_PYTHON is the Python of an environment with another NeMo than that of the records:
NEST_SSL_OTHER_NEMO_PYTHON=PATH pytest -m nemo tests/parity/test_versions_against_nemo.py
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tools.parity.compare import compare_with
from tools.parity.jobs import kept_job
from tools.parity.known_versions import for_version, series
from tools.parity.records import Record, kept
from tools.parity.rows import KNOWN
from tools.parity.sources import LiveNemo
from tools.parity.versions import version_notes

OTHER = os.environ.get("NEST_SSL_OTHER_NEMO_PYTHON")
pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(not OTHER, reason="needs $NEST_SSL_OTHER_NEMO_PYTHON, the Python of another NeMo"),
]
MODELS = ("model_pre_conv_1_book", "model_post_conv_1_book")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("versions")


@pytest.fixture(scope="module")
def nemo(folder):
    with LiveNemo(OTHER, folder) as nemo:
        yield nemo


@pytest.fixture(scope="module")
def records(nemo) -> dict[str, Record]:
    """Masks and computation of two models, by the other NeMo."""
    jobs = (for_version(kept_job(name), nemo.nemo_version) for name in MODELS)
    return {job.name: nemo.record(replace(job, aspects=("masks", "computation"))) for job in jobs}


@pytest.mark.parametrize("name", MODELS)
def test_our_side_computes_and_masks_as_that_version(name, records, folder):
    comparison = compare_with(records[name], folder)
    assert comparison.failed == []
    assert comparison.passed


def test_the_rule_for_short_utterances_is_what_makes_that_so(nemo, records, folder):
    record = records[MODELS[0]]
    plain = replace(record, job=replace(record.job, own_options={}))
    differing = [row.what for row in compare_with(plain, folder).failed]
    assert ("overlap, short utterances" in differing) == (series(nemo.nemo_version) == "2.6")


def test_what_differs_from_the_records_is_what_is_known_of_that_version(nemo):
    rows = version_notes(nemo)
    notes = {row.what for row in rows if row.status == KNOWN}
    if nemo.nemo_version == kept(MODELS[0]).origin["nemo_version"]:
        assert rows == []
    if series(nemo.nemo_version) == "2.6":
        assert notes == {
            "masking.max_mask_ratio",
            "masks, overlap: short utterances",
            "masks, overlap: the last start",
            "masks, no overlap: short utterances",
            "masks, no overlap: blocks that shrink",
            "encoder.att_chunk_context_size",
            "encoder.conv_context_style",
        }
