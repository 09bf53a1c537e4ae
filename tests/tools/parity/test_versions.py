"""What is said of two versions of NeMo, shown on records of ours in their places; NeMo's own are in tests/parity."""

from dataclasses import replace

import pytest
import torch

from tools.parity.aspects import masks
from tools.parity.aspects.table import RAISED
from tools.parity.known_versions import for_version, noted
from tools.parity.records import Job, Measured, Record, kept, save
from tools.parity.rows import BROKEN, KNOWN, NOT_RUN, PASSED, Row
from tools.parity.side import Side
from tools.parity.versions import differences, version_notes
from tools.side_process import SideFailed

CASE = "model_post_conv_1_book"
ARGUMENTS = {"encoder": {"d_model": {"value": 16, "held": 16}}}


def record(folder, version: str, effect: float = 0.0, variant: str = "", arguments: dict = ARGUMENTS) -> Record:
    """Ours in the place of NeMo `version`: with the short rule of 2.6 where the variant says so."""
    job = replace(for_version(kept(CASE).job, "2.6.0"), aspects=("masks", "computation", "configuration"))
    measured = masks.measure(Side("ours", job, folder))
    tensors = {k.removeprefix(variant): v for k, v in measured.tensors.items() if k.startswith(variant)}
    parts = {
        "masks": Measured(tensors, measured.facts | {"ratio_effect": effect}),
        "computation": kept(CASE).measured["computation"],
        "configuration": Measured(facts={"arguments": arguments}),
    }
    return Record(job, {"nemo_version": version}, parts)


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Record:
    return record(tmp_path_factory.mktemp("new"), "3.0.0")


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Record:
    return record(tmp_path_factory.mktemp("old"), "2.6.0", effect=0.05, variant="short rule/")


def by_what(rows: list[Row]) -> dict[str, Row]:
    assert {row.level for row in rows} == {"NeMo versions"}
    assert {row.status for row in rows} <= {KNOWN, PASSED}  # no difference between versions of NeMo is our failure
    return {row.what: row for row in rows}


def test_equal_records_differ_in_nothing(new):
    rows = by_what(list(differences([new], [new])))
    assert {row.status for row in rows.values()} == {PASSED}
    assert set(rows) == {"masks, overlap", "masks, no overlap", "arguments", "computation"}


@pytest.mark.parametrize("swapped", [False, True])
def test_the_rule_for_short_utterances_is_told_with_numbers(new, old, swapped):
    rows = by_what(list(differences([old], [new]) if swapped else differences([new], [old])))
    short = rows["masks, overlap: short utterances"]
    assert short.status == KNOWN and short.error > short.limit
    assert (
        "2 steps: 0.0% masked instead of 100.0%" if swapped else "2 steps: 100.0% masked instead of 0.0%"
    ) in short.detail
    assert short.reason.startswith("NeMo 2.6.0 holds utterances")
    ratio = rows["masking.max_mask_ratio"]
    assert ratio.reason.startswith("NeMo 2.6.0 masks by it, NeMo 3.0.0 takes it and ignores it")
    assert rows["masks, overlap"].detail == "no difference at 7, 9, 12, 38, 125, 250 steps"


@pytest.mark.parametrize("swapped", [False, True])
def test_a_place_less_for_blocks_is_told(new, old, swapped):
    measured = old.measured["masks"]
    tensors = dict(measured.tensors)
    for tensor in ("overlap/statistics", "overlap/beyond"):
        tensors[tensor] = new.measured["masks"].tensors[f"fewer starts/{tensor}"]
    fewer = replace(old, measured=old.measured | {"masks": replace(measured, tensors=tensors)})
    rows = by_what(list(differences([fewer], [new]) if swapped else differences([new], [fewer])))
    told = rows["masks, overlap: the last start"]
    assert told.reason.startswith("NeMo 2.6.0 begins no block at the last place")
    assert (
        "of last frames masked instead of 0.0%" if swapped else ", 0.0% of last frames masked instead"
    ) in told.detail


def test_a_difference_that_no_version_is_known_for_is_told_too(new, old):
    strange = replace(old, origin={"nemo_version": "2.9.0"})
    rows = by_what(list(differences([new], [strange])))
    assert rows["masks, overlap: something else"].reason == "tools/parity/known_versions.py knows of no reason"


def test_what_only_one_version_takes_is_told(new):
    more = {"encoder": {"d_model": {"value": 16, "held": 17}, "style": {"value": "regular"}}}
    measured = new.measured | {"configuration": Measured(facts={"arguments": more})}
    rows = by_what(list(differences([new], [replace(new, origin={"nemo_version": "9.0"}, measured=measured)])))
    assert rows["encoder.style"].reason == "only NeMo 9.0 takes it"
    assert rows["encoder.d_model"].detail == "17 instead of 16"


