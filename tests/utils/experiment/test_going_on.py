"""Which checkpoint a run goes on from: the one furthest in training that is whole."""

import os
from pathlib import Path

import pytest
import torch

from utils.experiment import going_on
from utils.experiment.exp_config import read_exp_config
from utils.experiment.going_on import checkpoint_to_resume, is_last

RESUME = {"resume_if_exists": True}


def content(steps: int, batches: int | None = None, **changes) -> dict:
    """What `progress` reads of a checkpoint."""
    progress = {"total": {"processed": steps if batches is None else batches}}
    loops = {"fit_loop": {"epoch_loop.batch_progress": progress}}
    weights = {"w": torch.full((64,), float(steps))}
    return {"global_step": steps, "loops": loops, "state_dict": weights, "optimizer_states": [{}], **changes}


def save(folder: Path, name: str, what: dict | int, age_seconds: int = 0) -> Path:
    path = folder / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content(what) if isinstance(what, int) else what, path)
    os.utime(path, (1e9 - age_seconds, 1e9 - age_seconds))
    return path


def truncate(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def choice(folder: Path, **options) -> str | None:
    return checkpoint_to_resume(read_exp_config(RESUME | options), folder)


def test_the_checkpoint_furthest_in_training_is_taken_whatever_its_name_and_time(tmp_path):
    save(tmp_path, "m--val_loss=1.0-step=10.ckpt", 10)
    save(tmp_path, "m--last.ckpt", 20, age_seconds=100)
    save(tmp_path, "m--last-v1.ckpt", 15)
    assert choice(tmp_path).endswith("m--last.ckpt")
    save(tmp_path, "m--val_loss=0.9-step=30.ckpt", 30, age_seconds=200)  # killed before the last one was written
    assert choice(tmp_path).endswith("step=30.ckpt")


def test_of_equal_steps_the_one_with_more_batches_and_then_the_last_is_taken(tmp_path):
    save(tmp_path, "a-step=20.ckpt", content(20, batches=41))
    save(tmp_path, "a-last.ckpt", content(20, batches=40))
    assert choice(tmp_path).endswith("a-step=20.ckpt")
    save(tmp_path, "a-last.ckpt", content(20, batches=41), age_seconds=9)
    assert choice(tmp_path).endswith("a-last.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_last_is_said_and_the_one_before_it_is_taken(tmp_path, log, share):
    save(tmp_path, "m--step=10.ckpt", 10)
    last = truncate(save(tmp_path, "m--last.ckpt", 20), share)
    assert choice(tmp_path).endswith("m--step=10.ckpt")
    assert f"left out, going on from m--step=10.ckpt instead: {last}" in log.text
    assert not last.exists() and last.with_name("m--last.ckpt.damaged").exists()
    assert "after 10 steps" in log.text


def test_one_that_lost_a_byte_in_the_middle_is_left_out(tmp_path, log):
    save(tmp_path, "m--step=10.ckpt", 10)
    last = save(tmp_path, "m--last.ckpt", 20)
    data = bytearray(last.read_bytes())
    place = data.index(torch.full((8,), 20.0).numpy().tobytes())
    data[place] ^= 0xFF
    last.write_bytes(data)
    assert choice(tmp_path).endswith("m--step=10.ckpt") and "m--last.ckpt" in log.text


@pytest.mark.parametrize("ignore", [True, False])
def test_a_run_never_starts_anew_in_silence_where_no_checkpoint_is_whole(tmp_path, ignore):
    paths = [truncate(save(tmp_path, name, 5)) for name in ("m--last.ckpt", "m--step=5.ckpt")]
    with pytest.raises(
        ValueError, match=r"can't go on from any of its 2 checkpoints: .*m--.*; bring a whole"
    ) as raised:
        choice(tmp_path, resume_ignore_no_checkpoint=ignore)
    assert all(str(path) in str(raised.value) and path.exists() for path in paths) and "\n" not in str(raised.value)


def test_a_file_that_is_being_written_is_no_checkpoint(tmp_path):
    save(tmp_path, "m--last.ckpt.1f2e3d4c.unfinished", 20)
    assert choice(tmp_path, resume_ignore_no_checkpoint=True) is None
    with pytest.raises(FileNotFoundError, match="resume_ignore_no_checkpoint=true to start anew"):
        choice(tmp_path)


def test_weights_alone_are_no_checkpoint_to_go_on_from(tmp_path, log):
    weights = {key: value for key, value in content(20).items() if key != "optimizer_states"}
    only_weights = save(tmp_path, "m--last.ckpt", weights)
    with pytest.raises(ValueError, match=r"m--last\.ckpt has weights and no state .*save_weights_only=true.*init_from"):
        choice(tmp_path)
    save(tmp_path, "m--step=10.ckpt", 10)
    assert choice(tmp_path).endswith("step=10.ckpt") and "save_weights_only" in log.text and only_weights.exists()
    with pytest.raises(ValueError, match="save_weights_only"):
        choice(tmp_path / "new", resume_from_checkpoint=str(only_weights), resume_ignore_no_checkpoint=True)


def test_a_named_file_that_no_run_left_is_refused_by_its_key_with_what_to_do(tmp_path):
    (tmp_path / "m.nemo").write_bytes(b"an archive")
    with pytest.raises(ValueError, match=r"exp_manager\.resume_from_checkpoint: .*m\.nemo .*model\.restore_from$"):
        choice(tmp_path / "new", resume_from_checkpoint=str(tmp_path / "m.nemo"))


def test_a_file_of_another_kind_is_no_checkpoint_of_a_run(tmp_path):
    other = save(tmp_path, "weights.ckpt", {"layer.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=rf"{other.name} is no checkpoint of a training run"):
        choice(tmp_path)


def test_a_run_goes_on_from_its_own_checkpoint_rather_than_from_the_one_it_started_from(tmp_path):
    first = save(tmp_path / "first", "m--last.ckpt", 100)
    options = {"resume_from_checkpoint": str(first), "resume_ignore_no_checkpoint": True}
    assert choice(tmp_path / "second", **options) == str(first)
    own = save(tmp_path / "second", "m--last.ckpt", 3)
    assert choice(tmp_path / "second", **options) == str(own)
    assert choice(tmp_path / "second", **options | {"resume_if_exists": False}) == str(first)


def test_what_lightning_wrote_for_a_requeued_job_counts_too(tmp_path):
    save(tmp_path, "m--last.ckpt", 20)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(save(tmp_path / "x", "y.ckpt", 25).read_bytes())
    assert choice(tmp_path).endswith("hpc_ckpt_1.ckpt")


def test_of_many_best_checkpoints_the_newest_files_are_looked_at(tmp_path, monkeypatch):
    """A file is read wholly to be looked at, so a run that keeps hundreds isn't kept waiting."""
    for step in range(12):
        save(tmp_path, f"m-step={step}.ckpt", step, age_seconds=12 - step)
    looked_at, progress = [], going_on.progress
    monkeypatch.setattr(going_on, "progress", lambda path: looked_at.append(path) or progress(path))
    assert choice(tmp_path).endswith("m-step=11.ckpt") and len({*looked_at}) == 5
    for step in range(5, 12):
        truncate(tmp_path / "checkpoints" / f"m-step={step}.ckpt")
    assert choice(tmp_path).endswith("m-step=4.ckpt")


@pytest.mark.parametrize("name", ["last", "run-last", "run-last-v1", "hpc_ckpt_3"])
def test_a_last_checkpoint_is_known_by_its_name(name):
    assert is_last(f"folder/{name}.ckpt") and not is_last(f"last/{name}b.ckpt") and not is_last("run-blast.ckpt")
