import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Subset

from parts.batch_types import BadSample
from parts.preprocessing.drawn_audio import LastTrial
from tests.two_ranks import two_ranks
from tests.utils.tiny_run import Batch, TinyModel
from utils.exp_manager import exp_manager
from utils.logging import logger
from utils.training import rejects
from utils.training.rejects import Rejects, Tally
from utils.training.rejects_list import entry_of, log_reject
from utils.training.resume import KNOWS_BATCH_END

BAD = BadSample("a.wav", "unreadable", "not audio", "train.json", 3)
NOISE = BadSample("hum.wav", "noise_silent", "no energy", "noise.json", 1)
LINE = BadSample("", "bad_entry", "no JSON", "train.json", 7)


@dataclass
class LoadedBatch(Batch):
    rejected: tuple[BadSample, ...] = ()
    turns: int = 2


@dataclass
class Emptied:
    """A batch of which nothing was left."""

    audio: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    audio_len: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    rejected: tuple[BadSample, ...] = ()
    turns: int = 0

    def __len__(self) -> int:
        return 0


def bad(number: int, reason: str = "unreadable") -> BadSample:
    return BadSample(f"{number}.wav", reason, "why", "train.json", number)


def batch(*rejected: BadSample, turns: int = 2) -> LoadedBatch:
    return LoadedBatch(torch.randn(2, 3), torch.tensor([16000, 16000]), rejected, turns)


class Model(TinyModel):
    """Trains on given batches; `lines`, `max_share`: what the loader knows; `stop_at`: a batch of training."""

    def __init__(self, training, validation=(), lines=(), max_share=1.0, stop_at=None):
        super().__init__(validate=bool(validation))
        self.data, self.lines, self.max_share, self.stop_at = (training, validation), lines, max_share, stop_at

    def training_step(self, batch, batch_idx):
        if batch_idx == self.stop_at:
            raise KeyboardInterrupt
        if len(batch) == 0:
            return sum(p.sum() for p in self.parameters()) * 0.0
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        pass

    test_step = validation_step

    def train_dataloader(self):
        loader = DataLoader(self.data[0], batch_size=None)
        loader.rejected_lines, loader.max_rejected_share = self.lines, self.max_share
        return loader

    def val_dataloader(self):
        return DataLoader(self.data[1], batch_size=None)

    test_dataloader = val_dataloader


@pytest.fixture(autouse=True)
def fresh_log(caplog):
    """Each test hears what an earlier one heard too."""
    once = next(one for one in logger.filters if hasattr(one, "seen"))
    once.seen.clear()
    caplog.set_level(logging.INFO, logger="nest_ssl")


def new_trainer(*callbacks, **options) -> Trainer:
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(callbacks=[*callbacks], **defaults | quiet | options)


def fit(model: Model, folder: Path | None = None, **options) -> Trainer:
    trainer = new_trainer(Rejects(folder), **options)
    trainer.fit(model)
    return trainer