def test_of_what_is_computed_otherwise_the_first_level_is_told(new):
    computed = new.measured["computation"]
    changed = {
        name: tensor * 1.1 if name.startswith(("layer/", "loss/")) else tensor
        for name, tensor in computed.tensors.items()
    }
    measured = new.measured | {"computation": replace(computed, tensors=changed)}
    rows = by_what(list(differences([new], [replace(new, measured=measured)])))
    assert [what for what, row in rows.items() if row.status == KNOWN] == [f"{CASE}: layer/0"]


class FakeNemo:
    """Answers with records that are there."""

    def __init__(self, version: str, answers: dict[str, Record]):
        self.nemo_version, self.answers, self.asked = version, answers, []

    def record(self, job: Job) -> Record:
        self.asked.append(job)
        return self.answers[job.name]


def test_notes_ask_for_the_kept_jobs_with_their_weights(new, old, tmp_path):
    save(new, tmp_path / f"{CASE}.safetensors")
    nemo = FakeNemo("2.6.0", {CASE: old})
    assert "masks, overlap: short utterances" in by_what(version_notes(nemo, tmp_path))
    (asked,) = nemo.asked
    assert asked.aspects == ("computation", "configuration", "masks")
    assert all(torch.equal(value, new.job.start[name]) for name, value in asked.start.items())


def test_the_version_of_the_records_has_nothing_to_note(new, tmp_path):
    save(new, tmp_path / f"{CASE}.safetensors")
    nemo = FakeNemo("3.0.0", {})
    assert version_notes(nemo, tmp_path) == []
    assert nemo.asked == []


def test_a_version_that_is_not_known_says_so(new, tmp_path):
    save(new, tmp_path / f"{CASE}.safetensors")
    rows = by_what(version_notes(FakeNemo("2.9.1", {CASE: new}), tmp_path))
    assert rows["NeMo 2.9.1"].reason == "not one of the versions known here (2.6, 3.0): compared as NeMo 3.0"


def test_only_the_cases_asked_for_are_compared(new, old, tmp_path):
    for name in (CASE, "encoder_default"):
        save(new if name == CASE else kept(name), tmp_path / f"{name}.safetensors")
    nemo = FakeNemo("2.6.0", {"encoder_default": replace(kept("encoder_default"), origin={"nemo_version": "2.6.0"})})
    rows = by_what(version_notes(nemo, tmp_path, only="encoder"))
    assert [job.name for job in nemo.asked] == ["encoder_default"] and "masks" not in nemo.asked[0].aspects
    assert " over 1 case: no difference" in rows["computation"].detail


def test_where_no_record_is_asked_for_that_is_said(new, tmp_path):
    save(new, tmp_path / f"{CASE}.safetensors")
    (row,) = version_notes(FakeNemo("2.6.0", {}), tmp_path, only="live")
    assert row.status == NOT_RUN and "--only=live is in the name of none" in row.reason


def test_a_record_at_which_nemos_process_fails_is_told_and_the_others_compared(new, old, tmp_path):
    save(new, tmp_path / f"{CASE}.safetensors")
    save(kept("encoder_default"), tmp_path / "encoder_default.safetensors")

    class Failing(FakeNemo):
        def record(self, job: Job) -> Record:
            if job.name == "encoder_default":
                raise SideFailed("it was killed:\nlast words")
            return super().record(job)

    rows = version_notes(Failing("2.6.0", {CASE: old}), tmp_path)
    (broken,) = [row for row in rows if row.status == BROKEN]
    assert (broken.what, broken.detail) == ("encoder_default", "it was killed: last words")
    assert "masks, overlap: short utterances" in {row.what for row in rows}


def test_an_aspect_in_which_the_other_version_raises_is_told(new, old):
    raising = replace(old, measured=old.measured | {"masks": Measured(facts={RAISED: "ValueError: no"})})
    rows = by_what(list(differences([new], [raising])))
    assert rows[f"{CASE}, masks"].reason == "NeMo 2.6.0 raises" and rows[f"{CASE}, masks"].detail == "ValueError: no"


def test_a_job_of_ones_own_says_what_our_side_is_given_for_another_version():
    job = kept(CASE).job
    (note,) = noted(job, "2.6.0").notes
    assert "masking.max_mask_ratio=0.8" in note and "short utterances" in note
    assert noted(job, "3.0.0") == job
