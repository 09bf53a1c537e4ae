"""Samples that were left out: each is said once, all are listed in the run's folder, too many of them stop the run."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from utils.loaders import from_loaders, num_samples
from utils.logging import is_rank_zero, logger
from utils.ranks import from_all_ranks
from utils.training.rejects_list import MAX_TRIALS, MIXED_IN, Rejected, RejectsList, describe, ends_the_search, entry_of

SECTIONS = {"val": "model.validation_ds", "test": "model.test_ds"}
ENOUGH_TURNS = 200  # before a share is judged inside an epoch
BATCHES_BETWEEN = 25  # two judgements: ranks wait for each other there, which is too much for every step


@dataclass
class Tally:
    """How many samples had their turn, how many utterances came of that, and what was left out, by reason."""

    turns: int = 0
    used: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    searches_in_vain: Counter[str] = field(default_factory=Counter)  # for what is mixed in: reasons of the last trials
    first: dict[str, Rejected] = field(default_factory=dict)  # of each reason

    def add(self, batch: object) -> None:
        self.turns += batch.turns
        self.used += len(batch)
        for bad in batch.rejected:
            self.reasons[bad.reason] += 1
            self.searches_in_vain[bad.reason] += ends_the_search(bad)
            self.first.setdefault(bad.reason, bad)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.turns + other.turns,
            self.used + other.used,
            self.reasons + other.reasons,
            self.searches_in_vain + other.searches_in_vain,
            other.first | self.first,
        )

    def state_dict(self) -> dict:
        """Plain data, for a checkpoint."""
        counts = {"turns": self.turns, "used": self.used}
        counts |= {"reasons": dict(self.reasons), "searches_in_vain": dict(self.searches_in_vain)}
        first = {why: entry_of(bad) | {"is_last_trial": ends_the_search(bad)} for why, bad in self.first.items()}
        return counts | {"first": first}

    @classmethod
    def from_state(cls, state: dict) -> "Tally":
        reasons, searches = Counter(state["reasons"]), Counter(state["searches_in_vain"])
        first = {why: SimpleNamespace(**bad) for why, bad in state["first"].items()}
        return cls(state["turns"], state["used"], reasons, searches, first)

    @property
    def samples(self) -> Counter[str]:
        return of_samples(self.reasons)

    def found_nothing(self, prefix: str) -> float:
        """Of the files of a kind in MIXED_IN that couldn't be used, the share after which no other could, either."""
        unusable, in_vain = (of_kind(reasons, prefix).total() for reasons in (self.reasons, self.searches_in_vain))
        return MAX_TRIALS * in_vain / unusable if in_vain else 0.0

    def __str__(self) -> str:
        """'left out 12 of 5000 samples: 7 unreadable, 5 silent; of what is mixed in: 3 noise_empty'"""
        samples = self.samples
        text = f"left out {samples.total() or 'none'} of {self.turns} samples"
        if samples:
            text += f": {by_reason(samples)}"
        if mixed_in := self.reasons - samples:
            text += f"; of what is mixed in: {by_reason(mixed_in)}"
        return text


def of_samples(reasons: Counter[str]) -> Counter[str]:
    """Those of samples, so without those of noise and impulse responses."""
    return Counter({why: count for why, count in reasons.items() if not why.startswith(tuple(MIXED_IN))})


def of_kind(reasons: Counter[str], prefix: str) -> Counter[str]:
    """Those of files of one kind in MIXED_IN."""
    return Counter({why: count for why, count in reasons.items() if why.startswith(prefix)})


def by_reason(reasons: Counter[str]) -> str:
    """'7 unreadable, 5 silent'"""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


