"""lhotse's sampler, dealt out to ranks: the batches of cuts of a run, and how it goes on in the middle."""

import copy
import itertools
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from data.batching import DEFAULT_NUM_BUCKETS
from data.lhotse_cuts import CutLines
from data.samplers import ResumableSampler, changed, split
from data.settings import DatasetSettings
from utils.logging import logger

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from lhotse.dataset.sampling.base import CutSampler


class CutDraws(NamedTuple):
    """A batch that a sampler asks a data set for. No cuts: nothing is left for this rank."""

    epoch: int
    cuts: "Sequence[Cut]"


def cut_sampler(cuts: CutLines, settings: DatasetSettings, path: str) -> "CutSampler":
    """lhotse's own sampler, for all ranks together: with buckets where `batch_duration` is set, else without.

    It shuffles within its buffer of 20,000 cuts. It never drops the last batches, which are one of each bucket, and
    with few cuts most of them; `drop_last` is about the ranks. path: of the section, for messages.
    """
    from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler

    num_buckets = settings.num_buckets or DEFAULT_NUM_BUCKETS
    num_buckets = len(list(itertools.islice(cuts, num_buckets)))  # no more of them than cuts
    if num_buckets == 0:
        raise ValueError(f"{path}: no cut of {', '.join(cuts.manifests)} is usable: {cuts.why_none()}")
    options = {
        "max_duration": settings.batch_duration,
        "max_cuts": settings.batch_size,
        "quadratic_duration": settings.quadratic_duration,
        "shuffle": settings.shuffle,
        "drop_last": False,
        "seed": settings.seed,
        "world_size": 1,
        "rank": 0,
    }
    if settings.batch_duration is None or num_buckets == 1:
        return DynamicCutSampler(cuts, **options)
    return DynamicBucketingSampler(cuts, num_buckets=num_buckets, **options)


class CutBatchSampler(ResumableSampler):
    """The batches of this rank: of what lhotse's sampler gives for all ranks together, every n-th.

    Where lhotse's epoch ends with fewer than n batches, their cuts are dealt evenly, or left out with `drop_last`.

    How many batches an epoch of lhotse has depends on its shuffle. A pass is as many as epoch 0 has; for training the
    next pass goes on behind it, so that each cut still comes once before any comes again. With `fixed_epoch` (for
    evaluation) every pass is epoch 0.
    The state holds that of lhotse's sampler after the batch that was given out last, whatever was read ahead. It is
    the same for all ranks, and for any number of them.

    facts: what tells one data set and its options from another, by the names that a warning shall use.
    """

    def __init__(
        self,
        sampler: "CutSampler",
        *,
        fixed_epoch: bool = False,
        facts: Mapping[str, object] | None = None,
        drop_last: bool = False,
        global_rank: int = 0,
        world_size: int = 1,
    ):
        self._start = state_of(sampler)
        first = measured(sampler)
        super().__init__(
            range(first.num_cuts),
            drop_last=drop_last,
            fixed_epoch=fixed_epoch,
            global_rank=global_rank,
            world_size=world_size,
        )
        self.sampler = sampler
        self.num_batches, self.padding = first.num_batches, first.padding
        counts = {"cuts": first.num_cuts, "batches": first.num_batches}
        self._identity = {**counts, **(facts or {}), "order": first.fingerprint}
        self._given = self._start  # lhotse's state after what was given out
        self._ahead: deque[dict] = deque()  # and after each step that was read ahead
        self._groups: Iterator[tuple[int, list[list[Cut]]]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Of Lightning, which tells where the data begins; from then on it goes on by itself."""
        if not self.fixed_epoch and epoch != self.epoch and self._given is self._start:
            self.sampler.set_epoch(epoch)
            self.sampler.diagnostics.reset_current_epoch()
            self._start = self._given = state_of(self.sampler)
        super().set_epoch(epoch)

    def __iter__(self) -> Iterator[CutDraws]:
        steps = self._begin()
        if self.fixed_epoch:
            self._given = self._start
        if self._groups is None or self._ahead or self.fixed_epoch:  # lhotse isn't where the last batch was given out
            self.sampler.load_state_dict(copy.deepcopy(self._given))
            self._groups = self._all_groups()
            self._ahead.clear()
        for _ in range(steps):
            epoch, group = next(self._groups)
            self._ahead.append(state_of(self.sampler))
            yield CutDraws(epoch, self._share(group))

    def batch_given(self) -> None:
        self._given = self._ahead.popleft()
        super().batch_given()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "lhotse": self._given}

    def load_state_dict(self, state: dict) -> None:
        """Go on there, or, if the cuts have changed, start with them anew and warn."""
        changes = changed(state["plan"], self._identity)
        if changes:
            logger.warning("the cuts aren't what they were (%s): they start anew", changes)
            self.set_epoch(state["epoch"])
            return
        self._go_on(state)
        self._given = state["lhotse"]
        self._groups = None

    def _all_groups(self) -> Iterator[tuple[int, list[list["Cut"]]]]:
        """Without end: lhotse's epoch, and the batches of all ranks at one step, fewer at the end of an epoch."""
        while True:
            batches = map(list, iter(self.sampler))
            while group := list(itertools.islice(batches, self.num_replicas)):
                if len(group) == self.num_replicas or not self.drop_last:
                    yield self.sampler.epoch, group
            self.sampler.set_epoch(self.sampler.epoch + 1)

    def _share(self, group: list[list["Cut"]]) -> "list[Cut]":
        if len(group) == self.num_replicas:
            return group[self.rank]
        ends = list(itertools.accumulate(map(len, group)))
        places = split([range(end - len(batch), end) for end, batch in zip(ends, group)], self.num_replicas)
        cuts = list(itertools.chain(*group))
        return [cuts[place] for place in places[self.rank]]


class Measured(NamedTuple):
    """Of an epoch. padding: its share of all seconds; fingerprint: of its order."""

    num_cuts: int
    num_batches: int
    padding: float
    fingerprint: int


def measured(sampler: "CutSampler") -> Measured:
    """The sampler's present epoch, which it goes through; from metadata alone."""
    num_cuts = num_batches = fingerprint = 0
    seconds = padded = 0.0
    for batch in sampler:
        durations = [cut.duration for cut in batch]
        num_batches += 1
        num_cuts += len(durations)
        seconds += sum(durations)
        padded += max(durations) * len(durations)
        fingerprint = zlib.crc32("\n".join(cut.id for cut in batch).encode(), fingerprint)
    return Measured(num_cuts, num_batches, 1.0 - seconds / padded if padded else 0.0, fingerprint)


def state_of(sampler: "CutSampler") -> dict:
    """lhotse's state, without its count of earlier epochs, which it doesn't need to go on."""
    state = copy.deepcopy(sampler.state_dict())
    counts, epoch = state["diagnostics"]["stats_per_epoch"], state["diagnostics"]["current_epoch"]
    state["diagnostics"]["stats_per_epoch"] = {epoch: counts[epoch]}
    return state