def listed(folder: Path, name: str = "rejects.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


# the list


def test_each_reject_of_a_run_is_listed_once(tmp_path):
    fit(Model([batch(BAD), batch(BAD, NOISE)]), tmp_path)
    assert listed(tmp_path) == [entry_of(BAD), entry_of(NOISE)]


def test_the_same_file_in_another_line_is_another_entry(tmp_path):
    fit(Model([batch(BAD), batch(BAD._replace(line=4))]), tmp_path)
    assert [entry["line"] for entry in listed(tmp_path)] == [3, 4]


def test_a_run_that_goes_on_repeats_nothing_that_any_rank_listed(tmp_path):
    fit(Model([batch(bad(1))]), tmp_path)
    (tmp_path / "rejects_rank1.jsonl").write_text(json.dumps(bad(2)._asdict()) + "\n", encoding="utf-8")
    fit(Model([batch(bad(1), bad(2), bad(3), turns=3)]), tmp_path)
    assert [entry["line"] for entry in listed(tmp_path)] == [1, 3]


def test_without_a_reject_there_is_no_list(tmp_path):
    fit(Model([batch()]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_manifest_lines_are_listed_before_the_first_batch(tmp_path):
    fit(Model([batch(BAD)], lines=(LINE,)), tmp_path)
    assert [entry["reason"] for entry in listed(tmp_path)] == ["bad_entry", "unreadable"]


def test_manifest_lines_are_found_in_a_wrapped_data_set(tmp_path):
    class Lines(list):
        rejected_lines = (LINE,)

    class Wrapped(Model):
        def train_dataloader(self):
            return DataLoader(Subset(Lines(self.data[0]), [0]), batch_size=None)

    fit(Wrapped([batch()]), tmp_path)
    assert listed(tmp_path) == [LINE._asdict()]


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_evaluations_are_listed_and_summed_up_too(tmp_path, caplog, verb):
    trainer = new_trainer(Rejects(tmp_path))
    getattr(trainer, verb)(Model([], validation=[batch(BAD), batch()]), verbose=False)
    assert listed(tmp_path) == [BAD._asdict()]
    name, section = {"validate": ("val", "validation_ds"), "test": ("test", "test_ds")}[verb]
    assert trainer.callback_metrics[f"{name}_rejected_samples"] == 1
    assert f"model.{section}: left out 1 of 4 samples: 1 unreadable; see " in caplog.text


# what is said


def test_each_reject_is_said_once(caplog):
    fit(Model([batch(BAD, NOISE)] * 3, validation=[batch(BAD)]))
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said == [
        "left out: a.wav: unreadable (not audio), train.json:3",
        "noise left out: hum.wav: noise_silent (no energy), noise.json:1",
    ]


def test_what_the_data_set_has_said_isnt_said_again(caplog):
    log_reject(BAD)
    fit(Model([batch(BAD)]))
    assert caplog.text.count("left out: a.wav") == 1


@pytest.mark.parametrize("stop_at", [None, 2], ids=["end", "ctrl-c"])
def test_training_ends_with_one_summary(tmp_path, caplog, stop_at):
    model = Model([batch(bad(1)), batch(bad(2, "silent")), batch(bad(3), NOISE)], lines=(LINE,), stop_at=stop_at)
    try:
        fit(model, tmp_path)
    except SystemExit:
        assert stop_at
    expected = (
        "left out 3 of 6 samples: 2 unreadable, 1 silent; of what is mixed in: 1 noise_silent; "
        f"of manifest lines: 1 bad_entry; see {tmp_path / 'rejects.jsonl'}"
    )
    assert [text for text in caplog.messages if " of " in text] == [expected]


def test_a_clean_run_says_so(caplog):
    fit(Model([batch(), batch()]))
    assert "left out none of 4 samples" in caplog.messages


def test_batches_of_another_data_set_are_let_through(caplog):
    trainer = new_trainer(Rejects())
    trainer.fit(TinyModel(validate=False))
    assert trainer.global_step == 4 and "left out" not in caplog.text


# what is counted


def test_samples_are_counted_and_noise_isnt():
    trainer = fit(Model([batch(bad(1), NOISE), batch(bad(1))], validation=[batch(bad(2), bad(3)), batch(NOISE)]))
    assert trainer.callback_metrics["train_rejected_samples"] == 2
    assert trainer.callback_metrics["val_rejected_samples"] == 2


def test_each_validation_counts_anew():
    trainer = fit(Model([batch()] * 2, validation=[batch(BAD)]), val_check_interval=1)
    assert trainer.callback_metrics["val_rejected_samples"] == 1


def test_impulse_responses_dont_count_as_samples():
    tally = Tally(reasons=Counter({"rir_unreadable": 3, "noise_empty": 2, "empty": 1}))
    assert tally.samples == {"empty": 1}


# what stops a run


def test_too_many_rejects_stop_the_run_at_the_end_of_an_epoch(tmp_path):
    model = Model([batch(bad(1)), batch(bad(2)), batch()], max_share=0.3)
    message = (
        r"^model\.train_ds: left out 2 of 6 samples: 2 unreadable; see .*rejects\.jsonl; that is 33%, more than "
        r"model\.train_ds\.max_rejected_share=0\.3 allows: repair the data, or raise it$"
    )
    with pytest.raises(ValueError, match=message):
        fit(model, tmp_path)
    assert len(listed(tmp_path)) == 2


def test_the_summary_of_a_stopped_run_isnt_said_twice(caplog):
    with pytest.raises(ValueError, match="max_rejected_share"):
        fit(Model([batch(BAD)], max_share=0.3))
    assert "of 2 samples" not in caplog.text


@pytest.mark.parametrize(("max_share", "stops"), [(0.5, False), (0.49, True), (None, False)])
def test_the_share_itself_is_allowed(max_share, stops):
    model = Model([batch(bad(1)), batch(bad(2))], max_share=max_share)
    if stops:
        with pytest.raises(ValueError, match=r"max_rejected_share=0\.49"):
            fit(model)
    else:
        assert fit(model).global_step == 2


@pytest.mark.parametrize(("turns", "steps"), [(20, 50), (10, 50), (7, 60)])
def test_inside_an_epoch_enough_turns_are_awaited(turns, steps, monkeypatch):
    monkeypatch.setattr(rejects, "ENOUGH_TURNS", {20: 501, 10: 500, 7: 421}[turns])
    model = Model([batch(*[BAD] * turns, turns=turns)] * 60, max_share=0.5)
    with pytest.raises(ValueError, match=rf"left out {turns * steps} of {turns * steps} samples"):
        fit(model)


def test_rejects_of_the_last_epoch_count_on(monkeypatch):
    model = Model([batch(bad(1), turns=10)], max_share=0.5)
    trainer = fit(model, max_epochs=3)
    assert trainer.callback_metrics["train_rejected_samples"] == 3


def test_bad_manifest_lines_stop_the_run_at_its_start(tmp_path):
    lines = tuple(LINE._replace(line=number) for number in range(3))
    trainer = new_trainer(Rejects(tmp_path))
    with pytest.raises(ValueError, match=r"left out 3 of 5 manifest lines: bad_entry; .* that is 60%, more than"):
        trainer.fit(Model([batch(), batch()], lines=lines, max_share=0.5))
    assert trainer.global_step == 0 and len(listed(tmp_path)) == 3
    fit(Model([batch(), batch()], lines=lines, max_share=0.6))


@pytest.mark.parametrize("reason", ["noise_bad_entry", "rir_bad_entry"])
def test_bad_lines_of_what_is_mixed_in_are_listed_and_stop_nothing(tmp_path, caplog, reason):
    lines = tuple(LINE._replace(line=number, reason=reason) for number in range(20))
    assert fit(Model([batch()] * 6, lines=lines, max_share=0.0), tmp_path).global_step == 6
    assert len(listed(tmp_path)) == 20
    assert (
        f"left out none of 12 samples; of manifest lines: 20 {reason}; see {tmp_path / 'rejects.jsonl'}"
        in caplog.messages
    )


def test_where_nothing_could_be_read_training_stops_at_any_share():
    everything = Emptied(rejected=(bad(1), bad(2)), turns=2)
    message = (
        r"^none of the 4 samples drawn from model\.train_ds could be read: 4 unreadable, such as 1\.wav: unreadable "
        r"\(why\), train\.json:1$"
    )
    with pytest.raises(ValueError, match=message):
        fit(Model([everything, everything], max_share=1.0))


def no_noise(kind: str) -> list[BadSample]:
    """Of a sample for which none could be found."""
    unusable = NOISE._replace(reason=f"{kind}_silent")
    return [unusable] * 19 + [LastTrial(*unusable)]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "noise",
            r"none of 20 noise files could be used, such as hum\.wav: noise_silent .* model\.train_ds\.noise_manifest",
        ),
        ("rir", r"none of 20 impulse response files could be used, such as hum\.wav: .* model\.train_ds\.rir_manifest"),
    ],
)
@pytest.mark.parametrize("share_mixed", [1, 3])
def test_a_run_stops_where_nothing_could_be_mixed_in(kind, message, share_mixed):
    """However rarely: rir_prob may be small."""
    batches = [batch(*no_noise(kind)), *[batch()] * (share_mixed - 1)]
    with pytest.raises(ValueError, match=rf"^model\.train_ds: for 1 of {2 * share_mixed} samples {message}"):
        fit(Model(batches, max_share=0.5))


