import json

import pytest

from tools.benchmark import figures
from tools.benchmark.figures import Figure, Sides, spread, three_digits

PYTHONS = {"ours": "python3", "nemo": "other/python"}


class Echo:
    """Stands for a SideProcess."""

    log: list[tuple] = []  # noqa: RUF012 (of one test)

    def __init__(self, python: str, module: str, side: str):
        self.side = side
        self.log.append(("start", python, module, side))

    def __call__(self, task: str, /, **arguments) -> dict:
        self.log.append((task, self.side, arguments))
        return arguments

    def __exit__(self, *exception) -> None:
        self.log.append(("end", self.side, exception[:1]))


@pytest.fixture
def log(monkeypatch) -> list[tuple]:
    monkeypatch.setattr(figures, "SideProcess", Echo)
    monkeypatch.setattr(Echo, "log", [])
    return Echo.log


def test_sides_take_turns_and_the_next_repetition_goes_the_other_way_round(log):
    with Sides(PYTHONS, "some.module") as sides:
        assert sides("epoch", 0, seed=3) == {"ours": {"seed": 3}, "nemo": {"seed": 3}}
        sides("epoch", 1)
        sides("epoch", 2)
    asked = [side for task, side, *_ in log if task == "epoch"]
    assert asked == ["ours", "nemo", "nemo", "ours", "ours", "nemo"]
    assert log[-2:] == [("end", "ours", (None,)), ("end", "nemo", (None,))]


def test_a_process_starts_at_its_first_task_after_the_other_side_has_answered(log):
    with Sides(PYTHONS, "some.module") as sides:
        assert log == []
        sides("epoch", 1)
    assert log[:4] == [
        ("start", "other/python", "some.module", "nemo"),
        ("epoch", "nemo", {}),
        ("start", "python3", "some.module", "ours"),
        ("epoch", "ours", {}),
    ]


def test_processes_are_told_of_an_interruption(log):
    with pytest.raises(KeyboardInterrupt), Sides(PYTHONS, "some.module") as sides:
        sides("epoch", 0)
        raise KeyboardInterrupt
    assert log[-2:] == [("end", "ours", (KeyboardInterrupt,)), ("end", "nemo", (KeyboardInterrupt,))]


def test_what_a_side_cannot_tell_is_left_out():
    figure = Figure("peak memory", "MiB", more_is_better=False)
    figure.add({"ours": None, "nemo": None})
    figure.add({"ours": 2.0})
    assert (figure.ours, figure.nemo, figure.ratios) == ([2.0], [], [])


def test_a_figure_of_0_has_no_ratio_but_1():
    assert Figure("padding", "%", False, ours=[0.0, 2.0], nemo=[3.0, 0.0]).ratios == [1.0, 1.0]


def test_a_figure_is_json_with_its_ratios():
    figure = Figure("items", "items/s", True, ours=[6.0, 8.0], nemo=[3.0, 2.0], note="of 4")
    written = json.loads(json.dumps(figure.to_json()))
    assert written["times_better"] == [2.0, 4.0] and written["ours"] == [6.0, 8.0] and written["note"] == "of 4"


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (1.2345, "1.23"), (999.4, "999"), (999.9, "1,000"), (12345.6, "12,346")]
)
def test_a_number_is_written_with_three_digits_and_without_an_exponent(value, text):
    assert three_digits(value) == text


def test_a_spread_is_the_median_with_the_lowest_and_the_highest():
    assert spread([3.0, 1.0, 2000.0]) == "3 (1 to 2,000)" and spread([]) == "-"
