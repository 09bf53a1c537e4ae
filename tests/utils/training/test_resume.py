"""Runs that are stopped and resumed, by what their training steps saw: exactly what an uninterrupted run sees."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from data.batching import FixedSize
from data.loader import Batches, ResumableLoader, unchanged
from data.samplers import EpochSampler, shuffled
from parts.batch_types import AudioNoiseBatch
from utils.logging import logger
from utils.training.resume import KNOWS_BATCH_END, align_progress

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BATCHES = 10  # per epoch, of 2 utterances
BY_EPOCHS = {"max_epochs": 3, "val_check_interval": 0.5}
BY_STEPS = {"max_steps": 30, "max_epochs": -1, "val_check_interval": 4, "check_val_every_n_epoch": None}


class Names(Dataset):
    rejected_lines = ()

    def __init__(self, total: int):
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, draw) -> str:
        return f"{draw.epoch}-{draw.index}"

    def collate_fn(self, items: list[str]) -> AudioNoiseBatch:
        return AudioNoiseBatch(sample_id=items)


def make_loader(num_workers=0, rank=0, world_size=1, total=2 * BATCHES) -> ResumableLoader:
    names = Names(total)
    sampler = EpochSampler(
        names, batching=FixedSize(2), order=shuffled(total), seed=0, global_rank=rank, world_size=world_size
    )
    return ResumableLoader(
        Batches(names, sampler),
        batch_size=None,
        sampler=sampler,
        collate_fn=unchanged,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


class Recorder(LightningModule):
    """Keeps what each training step saw: names, optimizer steps so far, epoch. stop_at: raise after so many steps."""

    def __init__(self, stop_at: int | None = None, error: type[BaseException] = RuntimeError, aligned=True, **loader):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple] = []
        self.logged_at: list[int] = []  # step of each training step in the logs
        self.validated_at: list[int] = []  # steps done before each validation
        self.stop_at, self.error, self.aligned = stop_at, error, aligned
        self.loader = make_loader(**loader)

    def training_step(self, batch: AudioNoiseBatch, batch_idx: int) -> torch.Tensor:
        if len(self.seen) == self.stop_at:
            raise self.error
        self.seen.append((*batch.sample_id, self.trainer.global_step, self.trainer.current_epoch))
        self.logged_at.append(self.trainer.fit_loop.epoch_loop._batches_that_stepped)
        return self.weight.square().sum()

    def validation_step(self, batch: int, batch_idx: int) -> None:
        self.validated_at.append(self.trainer.global_step)

    def train_dataloader(self) -> DataLoader:
        return self.loader

    def val_dataloader(self) -> DataLoader:
        return DataLoader([0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        if self.aligned:
            align_progress(checkpoint, self.loader)


class SaveOnce(Callback):
    """A checkpoint at the first time that Lightning calls `hook` when so many batches were seen."""

    def __init__(self, hook: str, batches: int, path: Path):
        self.batches, self.path, self.seen = batches, path, None
        setattr(self, hook, self.save)

    def save(self, trainer: Trainer, model: Recorder, *args) -> None:
        if self.seen is None and len(model.seen) >= self.batches:
            trainer.save_checkpoint(self.path)
            self.seen = len(model.seen)


def fit(
    model: Recorder, options: dict, callback: Callback | None = None, checkpoint: Path | None = None
) -> list[tuple]:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=callback,
        **options,
    )
    try:
        trainer.fit(model, ckpt_path=checkpoint)
    except (RuntimeError, SystemExit, KeyboardInterrupt):
        assert model.stop_at == len(model.seen)
    return model.seen


def rest_after(path: Path, hook: str, batches: int, options: dict, first=None, stop=None, aligned=True, **loader):
    """(what a resumed run sees, what the uninterrupted one sees from there on)"""
    saved = SaveOnce(hook, batches, path / "stopped.ckpt")
    stopped = Recorder(**({"stop_at": batches + 2} if stop is None else stop), **loader)
    fit(stopped, options | (first or {}), saved)
    resumed = fit(Recorder(aligned=aligned, **loader), options, checkpoint=saved.path)
    return resumed, fit(Recorder(**loader), options)[saved.seen :]


SAVED = {
    "after a step": ("on_train_batch_end", 4),
    "after a step of the second epoch": ("on_train_batch_end", 14),
    "after the last step of an epoch": ("on_train_batch_end", 10),
    "at a validation amid an epoch": ("on_validation_end", 4),
    "at the end of an epoch": ("on_train_epoch_end", 10),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("options", [BY_EPOCHS, BY_STEPS], ids=["by epochs", "by steps"])
@pytest.mark.parametrize("saved", SAVED)
def test_a_crashed_run_resumes_with_exactly_the_next_batch(tmp_path, saved, options, accumulate):
    options = options | {"accumulate_grad_batches": accumulate}
    if "max_steps" in options:
        options["max_steps"] = options["max_steps"] // accumulate
    resumed, expected = rest_after(tmp_path, *SAVED[saved], options)
    assert resumed == expected and len(expected) >= 14


@pytest.mark.parametrize("saved", ["after a step", "at the end of an epoch"])
def test_workers_that_read_ahead_change_nothing(tmp_path, saved):
    resumed, expected = rest_after(tmp_path, *SAVED[saved], BY_STEPS, num_workers=2)
    assert resumed == expected and len(expected) >= 14


def test_a_step_that_was_interrupted_is_done_again(tmp_path):
    stop = {"stop_at": 7, "error": KeyboardInterrupt}
    resumed, expected = rest_after(tmp_path, "on_exception", 7, BY_STEPS, stop=stop)
    assert resumed == expected and len(expected) == 23


@pytest.mark.skipif(not KNOWS_BATCH_END, reason="this Lightning logs resumed runs one step too early")
@pytest.mark.parametrize("stop_at", [0, 7, 8, 10, 13])
def test_after_an_interrupted_step_logs_and_validations_come_at_their_steps(tmp_path, stop_at):
    saved = SaveOnce("on_exception", stop_at, tmp_path / "stopped.ckpt")
    fit(Recorder(stop_at=stop_at, error=KeyboardInterrupt), BY_STEPS, saved)
    resumed, uninterrupted = Recorder(), Recorder()
    fit(resumed, BY_STEPS, checkpoint=saved.path)
    fit(uninterrupted, BY_STEPS)
    assert resumed.logged_at == list(range(stop_at, 30))
    assert resumed.validated_at == [step for step in uninterrupted.validated_at if step > stop_at]


@pytest.mark.parametrize("max_steps", [14, 20])
def test_a_longer_run_goes_on_where_max_steps_ended(tmp_path, max_steps):
    resumed, expected = rest_after(tmp_path, "on_train_end", 1, BY_STEPS, first={"max_steps": max_steps}, stop={})
    assert resumed == expected and len(expected) == 30 - max_steps


@pytest.mark.skipif(not KNOWS_BATCH_END, reason="this Lightning logs resumed runs one step too early")
def test_logs_go_on_at_the_step_that_they_reached(tmp_path):
    saved = SaveOnce("on_train_batch_end", 5, tmp_path / "stopped.ckpt")
    fit(Recorder(stop_at=6), BY_STEPS, saved)
    resumed = Recorder()
    fit(resumed, BY_STEPS, checkpoint=saved.path)
    assert resumed.logged_at == list(range(5, 30))


def test_other_data_starts_its_epoch_anew_and_says_so_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    saved = SaveOnce("on_train_batch_end", 14, tmp_path / "stopped.ckpt")
    fit(Recorder(stop_at=16), BY_EPOCHS, saved)
    resumed = fit(Recorder(total=26), BY_EPOCHS, checkpoint=saved.path)
    assert [step[:2] for step in resumed] == [step[:2] for step in fit(Recorder(total=26), BY_EPOCHS)[13:]]
    assert caplog.text.count("utterances was 20, is 26") == 1


def test_limited_epochs_resume_with_the_next_one(tmp_path):
    for options in (BY_EPOCHS, BY_STEPS | {"max_epochs": 4}):
        limited = options | {"limit_train_batches": 6}
        resumed, expected = rest_after(tmp_path, "on_train_epoch_end", 6, limited)
        assert resumed == expected and len(expected) >= 12


def test_lightning_alone_leaves_out_the_rest_of_an_epoch(tmp_path):
    """Why there is `align_progress`; when this fails, Lightning may have learnt it."""
    options = {"options": BY_STEPS, "first": {"max_steps": 14}, "stop": {}}
    resumed, expected = rest_after(tmp_path, "on_train_end", 1, **options, aligned=False)
    assert resumed[0] != expected[0]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("options", [BY_EPOCHS, BY_STEPS], ids=["by epochs", "by steps"])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (3, 2), (2, 5)])
def test_with_another_number_of_ranks_each_sample_comes_once(tmp_path, before, after, options, accumulate):
    options = options | {"accumulate_grad_batches": accumulate, "val_check_interval": 2, "max_epochs": 2}
    if "max_steps" in options:
        options["max_steps"] = 99  # two epochs end before
    seen = []
    for rank in range(before):  # each rank alone: they don't need each other to see their samples
        saved = SaveOnce("on_train_batch_end", 3, tmp_path / f"{rank}.ckpt")
        seen += fit(Recorder(stop_at=3, rank=rank, world_size=before, total=43), options, saved)
    rests = [
        fit(Recorder(rank=rank, world_size=after, total=43), options, checkpoint=tmp_path / "0.ckpt")
        for rank in range(after)
    ]
    assert len({len(rest) for rest in rests}) == 1
    names = [name for step in sum(rests, seen) for name in step[:-2] if not name.endswith("None")]
    assert sorted(names) == sorted(f"{epoch}-{i}" for epoch in range(2) for i in range(43))


def test_lightning_leaves_our_sampler_in_place(tmp_path):
    model = Recorder()
    fit(model, BY_EPOCHS | {"max_epochs": 1})
    assert isinstance(model.loader.sampler, DistributedSampler)
    assert model.trainer.train_dataloader is model.loader and model.trainer.train_dataloader.sampler.epoch == 0


def test_overfitting_shows_the_same_batches_in_each_epoch():
    seen = fit(Recorder(), {"max_epochs": 3, "overfit_batches": 2})
    names = [step[:2] for step in seen]
    assert len(names) == 6 and names[:2] == names[2:4] == names[4:]


def test_a_checkpoint_without_a_loaders_state_is_left_as_it_is():
    for checkpoint in ({}, {"loops": {}}, {"loops": {"fit_loop": {"state_dict": {}}}}):
        before = str(checkpoint)
        align_progress(checkpoint, make_loader())
        assert str(checkpoint) == before
