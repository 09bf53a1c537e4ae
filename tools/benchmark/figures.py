"""Figures of both sides, repetition by repetition, and the two processes that give them in turn."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field

from tools.side_process import SideProcess

Values = dict[str, float | None]  # side -> figure; None: it couldn't be told


@dataclass
class Figure:
    """One figure of each side, per repetition.

    goal: how many times better than NeMo's ours should be.  note: how it was measured, or why a side has none.
    """

    name: str
    unit: str
    more_is_better: bool
    goal: float | None = None
    ours: list[float] = field(default_factory=list)
    nemo: list[float] = field(default_factory=list)
    note: str = ""

    def add(self, values: Values) -> None:
        """What a repetition gave."""
        for side, figures in (("ours", self.ours), ("nemo", self.nemo)):
            if values.get(side) is not None:
                figures.append(values[side])

    @property
    def ratios(self) -> list[float]:
        """How many times better ours is, per repetition; 1 where a side has 0, which has no ratio."""
        pairs = zip(self.ours, self.nemo)
        return [(ours / nemo if self.more_is_better else nemo / ours) if ours and nemo else 1.0 for ours, nemo in pairs]

    @property
    def missed_goal(self) -> bool:
        return bool(self.goal and self.nemo and statistics.median(self.ratios) < self.goal)

    def to_json(self) -> dict:
        return asdict(self) | {"times_better": self.ratios}


def spread(values: list[float]) -> str:
    """Median (lowest to highest)."""
    if not values:
        return "-"
    return f"{three_digits(statistics.median(values))} ({three_digits(min(values))} to {three_digits(max(values))})"


def three_digits(value: float) -> str:
    """Without an exponent where the number is large: 0.0123, 1.23, 12,345."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


class Sides:
    """A process of each side; a task goes to one after the other, and in the next repetition the other way round.

    pythons: side -> its Python.  module: `python -m module side` does the tasks; it starts at its first one.
    """

    def __init__(self, pythons: Mapping[str, str], module: str):
        self.pythons = pythons
        self.module = module
        self.processes: dict[str, SideProcess] = {}

    def __call__(self, task: str, /, repetition: int, **arguments) -> dict[str, dict]:
        return {side: self.process(side)(task, **arguments) for side in self.in_turn(repetition)}

    def in_turn(self, repetition: int) -> list[str]:
        return [*self.pythons][:: -1 if repetition % 2 else 1]

    def process(self, side: str) -> SideProcess:
        if side not in self.processes:
            self.processes[side] = SideProcess(self.pythons[side], self.module, side)
        return self.processes[side]

    def __enter__(self) -> "Sides":
        return self

    def __exit__(self, *exception) -> None:
        for process in self.processes.values():
            process.__exit__(*exception)


def repeat(
    pythons: Mapping[str, str],
    module: str,
    repetitions: int,
    once: Callable[[Sides, int], Iterable[tuple[Figure, Values]]],
) -> list[Figure]:
    """Figures over all repetitions, each of which has fresh processes.

    once: gives each figure, still empty, and its values of a repetition.
    """
    figures: dict[str, Figure] = {}
    for repetition in range(repetitions):
        with Sides(pythons, module) as sides:
            for figure, values in once(sides, repetition):
                figures.setdefault(figure.name, figure).add(values)
    return [*figures.values()]
