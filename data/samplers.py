"""Which batches a rank sees in an epoch, and how a run goes on in the middle of one."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from data.batching import Batching, Plan
from utils.logging import logger

Order = Callable[[np.random.Generator], np.ndarray]  # -> (M,) indices of an epoch; M is the same for every epoch


class Draw(NamedTuple):
    """What a sampler asks a data set for. The epoch travels with the index, so workers need not be told of it.

    index: of the utterance; None: nothing is left for this rank, and collate leaves the item out. That keeps the
        number of batches equal on all ranks without showing an utterance twice.
    turn: how often the utterance was drawn before in this epoch.
    """

    epoch: int
    index: int | None
    turn: int = 0


class Standing(NamedTuple):
    """Where a rank is in its epoch. batches_done: that it has had, of `len(sampler)`; is_finished: all of them."""

    epoch: int
    batches_done: int
    is_finished: bool


class EpochSampler(DistributedSampler):
    """The batches of this rank, as tuples of Draws: of each epoch's plan, which all ranks share, every n-th.

    At step s of an epoch that begins at batch `position` of the plan, rank r of n takes batch position + s * n + r.
    Where fewer than n batches are left, they are split so that each rank gets a piece of one, or an empty draw. So
    every rank has as many batches, each utterance comes as often as the plan says, and a position means the same for
    any number of ranks.

    Lightning tells it the epoch through `set_epoch`, and leaves a DistributedSampler in place as it is.

    batching: makes a plan of an order (see `data/batching.py`).
    order: of an epoch's utterances; a plan that has more batches than that of epoch 0, as when utterances are drawn at
        random, ends there, and one that has fewer is drawn on.
    drop_last: leave out what is left when fewer batches than ranks are.
    fixed_epoch: always draw as in epoch 0, so that an evaluation has the same noise each time.
    facts: what else tells one data set and its options from another, by the names that a warning shall use.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batching: Batching,
        order: Order,
        seed: int,
        drop_last: bool = False,
        fixed_epoch: bool = False,
        facts: Mapping[str, object] | None = None,
        global_rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(dataset, world_size, global_rank, shuffle=False, seed=seed, drop_last=drop_last)
        self.batching = batching
        self.order = order
        self.fixed_epoch = fixed_epoch
        self.position = 0  # batches of the plan that were handed out, to all ranks together
        self._goes_on = False  # at `position`, rather than at the start
        self._plan = self._planned(0)
        self._plan_epoch = 0
        self.num_batches = len(self._plan)  # in the plan of any epoch
        self._identity = {"seed": seed, "utterances": len(dataset), "batches": self.num_batches, **(facts or {})}
        self._identity["order"] = fingerprint(self._plan)

    # what Lightning and a loader call

    def set_epoch(self, epoch: int) -> None:
        """The next pass is through this epoch, from its start; the present epoch goes on where it was restored."""
        if not self.fixed_epoch and epoch != self.epoch:
            self.epoch, self.position, self._goes_on = epoch, 0, False

    def __len__(self) -> int:
        """Number of batches of a whole epoch on this rank, also while the rest of one is read: Lightning adds those
        that it had before."""
        return self._steps(self.num_batches)

    def __iter__(self) -> Iterator[tuple[Draw, ...]]:
        if not self._goes_on:
            self.position = 0
        self._goes_on = False
        plan, start = self.plan(), self.position
        turns, epoch = plan.turns(), self.epoch
        for step in range(self._steps(self.num_batches - start)):
            places = self._share(plan, start + step * self.num_replicas)
            draws = tuple(Draw(epoch, int(plan.indices[i]), int(turns[i])) for i in places)
            yield draws or (Draw(epoch, None),)

    # where it stands (see `ResumableSampler` in data/loader.py)

    def batch_given(self) -> None:
        """The loader has handed out one more batch; workers read ahead of that."""
        self.position += self.num_replicas
        if self._steps(self.num_batches - self.position) <= 0:
            self.position = self.num_batches

    def state_dict(self) -> dict:
        """epoch, position, and what decides about the plan."""
        return {"epoch": self.epoch, "position": self.position, "plan": dict(self._identity)}

    def load_state_dict(self, state: dict) -> None:
        """Go on there, or, if the plan has changed, at the start of the epoch that comes or came, with a warning."""
        self.epoch, self.position, self._goes_on = state["epoch"], state["position"], True
        changes = changed(state["plan"], self._identity)
        if changes:
            self.epoch += self.position >= state["plan"]["batches"]
            self.position = 0
            logger.warning("the data isn't what it was (%s): epoch %d starts anew", changes, self.epoch)

    def standing(self) -> Standing:
        left = self._steps(self.num_batches - self.position)
        return Standing(self.epoch, len(self) - left, left == 0)

    # plans

    def first_epoch(self, k: int) -> tuple[Draw, ...]:
        """Batch k of epoch 0, whatever the rank."""
        plan = self._plan if self._plan_epoch == 0 else self._planned(0, self.num_batches)
        turns = plan.turns()
        return tuple(Draw(0, int(plan.indices[i]), int(turns[i])) for i in plan.places(k))

    def plan(self) -> Plan:
        """The batches of the epoch, for all ranks."""
        if self._plan_epoch != self.epoch:
            self._plan, self._plan_epoch = self._planned(self.epoch, self.num_batches), self.epoch
        return self._plan

    def _planned(self, epoch: int, num_batches: int = 0) -> Plan:
        # utterance i draws from (seed, epoch, i), i < total: `total` is the first stream nobody uses
        rng = np.random.default_rng((self.seed, epoch, len(self.dataset)))
        plan = self.batching(self.order(rng), rng)
        while len(plan) < num_batches:
            plan = plan + self.batching(self.order(rng), rng)
        return plan.first(num_batches or len(plan))

    def _steps(self, num_batches: int) -> int:
        return num_batches // self.num_replicas if self.drop_last else -(-num_batches // self.num_replicas)

    def _share(self, plan: Plan, first: int) -> range:
        """Places in the plan that are this rank's, of the batches from `first` on."""
        if first + self.num_replicas <= self.num_batches:
            return plan.places(first + self.rank)
        return split([plan.places(k) for k in range(first, self.num_batches)], self.num_replicas)[self.rank]


def split(pieces: Sequence[range], count: int) -> list[range]:
    """Halve the longest piece until there are `count`, some of them empty if need be."""
    pieces = list(pieces)
    while len(pieces) < count:
        longest = max(range(len(pieces)), key=lambda i: len(pieces[i]))
        middle = (len(pieces[longest]) + 1) // 2
        pieces[longest : longest + 1] = [pieces[longest][:middle], pieces[longest][middle:]]
    return pieces


def fingerprint(plan: Plan) -> int:
    """Differs between plans, and is the same on every machine."""
    return zlib.crc32(plan.ends.astype("<i8").tobytes(), zlib.crc32(plan.indices.astype("<i8").tobytes()))


def changed(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """What differs: "utterances was 248, is 240"; only where all else is equal, the order itself."""
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    named = [name for name in names if name != "order"] or names
    return ", ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in named)
