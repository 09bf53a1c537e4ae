import json
from collections import Counter
from pathlib import Path

import lightning
import pytest
import torch

from data.loader import ResumableLoader
from utils.training.resume import align_progress

NUM_CUTS = 23
RATE = 16000
SAMPLERS = {"fixed": {"batch_size": 2}, "buckets": {"batch_duration": 0.5, "num_buckets": 4}}
BOTH_SAMPLERS = pytest.mark.parametrize("batching", SAMPLERS.values(), ids=SAMPLERS)


def ids(batches) -> list[list[str]]:
    return [list(batch.sample_id) for batch in batches]


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        x.sample_id == y.sample_id and torch.equal(x.audio, y.audio) and torch.equal(x.noisy_audio, y.noisy_audio)
        for x, y in zip(a, b)
    )


# which cuts come when


@BOTH_SAMPLERS
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("source", ["cuts", "shar"])
def test_ranks_share_an_epoch_in_equally_many_batches(cut_loader, cut_folder, batching, ranks, source):
    where = {"shar_path": str(cut_folder / "shar")} if source == "shar" else {}
    shares = [ids(cut_loader(rank=r, ranks=ranks, **batching, **where)) for r in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    counts = Counter(name for share in shares for batch in share for name in batch)
    assert len(counts) == NUM_CUTS and set(counts.values()) == {1}


@BOTH_SAMPLERS
def test_several_passes_show_each_cut_as_often(cut_loader, batching):
    loader = cut_loader(**batching)
    shown, passes = Counter(), []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        passes.append(ids(loader))
        shown.update(name for batch in passes[-1] for name in batch)
    assert {len(batches) for batches in passes} == {len(loader)}
    assert max(shown.values()) - min(shown.values()) <= 1  # lhotse's epochs need not be equally many batches
    assert passes[0] != passes[1]
    assert passes[0] == ids(cut_loader(**batching))


def test_a_run_that_begins_in_a_later_epoch_begins_with_its_order(cut_loader):
    loader, other = cut_loader(batch_size=4), cut_loader(batch_size=4)
    first = ids(loader)
    loader.sampler.set_epoch(1)
    other.sampler.set_epoch(1)
    assert ids(other) == ids(loader) != first


@BOTH_SAMPLERS
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_drop_last_leaves_out_what_does_not_go_round_the_ranks_and_no_other_cut(cut_loader, batching, ranks):
    whole = cut_loader(**batching)
    loaders = [cut_loader(rank=r, ranks=ranks, drop_last=True, **batching) for r in range(ranks)]
    assert [len(loader) for loader in loaders] == [len(whole) // ranks] * ranks
    rounds = zip(*(ids(loader) for loader in loaders))
    assert [batch for batches in rounds for batch in batches] == ids(whole)[: len(whole) // ranks * ranks]


def test_batches_are_of_similar_lengths_and_about_batch_duration(cut_loader):
    loader = cut_loader(batch_duration=0.5, num_buckets=4)
    plain = cut_loader(batch_duration=0.5, num_buckets=1)
    for batch in loader:
        assert len(batch) * batch.audio.shape[1] < 1.2 * 0.5 * RATE  # lhotse stops once another like them is too much
    assert 0 < loader.sampler.padding < 0.6 * plain.sampler.padding


def test_durations_are_bounded(cut_loader, log):
    log.set_level("INFO")
    names = ids(cut_loader(batch_size=1, min_duration=0.1, max_duration=0.15, shuffle=False))
    lengths = [800 + 150 * int(name[0].split(".")[-1]) for name in names]
    assert lengths == [n for n in (800 + 150 * i for i in range(NUM_CUTS)) if 0.1 * RATE <= n <= 0.15 * RATE]
    assert "kept 5 cuts; dropped 6 shorter than min_duration=0.1, 12 longer than max_duration=0.15" in log.text


# going on


@BOTH_SAMPLERS
@pytest.mark.parametrize("source", ["cuts", "shar"])
def test_a_run_that_is_interrupted_goes_on_with_the_next_batch(cut_loader, cut_folder, batching, source):
    where = {"shar_path": str(cut_folder / "shar")} if source == "shar" else {}
    whole = cut_loader(**batching, **where)
    batches = list(whole) + list(whole)
    for done in (0, 1, 4, len(whole) - 1):
        first = cut_loader(**batching, **where)
        passing = iter(first)
        for _ in range(done):
            next(passing)
        state = json.loads(json.dumps(first.state_dict()), object_hook=with_numbers)
        second = cut_loader(**batching, **where)
        second.load_state_dict(state)
        assert same(list(second) + list(second), batches[done:]), done


def with_numbers(entry: dict) -> dict:
    """JSON has no numbers as keys, which lhotse's state has."""
    return {int(key) if key.isdigit() else key: value for key, value in entry.items()}


def test_what_workers_read_ahead_is_read_again(cut_loader):
    loader = cut_loader(batch_size=2, num_workers=2)
    passing = iter(loader)
    seen = ids([next(passing), next(passing), next(passing)])
    state = loader.state_dict()
    del passing
    plain = ids(cut_loader(batch_size=2))
    assert seen == plain[:3]
    other = cut_loader(batch_size=2, num_workers=2)
    other.load_state_dict(state)
    assert seen + ids(other) == plain
    assert seen + ids(loader)[: len(loader) - 3] == plain  # nor is it lost to a pass that was left early


@BOTH_SAMPLERS
@pytest.mark.parametrize("before, after", [(1, 3), (2, 1), (3, 2)])
def test_with_other_ranks_the_rest_of_the_epoch_comes_once(cut_loader, batching, before, after):
    seen, states = [], []
    for rank in range(before):
        loader = cut_loader(rank=rank, ranks=before, **batching)
        passing = iter(loader)
        seen += [name for _ in range(2) for name in next(passing).sample_id]
        states.append(loader.state_dict()["now"])
    assert all(state == states[0] for state in states)
    shares = []
    for rank in range(after):
        loader = cut_loader(rank=rank, ranks=after, **batching)
        loader.load_state_dict({"now": states[0]})
        standing = loader.standing()
        shares.append(ids(loader))
        assert standing.batches_done == len(loader) - len(shares[-1]) and loader.standing().is_finished
    assert len({len(share) for share in shares}) == 1
    counts = Counter(seen + [name for share in shares for batch in share for name in batch])
    assert len(counts) == NUM_CUTS and set(counts.values()) == {1}


class SeenByTraining(lightning.LightningModule):
    """Remembers what each step sees, and saves the run at the end of one."""

    def __init__(self, loader: ResumableLoader, save_at: int | None = None, path: Path | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.loader, self.save_at, self.path = loader, save_at, path
        self.seen = []

    def train_dataloader(self) -> ResumableLoader:
        return self.loader

    def training_step(self, batch, _) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch.sample_id, batch.seeds.tolist()))
        return self.weight.square()

    def on_train_batch_end(self, *_) -> None:
        if self.global_step == self.save_at:
            self.trainer.save_checkpoint(self.path)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        align_progress(checkpoint, self.loader)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@BOTH_SAMPLERS
def test_a_training_that_is_resumed_sees_exactly_the_rest(cut_loader, batching, tmp_path):
    def train(max_steps: int, save_at: int | None = None, resume: Path | None = None) -> list:
        model = SeenByTraining(cut_loader(**batching), save_at, tmp_path / "run.ckpt")
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(max_steps=max_steps, accelerator="cpu", enable_checkpointing=False, **quiet)
        trainer.fit(model, ckpt_path=resume)
        return model.seen

    whole = train(30)
    assert whole[0][0] == 0 and whole[-1][0] == 2
    for steps in (3, len(cut_loader(**batching)), 17):
        assert train(steps, save_at=steps) == whole[:steps]
        assert train(30, resume=tmp_path / "run.ckpt") == whole[steps:], steps


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 3}, {"max_duration": 0.2}])
def test_a_state_of_other_cuts_is_refused_with_a_warning(cut_loader, change, caplog):
    loader = cut_loader(batch_size=2)
    next(iter(loader))
    section = {"batch_size": 2} | change
    other = cut_loader(**section)
    other.load_state_dict(loader.state_dict())
    (name,) = change
    assert "the cuts aren't what they were" in caplog.text
    assert (name if name != "max_duration" else "cuts was 23, is") in caplog.text
    assert same(list(other), list(cut_loader(**section)))