class Rejects(Callback):
    """Counts by reason what the batches of a run left out, says each once, and lists each once in rejects.jsonl.

    folder: where the list goes, see `RejectsList`; ranks but the first write rejects_rank<N>.jsonl. None: no list.
    Batches have a length, `rejected` and `turns`. A loader, or the data set in it, may have `rejected_lines`, which
    are lines of its manifest that can't be used, and `max_rejected_share`, the share of samples, or of lines, that
    may be left out in training. Beyond it training stops with a ValueError in one line: at its start by the lines,
    then by the samples, once ENOUGH_TURNS were drawn or an epoch ends. It stops too where an epoch had nothing to
    train on. What is mixed into samples (MIXED_IN), and lines that name it, is listed, and doesn't count, as another
    file takes its place; but where there mostly was no other (see `Tally.found_nothing`), training stops, too.
    Logs `train_rejected_samples` and `val_rejected_samples`, summed over ranks; those of training since its start,
    which its checkpoints keep.
    Source: ours; NeMo 3.0.0 stops at the first file that it can't read.
    """

    metric_names = tuple(f"{stage}_rejected_samples" for stage in ("train", "val"))

    def __init__(self, folder: Path | None = None):
        self._list = RejectsList(folder)
        self._trained, self._epoch, self._evaluated = Tally(), Tally(), Tally()  # of this rank
        self._batches = 0
        self._lines: Counter[str] = Counter()  # reasons of manifest lines that can't be used
        self._max_share = 1.0
        self._has_said_all = True
        self._goes_on = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        """Keep the counts of training, summed over ranks: unlike `state_dict`, Lightning calls this on all of them."""
        trained, epoch = on_all_ranks(self._trained).state_dict(), on_all_ranks(self._epoch).state_dict()
        checkpoint["callbacks"][self.state_key] = {"trained": trained, "epoch": epoch, "batches": self._batches}

    def load_state_dict(self, state_dict: dict) -> None:
        """Training goes on counting; the first rank has the sum, whatever the number of ranks was."""
        if is_rank_zero():
            self._trained, self._epoch = (Tally.from_state(state_dict[name]) for name in ("trained", "epoch"))
        self._batches, self._goes_on = state_dict["batches"], True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._list.open(trainer.global_rank, trainer.strategy.broadcast(self._list.folder))

    # training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._goes_on:
            self._trained, self._epoch, self._batches = Tally(), Tally(), 0
        self._has_said_all, self._goes_on = False, False
        share = from_loaders(trainer.train_dataloader, "max_rejected_share")
        self._max_share = min([1.0 if value is None else value for value in share], default=1.0)
        self._lines = self._take_lines(trainer, trainer.train_dataloader)
        if good_lines := num_samples(trainer.train_dataloader):
            bad = of_samples(self._lines)
            total, why = good_lines + bad.total(), ", ".join(bad)
            self._judge(bad.total(), total, f"left out {bad.total()} of {total} manifest lines: {why}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self._take(batch, self._epoch)
        self._batches += 1
        if self._batches % BATCHES_BETWEEN == 0:
            self._judge_training(pl_module, ENOUGH_TURNS)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = on_all_ranks(self._epoch)
        if epoch.used == 0 and epoch.samples:
            first = describe(epoch.first[epoch.samples.most_common(1)[0][0]])
            self._stop(
                f"none of the {epoch.turns} samples drawn from model.train_ds could be read: "
                f"{by_reason(epoch.samples)}, such as {first}{self._list}"
            )
        self._trained, self._epoch = self._trained + self._epoch, Tally()
        self._judge_training(pl_module, 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._sum_up(on_all_ranks(self._trained + self._epoch))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ctrl-C and the like: what the other ranks left out isn't known then."""
        self._sum_up(self._trained + self._epoch)

    # validation and test

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation(trainer, trainer.val_dataloaders)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation(trainer, trainer.test_dataloaders)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._take(batch, self._evaluated)

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._take(batch, self._evaluated)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation(pl_module, "test")

    def _start_evaluation(self, trainer: Trainer, loaders: object) -> None:
        self._evaluated = Tally()
        self._take_lines(trainer, loaders)

    def _end_evaluation(self, pl_module: LightningModule, stage: str) -> None:
        together = on_all_ranks(self._evaluated)
        log_sum(pl_module, f"{stage}_rejected_samples", together.samples.total())
        if together.reasons:
            logger.warning(f"{SECTIONS[stage]}: {together}{self._list}")

    # both

    def _take_lines(self, trainer: Trainer, loaders: object) -> Counter[str]:
        """List the manifest lines that can't be used, which all ranks know alike; returns their reasons."""
        lines = [bad for found in from_loaders(loaders, "rejected_lines") for bad in found]
        for bad in lines if trainer.is_global_zero else ():
            self._list.take(bad)
        return Counter(bad.reason for bad in lines)

    def _take(self, batch: object, tally: Tally) -> None:
        if hasattr(batch, "rejected"):  # not of a data set of someone else's
            tally.add(batch)
            for bad in batch.rejected:
                self._list.take(bad)

    def _judge_training(self, pl_module: LightningModule, enough_turns: int) -> None:
        together = on_all_ranks(self._trained + self._epoch)
        rejected = together.samples.total()
        log_sum(pl_module, "train_rejected_samples", rejected)
        if together.turns >= enough_turns:
            self._judge(rejected, together.turns, str(together))
            for prefix in MIXED_IN:
                self._judge_mixed_in(prefix, together)

    def _judge(self, rejected: int, total: int, summary: str) -> None:
        if rejected > self._max_share * total:
            self._stop(
                f"model.train_ds: {summary}{self._list}; that is {rejected / total:.0%}, more than "
                f"model.train_ds.max_rejected_share={self._max_share:g} allows: repair the data, or raise it"
            )

    def _judge_mixed_in(self, prefix: str, tally: Tally) -> None:
        if tally.found_nothing(prefix) > self._max_share:
            name, key = MIXED_IN[prefix]
            without = of_kind(tally.searches_in_vain, prefix).total()
            example = describe(tally.first[of_kind(tally.reasons, prefix).most_common(1)[0][0]])
            self._stop(
                f"model.train_ds: for {without} of {tally.turns} samples none of {MAX_TRIALS} "
                f"{name} files could be used, such as {example}{self._list}; repair what "
                f"model.train_ds.{key} (or the augmentor) names, or set it to null"
            )

    def _stop(self, message: str) -> None:
        self._has_said_all = True
        raise ValueError(message)

    def _sum_up(self, tally: Tally) -> None:
        """The summary of training, once."""
        if not self._has_said_all and (tally.turns or self._lines):
            lines = f"; of manifest lines: {by_reason(self._lines)}" if self._lines else ""
            see = str(self._list) if tally.reasons or lines else ""
            logger.info(f"{tally}{lines}{see}")
        self._has_said_all = True


def log_sum(pl_module: LightningModule, name: str, total: int) -> None:
    """A number that is the same on all ranks; Lightning warns about numbers that it wasn't asked to reduce."""
    pl_module.log(name, float(total), batch_size=1, sync_dist=True, reduce_fx="max")


def on_all_ranks(tally: Tally) -> Tally:
    """The sum over ranks, which all must call this."""
    return sum(from_all_ranks(tally), Tally())
