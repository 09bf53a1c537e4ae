"""The plots of the HTML report, as SVG: losses of the optimizer steps, differences per layer and parameter, speed.

matplotlib is imported by the functions that draw, so that a report without pictures doesn't need it.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

import torch

from tools.benchmark.figures import Figure
from tools.parity.aspects import computation
from tools.parity.compare import Comparison
from tools.parity.records import Record
from tools.parity.report.words import number
from tools.parity.rows import FAILED, PASSED, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

FLOOR, CEILING = 1e-9, 10.0  # of a logarithmic axis: 0 is drawn at the floor, what isn't finite at the ceiling
ROOM = 300.0  # above the ceiling, for the legend
STAGES = {"subsampled": "subsampling", "layer": "layer", "encoded": "encoder", "log_prob": "decoder"}
OURS, NEMO, LIMIT, BAD = "#1f6feb", "#d9822b", "#b00020", "#b00020"
FEW = 12  # names that fit into a legend or onto an axis
SETTINGS = {"svg.hashsalt": "parity", "svg.fonttype": "none", "font.size": 9, "text.parse_math": False}


def picture_of(comparisons: Sequence[Comparison]) -> str:
    """One SVG of losses, layers and gradients over some cases; "" where they have none of these."""
    panels: list[tuple[Callable, list]] = [
        (draw_losses, [(c.name, losses_of(c)) for c in comparisons if losses_of(c)]),
        (draw_layers, [(c.name, stages_of(c.rows)) for c in comparisons if stages_of(c.rows)]),
        (draw_gradients, [(c.name, gradients_of(c.rows)) for c in comparisons if gradients_of(c.rows)]),
    ]
    panels = [(draw, data) for draw, data in panels if data]
    if not panels:
        return ""
    with drawing(len(panels), height=3.6 if len(comparisons) == 1 else 4.4) as (picture, axes):
        for (draw, data), ax in zip(panels, axes):
            draw(ax, data)
        return as_svg(picture)


def speed_picture(figures: Sequence[Figure]) -> str:
    """Bars of both sides in units of NeMo's median, with the range of the repetitions; "" where none has both sides."""
    figures = [figure for figure in figures if figure.ours and figure.nemo and median(figure.nemo)]
    if not figures:
        return ""
    with drawing(1, height=0.8 + 0.5 * len(figures)) as (picture, (ax,)):
        for offset, side, color, label in ((-0.18, "ours", OURS, "this project"), (0.18, "nemo", NEMO, "NeMo")):
            for i, figure in enumerate(figures):
                values = [value / median(figure.nemo) for value in getattr(figure, side)]
                middle = median(values)
                spread = [[middle - min(values)], [max(values) - middle]]
                ax.barh(i + offset, middle, 0.34, xerr=spread, capsize=3, color=color, label=label if i == 0 else None)
        better = {True: "more is better", False: "less is better"}
        names = [f"{figure.name} ({better[figure.more_is_better]})" for figure in figures]
        ax.set_yticks(range(len(figures)), names)
        ax.invert_yaxis()
        ax.axvline(1, color="gray", linewidth=0.8)
        ax.set(xlabel="in units of NeMo's median; lines: range of the repetitions")
        ax.legend()
        return as_svg(picture)


@contextmanager
def drawing(panels: int, height: float) -> Iterator[tuple["Picture", list["Axes"]]]:
    import matplotlib
    from matplotlib.figure import Figure as Picture

    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names of files may be in any script
        picture = Picture(figsize=(max(5.2 * panels, 7.5), height), layout="constrained")
        yield picture, list(picture.subplots(1, panels, squeeze=False)[0])


def as_svg(picture: "Picture") -> str:
    file = io.StringIO()
    picture.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def losses_of(comparison: Comparison) -> tuple[list[float], list[float]] | None:
    """Ours and NeMo's of each optimizer step, where both sides made some."""
    ours, nemo = (step_losses(record) for record in (comparison.ours, comparison.nemo))
    return (ours.tolist(), nemo.tolist()) if ours is not None and nemo is not None else None


def step_losses(record: Record) -> torch.Tensor | None:
    measured = record.measured.get(computation.NAME)
    return None if measured is None else measured.tensors.get("step_loss/losses")


def draw_losses(ax: "Axes", data: list[tuple[str, tuple[list[float], list[float]]]]) -> None:
    for i, (name, (ours, nemo)) in enumerate(data):
        color = OURS if len(data) == 1 else f"C{i % 10}"
        label = "this project" if len(data) == 1 else name if i < FEW else None
        ax.plot(range(1, len(ours) + 1), ours, color=color, linewidth=3, alpha=0.55, label=label)
        last = {"color": NEMO if len(data) == 1 else color, "label": "NeMo (dots)" if i == 0 else None}
        ax.plot(range(1, len(nemo) + 1), nemo, linestyle=":", marker="o", markersize=4, **last)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(title="loss of each optimizer step", xlabel="step", ylabel="nats")
    ax.legend()