def test_a_run_goes_on_where_other_noise_takes_the_place_of_bad_files():
    mostly_found = [batch(*[NOISE] * 30)] * 4 + [batch(*no_noise("noise"))]
    assert fit(Model(mostly_found, max_share=0.5)).global_step == 5


def test_fillers_of_a_rank_alone_stop_nothing():
    assert fit(Model([Emptied()])).global_step == 1


def test_rejects_in_validation_stop_nothing():
    assert fit(Model([batch()], validation=[batch(bad(1), bad(2))], max_share=0.1)).global_step == 1


# in a run


def test_the_experiment_manager_lists_rejects_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = new_trainer()
    options = {"explicit_log_dir": "run", "create_tensorboard_logger": False, "create_checkpoint_callback": False}
    folder = exp_manager(trainer, OmegaConf.create(options), has_validation=False)
    trainer.fit(Model([batch(BAD)]))
    assert listed(folder) == [BAD._asdict()]


def train_as_rank(rank: int, folder: Path) -> str:
    """Rank 0 reads everything, rank 1 nothing. What the run ended with."""
    model = Model([batch(*[bad(number) for number in range(2 * rank)])] * 3, max_share=0.49)
    callback = Rejects(folder)
    trainer = new_trainer(callback, devices=2, strategy="ddp", use_distributed_sampler=False)
    try:
        trainer.fit(model)
        return "ran through"
    except ValueError as error:
        return str(error)


