"""What was lost, changed or put among the kept records since NeMo made them is told in one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tools.parity import kept_records
from tools.parity.cases import CASES
from tools.parity.jobs import kept_job
from tools.parity.kept_records import SUMS, keep, kept_paths, load_kept, read_sums, write_sums
from tools.parity.records import Measured, Record, description_of

FIRST, SECOND = "encoder_default", "encoder_dw_striding2"
ORIGIN = {"side": "nemo", "nemo_version": "3.0.0"}


def record_of(name: str, **changes) -> Record:
    job = kept_job(name)
    measured = {aspect: Measured({"x": torch.zeros(1)}) for aspect in job.aspects}
    return replace(Record(job, ORIGIN, measured), **changes)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in (SECOND, FIRST):
        keep(record_of(name), tmp_path)
    return tmp_path


def with_sums(folder: Path) -> Path:
    """The digests written anew, so that the records themselves have to be looked at."""
    write_sums(folder, {path.name: kept_records.sha256(path) for path in folder.glob("*.safetensors")})
    return folder


def test_what_was_kept_is_there_and_readable_as_other_files(folder):
    assert [path.stem for path in kept_paths(folder)] == [FIRST, SECOND]
    assert list(read_sums(folder)) == [f"{FIRST}.safetensors", f"{SECOND}.safetensors"]
    assert load_kept(folder / f"{FIRST}.safetensors").job.name == FIRST
    assert (folder / f"{FIRST}.safetensors").stat().st_mode == (folder / SUMS).stat().st_mode


def test_a_record_made_anew_replaces_its_digest(folder):
    keep(record_of(FIRST, origin=ORIGIN | {"seed": "1"}), folder)
    assert len(kept_paths(folder)) == 2


def flip_a_bit(folder: Path) -> None:
    path = folder / f"{FIRST}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    path = folder / f"{FIRST}.safetensors"
    path.write_bytes(path.read_bytes()[:50])


CHANGES = {
    "a flipped bit": flip_a_bit,
    "cut": cut,
    "lost": lambda folder: (folder / f"{FIRST}.safetensors").unlink(),
    "added": lambda folder: shutil.copy(folder / f"{FIRST}.safetensors", folder / "model.safetensors"),
    "without digests": lambda folder: (folder / SUMS).unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_was_changed_is_refused(change, folder):
    CHANGES[change](folder)
    with pytest.raises(ValueError, match="make the records anew with --record") as error:
        kept_paths(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": ORIGIN | {"side": "ours"}}, "is not of a NeMo"),
        ({"origin": {"side": "nemo"}}, "is not of a NeMo"),
        ({"measured": {}}, "does not hold the aspects of its job"),
        ({"job": replace(kept_job(FIRST), name="another")}, "is of the job another"),
    ],
)
def test_what_a_record_says_of_itself_is_checked_beside_its_digest(changes, message, folder):
    record = record_of(FIRST, **changes)
    keep(record, folder)
    (folder / f"{record.job.name}.safetensors").replace(folder / f"{FIRST}.safetensors")
    with pytest.raises(ValueError, match=message):
        kept_paths(with_sums(folder))


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """The project's own folder."""
    monkeypatch.setattr(kept_records, "RECORDS", tmp_path.resolve())
    for name in CASES:
        keep(record_of(name), tmp_path)
    return tmp_path


def test_the_projects_own_records_are_of_all_cases_of_today(own):
    assert [path.stem for path in kept_paths(own)] == sorted(CASES)
    (own / f"{FIRST}.safetensors").unlink()
    with pytest.raises(ValueError, match=f"has not one record of each case .*{FIRST}"):
        kept_paths(with_sums(own))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"job": replace(kept_job(FIRST), until="length")}, r"another job than today's \(until\)"),
        ({"job": replace(kept_job(FIRST), aspects=()), "measured": {}}, r"another job than today's \(aspects\)"),
        ({"raised": "TypeError"}, r"another job than today's \(raised\)"),
    ],
)
def test_a_record_of_another_job_is_none_of_the_projects_own(changes, message, own):
    keep(record_of(FIRST, **changes), own)
    with pytest.raises(ValueError, match=message):
        kept_paths(own)


def test_a_record_tells_its_job_as_it_was_asked(folder):
    path = folder / f"{FIRST}.safetensors"
    assert description_of(path)["job"] == kept_records.described(kept_job(FIRST))
    save_file(load_file(path), path, {"record": json.dumps({"job": {}})})
    with pytest.raises(ValueError, match="is no record that --record made"):
        load_kept(path)