def stages_of(rows: Sequence[Row]) -> list[Row]:
    """The rows that are states between the layers, in evaluation and in training."""
    compared = (row for row in rows if row.status in (PASSED, FAILED) and row.what != "length")
    return [row for row in compared if row.level.removeprefix("training_") in STAGES]


def stage(row: Row) -> str:
    name = STAGES[row.level.removeprefix("training_")]
    return f"layer {row.what}" if name == "layer" else name


def draw_layers(ax: "Axes", data: list[tuple[str, list[Row]]]) -> None:
    rows = [row for _, stages in data for row in stages]
    layers = sorted({int(row.what) for row in rows if stage(row).startswith("layer ")})
    names = ["subsampling", *(f"layer {layer}" for layer in layers), "encoder", "decoder"]
    names = [name for name in names if any(stage(row) == name for row in rows)]
    place = {name: i for i, name in enumerate(names)}
    for training, marker, color, when in ((False, "o", OURS, "in evaluation"), (True, "^", NEMO, "in training")):
        phase = [row for row in rows if row.level.startswith("training_") == training]
        if not phase:
            continue
        positions = [place[stage(row)] + (0.12 if training else -0.12) for row in phase]
        dots(ax, positions, phase, marker, color, when)
        limits = sorted({place[stage(row)]: row.limit for row in phase}.items())
        ax.plot(*zip(*limits), color=color, linestyle="--", linewidth=1, label=f"limit {when}")
    every = -(-len(names) // FEW)
    ax.set_xticks(range(0, len(names), every), names[::every], rotation=40, ha="right")
    finish(ax, "difference behind each layer", "of the largest entry")


def gradients_of(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.level == "gradient" and row.status in (PASSED, FAILED)]


def draw_gradients(ax: "Axes", data: list[tuple[str, list[Row]]]) -> None:
    """One case: a dot per parameter, in the order of their names. Several: a column of dots per case."""
    limit = max(row.limit for _, rows in data for row in rows)
    if len(data) == 1:
        rows = data[0][1]
        dots(ax, list(range(len(rows))), rows, ".", OURS, "a parameter")
        starts = group_starts([group_of(row.what) for row in rows])
        ax.set_xticks([start for start, _ in starts], [name for _, name in starts], rotation=40, ha="right")
    else:
        positions = [i for i, (_, rows) in enumerate(data) for _ in rows]
        dots(ax, positions, [row for _, rows in data for row in rows], ".", OURS, "a parameter")
        ax.set_xticks(range(len(data)), [name for name, _ in data], rotation=40, ha="right", fontsize=7)
    ax.axhline(limit, color=LIMIT, linestyle="--", linewidth=1, label="limit")
    finish(ax, "difference of each gradient", "of its norm")


def group_of(parameter: str) -> str:
    """The part of the model that has a parameter: `pre_encode`, `layers.0`, `decoder`."""
    parts = parameter.removeprefix("encoder.").split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


def group_starts(groups: list[str]) -> list[tuple[int, str]]:
    """Where runs of one group start, as far as their names don't overlap."""
    starts: list[tuple[int, str]] = []
    for i, group in enumerate(groups):
        begins = i == 0 or groups[i - 1] != group
        if begins and (not starts or (i - starts[-1][0]) * FEW >= len(groups)):
            starts.append((i, group))
    return starts


def dots(ax: "Axes", positions: list[float], rows: list[Row], marker: str, color: str, label: str) -> None:
    """Errors; those beyond their limits in BAD, 0 at the floor, what isn't finite at the ceiling."""
    heights = [min(max(row.error, FLOOR), CEILING) if row.error == row.error else CEILING for row in rows]
    ax.scatter(positions, heights, marker=marker, s=22, color=color, alpha=0.7, label=label, clip_on=False)
    failed = [(x, y) for x, y, row in zip(positions, heights, rows) if row.status == FAILED]
    if failed:
        ax.scatter(*zip(*failed), marker="x", s=34, color=BAD, label="beyond its limit", clip_on=False, zorder=3)


def finish(ax: "Axes", title: str, unit: str) -> None:
    ax.set_yscale("log")
    ax.set_ylim(FLOOR, CEILING * ROOM)
    ax.set_yticks([10.0**i for i in range(-9, 2, 2)])
    ax.yaxis.set_major_formatter(lambda y, _: "0" if y <= 1.01 * FLOOR else ">10" if y >= CEILING else number(y))
    ax.minorticks_off()
    ax.grid(axis="y", alpha=0.3)
    ax.set(title=title, ylabel=unit)
    labels = dict(zip(*reversed(ax.get_legend_handles_labels())))  # each label once
    ax.legend(labels.values(), labels.keys(), fontsize=7, loc="upper left", ncols=3)
