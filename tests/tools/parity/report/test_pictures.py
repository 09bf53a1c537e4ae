"""What the plots show."""

import pytest

from tools.benchmark.figures import Figure
from tools.parity.report import pictures
from tools.parity.report.pictures import CEILING, FLOOR, drawing, group_starts, picture_of, speed_picture, stages_of
from tools.parity.rows import FAILED, PASSED, Row


def test_losses_of_both_sides_are_drawn():
    with drawing(1, 3) as (_, (ax,)):
        pictures.draw_losses(ax, [("case", ([4.0, 3.0], [4.0, 2.0]))])
        assert [list(line.get_ydata()) for line in ax.get_lines()] == [[4.0, 3.0], [4.0, 2.0]]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["this project", "NeMo (dots)"]


def test_layers_stand_in_order_with_their_limits():
    rows = [Row("subsampled", "states", PASSED, 1e-7, 1e-4), Row("subsampled", "length", PASSED)]
    rows += [Row("layer", str(i), PASSED, 1e-6, 1e-4) for i in (10, 9, 0)]
    rows += [Row("training_layer", "0", FAILED, 1.0, 2e-4), Row("log_prob", "log_probs", PASSED, 1e-6, 1e-4)]
    with drawing(1, 3) as (_, (ax,)):
        pictures.draw_layers(ax, [("case", stages_of(rows))])
        labels = [text.get_text() for text in ax.get_xticklabels()]
        assert labels == ["subsampling", "layer 0", "layer 9", "layer 10", "decoder"]
        assert ax.get_yscale() == "log"
        assert {y for line in ax.get_lines() for y in line.get_ydata()} == {1e-4, 2e-4}


def test_what_a_logarithm_cannot_show_is_drawn_at_the_edges():
    errors = [0.0, 1e-5, float("inf"), float("nan")]
    with drawing(1, 3) as (_, (ax,)):
        pictures.dots(ax, range(4), [Row("gradient", "x", PASSED, error) for error in errors], "o", "blue", "x")
        assert ax.collections[0].get_offsets()[:, 1].tolist() == [FLOOR, 1e-5, CEILING, CEILING]


def test_failures_are_marked():
    rows = [Row("gradient", "a", PASSED, 1e-5, 1e-3), Row("gradient", "b", FAILED, 1.0, 1e-3)]
    with drawing(1, 3) as (_, (ax,)):
        pictures.draw_gradients(ax, [("case", rows)])
        marked = next(dots for dots in ax.collections if dots.get_label() == "beyond its limit")
        assert marked.get_offsets().tolist() == [[1.0, 1.0]]


def test_names_on_an_axis_do_not_overlap():
    groups = ["decoder"] * 2 + ["layers.0"] * 36 + ["layers.1"] * 36
    assert group_starts(groups) == [(0, "decoder"), (38, "layers.1")]


def test_bars_have_the_range_of_the_repetitions():
    svg = speed_picture([Figure("step", "s", False, ours=[1.0, 2.0, 3.0], nemo=[2.0, 4.0, 4.0])])
    assert "step (less is better)" in svg


@pytest.mark.parametrize("figures", [[], [Figure("data", "items/s", True, ours=[1.0])]])
def test_speed_of_one_side_alone_has_no_picture(figures):
    assert speed_picture(figures) == ""


def test_names_of_any_kind_are_drawn_as_they_are(compared):
    rows = [Row("gradient", "w", PASSED, 1e-6, 1e-3)]
    svg = picture_of([compared(rows, "$x_1$ <b>"), compared(rows, "$\\frac$ \u4e2d")])
    assert "$x_1$ &lt;b&gt;" in svg


def test_cases_without_anything_to_draw_have_no_picture():
    assert picture_of([]) == ""