@pytest.mark.slow
def test_all_ranks_judge_together_and_stop_alike(tmp_path):
    ends = two_ranks(train_as_rank, tmp_path)
    assert ends[0] == ends[1] and "left out 6 of 12 samples" in ends[0]
    assert [entry["line"] for entry in listed(tmp_path, "rejects_rank1.jsonl")] == [0, 1]
    assert not (tmp_path / "rejects.jsonl").exists()


@pytest.mark.skipif(not KNOWS_BATCH_END, reason="this Lightning does a step again unless the model aligns its loader")
@pytest.mark.parametrize("saved_after", [5, 28, 30])  # before and after a judgement, at the end of the epoch
def test_a_resumed_run_counts_on(tmp_path, log, saved_after):
    """As the uninterrupted one: the counts, when they are logged, and what the summary says."""

    class Logged(Callback):
        def __init__(self):
            self.after: dict[int, float] = {}

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            number = trainer.global_step
            self.after[number] = float(trainer.callback_metrics.get("train_rejected_samples", -1.0))
            if number == saved_after and not path.exists():
                trainer.save_checkpoint(path)

    path, same = tmp_path / "stopped.ckpt", [batch(bad(1)) for _ in range(30)]
    whole, rest = Logged(), Logged()
    new_trainer(Rejects(), whole, max_epochs=2).fit(Model(same))
    log.clear()
    new_trainer(Rejects(), rest, max_epochs=2).fit(Model(same), ckpt_path=path)
    assert len(rest.after) == 60 - saved_after
    logged = {step: count for step, count in rest.after.items() if count >= 0}
    assert logged.items() <= whole.after.items() and len(logged) >= 11
    assert rest.after[60] == whole.after[60] == 50 and "left out 60 of 120 samples: 60 unreadable" in log.text
