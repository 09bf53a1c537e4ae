"""Draw the loss curves of runs and, beside them, what their models guessed right against the commonest code.

    python tools/plot_runs.py RUN_DIR ... --out picture.png

A run's folder holds TensorBoard events and, as `evaluation.json`, what `tools/evaluate_ssl.py --json` wrote.
Prints a Markdown table of the evaluations.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils.errors import one_line_errors

SMOOTH_OVER = 10  # logged points
COLUMNS = {
    "run": "{name}",
    "loss": "{loss:.3f}",
    "untrained": "{loss_untrained:.3f}",
    "entropy of the codes": "{entropy:.3f}",
    "accuracy": "{accuracy:.4f}",
    "commonest code": "{commonest_code_accuracy:.4f}",
    "difference": "{difference:+.4f}",
    "standard error": "{standard_error:.4f}",
    "standard errors": "{standard_errors:.1f}",
    "scored steps": "{scored_steps}",
}


def read_curve(run: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a scalar, from the event files of a run."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    if name not in events.Tags()["scalars"]:
        raise ValueError(f"{run} has no TensorBoard scalar {name!r}")
    points = events.Scalars(name)
    return np.array([p.step for p in points]), np.array([p.value for p in points])


def read_evaluation(run: Path) -> dict:
    path = run / "evaluation.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: write it with tools/evaluate_ssl.py --untrained --json {path}")
    result = json.loads(path.read_text(encoding="utf-8"))
    return result | {"name": run.name, "standard_errors": result["difference"] / result["standard_error"]}


def draw(runs: list[Path], results: list[dict], out: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", width_ratios=(3, 2))
    for run in runs:
        steps, losses = read_curve(run, "train_loss")
        smooth = np.convolve(losses, np.full(SMOOTH_OVER, 1 / SMOOTH_OVER), mode="valid")
        (line,) = left.plot(steps[SMOOTH_OVER - 1 :], smooth, alpha=0.5)
        left.plot(*read_curve(run, "val_loss"), marker="o", color=line.get_color(), label=run.name)
    left.set(xlabel="step", ylabel="nats", title="loss at masked steps: training (pale), validation (dots)")
    left.legend()

    position = np.arange(len(results))
    height = [result["accuracy"] for result in results]
    error = [result["standard_error"] for result in results]
    right.bar(position - 0.2, height, 0.4, yerr=error, capsize=4, label="model (standard error of the difference)")
    right.bar(position + 0.2, [r["commonest_code_accuracy"] for r in results], 0.4, label="always the commonest code")
    right.set_xticks(position, [result["name"] for result in results])
    right.set(title="masked codes guessed right, validation", ylim=(0, 1.35 * max(height)))
    right.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def table(results: list[dict]) -> str:
    rows = [list(COLUMNS), ["---"] * len(COLUMNS)]
    rows += [[column.format_map(result) for column in COLUMNS.values()] for result in results]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = [read_evaluation(run) for run in args.runs]
    draw(args.runs, results, args.out)
    print(table(results))


if __name__ == "__main__":
    with one_line_errors():
        main()
