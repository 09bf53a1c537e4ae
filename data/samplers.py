"""Which batches a rank sees in an epoch, and how a run goes on in the middle of one."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from functools import partial
from typing import NamedTuple

import numpy as np
from torch.utils.data import DistributedSampler

from data.batching import Batching, Plan
from utils.logging import logger

Order = Callable[[np.random.Generator], np.ndarray]  # -> (M,) indices of an epoch; M is the same for every epoch


def shuffled(num_utterances: int) -> Order:
    """Each utterance once per epoch, in random order."""
    return partial(_permutation, num_utterances)


def as_listed(num_utterances: int) -> Order:
    """Each utterance once per epoch, in the order of the manifest."""
    return partial(_arange, num_utterances)


def repeated(order: Order, times: int) -> Order:
    """An epoch that goes through an order as often, newly drawn each time."""
    return partial(_repeated, order, times)


def _permutation(num_utterances: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(num_utterances)


def _arange(num_utterances: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(num_utterances)


def _repeated(order: Order, times: int, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([order(rng) for _ in range(times)])


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


class ResumableSampler(DistributedSampler):
    """What a `ResumableLoader` draws from: the batches of this rank, and a place among them that a checkpoint keeps.

    At step s of an epoch that begins at batch `position`, rank r of n takes batch position + s * n + r of those for
    all ranks. Where fewer than n are left, they are split (`split`), or left out with `drop_last`. So every rank has
    as many batches, and a position means the same for any number of ranks.

    A pass begins with the first `next` on the iterator, not with `iter`. After `load_state_dict` the next pass goes on
    where the state was; every other pass is of a whole epoch. Iterating runs ahead of `batch_given`, as workers read
    ahead, and only what was given out counts in the state.
    It is a DistributedSampler so that Lightning tells it the epoch, and leaves it in place as it is.

    dataset: as long as an epoch has utterances. num_batches: of any epoch, for all ranks; those that inherit set it.
    """

    def __init__(
        self, dataset: Sized, *, seed: int = 0, drop_last: bool, fixed_epoch: bool, global_rank: int, world_size: int
    ):
        super().__init__(dataset, world_size, global_rank, shuffle=False, seed=seed, drop_last=drop_last)
        self.fixed_epoch = fixed_epoch
        self.num_batches = 0
        self.position = 0  # batches of the epoch that were given out, to all ranks together
        self._goes_on = False  # at `position`, rather than at the start
        self._identity: dict[str, object] = {}  # what tells these batches from others, by the names of a warning

    def set_epoch(self, epoch: int) -> None:
        """The next pass is through this epoch, from its start; the present epoch goes on where it was restored."""
        if not self.fixed_epoch and epoch != self.epoch:
            self.epoch, self.position, self._goes_on = epoch, 0, False

    def __len__(self) -> int:
        """Number of batches of a whole epoch on this rank, also while the rest of one is read: Lightning adds those
        that it had before."""
        return self._steps(self.num_batches)

    def batch_given(self) -> None:
        """The loader has handed out one more of the batches that the iterator gave, in that order."""
        self.position += self.num_replicas
        if self._steps(self.num_batches - self.position) <= 0:
            self.position = self.num_batches

    def standing(self) -> Standing:
        """How far this rank is, by the batches handed out; after `load_state_dict`, also of another number of ranks."""
        left = self._steps(self.num_batches - self.position)
        return Standing(self.epoch, len(self) - left, left == 0)

    def state_dict(self) -> dict:
        """Plain data: epoch, position, and what decides about the batches."""
        return {"epoch": self.epoch, "position": self.position, "plan": dict(self._identity)}

    def _go_on(self, state: dict) -> None:
        self.epoch, self.position, self._goes_on = state["epoch"], state["position"], True

    def _begin(self) -> int:
        """A pass begins; how many batches this rank takes in it."""
        if not self._goes_on:
            self.position = 0
        self._goes_on = False
        return self._steps(self.num_batches - self.position)

    def _steps(self, num_batches: int) -> int:
        return num_batches // self.num_replicas if self.drop_last else -(-num_batches // self.num_replicas)


class EpochSampler(ResumableSampler):
    """The batches of this rank, as tuples of Draws: of each epoch's plan, which all ranks share, every n-th.

    Where fewer batches than ranks are left, each rank gets a piece of one, or an empty draw; so each utterance comes as
    often as the plan says.

    batching: makes a plan of an order (see `data/batching.py`).
    order: of an epoch's utterances; a plan that has more batches than that of epoch 0, as when utterances are drawn at
        random, ends there, and one that has fewer is drawn on.
    drop_last: leave out what is left when fewer batches than ranks are.
    fixed_epoch: always draw as in epoch 0, so that an evaluation has the same noise each time.
    facts: what else tells one data set and its options from another, by the names that a warning shall use.
    """

    def __init__(
        self,
        dataset: Sized,
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
        super().__init__(
            dataset,
            seed=seed,
            drop_last=drop_last,
            fixed_epoch=fixed_epoch,
            global_rank=global_rank,
            world_size=world_size,
        )
        self.batching = batching
        self.order = order
        self._plan = self._planned(0)
        self._plan_epoch = 0
        self.num_batches = len(self._plan)
        self._identity = {"seed": seed, "utterances": len(dataset), "batches": self.num_batches, **(facts or {})}
        self._identity["order"] = fingerprint(self._plan)

    def __iter__(self) -> Iterator[tuple[Draw, ...]]:
        steps = self._begin()
        plan, start, epoch = self.plan(), self.position, self.epoch
        turns = plan.turns()
        for step in range(steps):
            places = self._share(plan, start + step * self.num_replicas)
            draws = tuple(Draw(epoch, int(plan.indices[i]), int(turns[i])) for i in places)
            yield draws or (Draw(epoch, None),)

    def load_state_dict(self, state: dict) -> None:
        """Go on there, or, if the plan has changed, at the start of the epoch that comes or came, with a warning."""
        self._go_on(state)
        changes = changed(state["plan"], self._identity)
        if changes:
            self.epoch += self.position >= state["plan"]["batches"]
            self.position = 0
            logger.warning("the data isn't what it was (%s): epoch %d starts anew", changes, self.epoch)

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
