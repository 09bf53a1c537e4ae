"""Train from NeMo's start weights in NeMo's setting, and compare the loss curve with the one NeMo 3.0.0 gave.

    python tools/reproduce_nemo_curve.py --shared ../shared --out docs/results/nemo_curve

Setting: `golden/curve/config.json` and `start.safetensors` of the shared folder: 2.2 M parameters, 512 codes, real
speech and noise, batch 8, AdamW with Noam annealing, 1,500 steps in float32. Writes OUT.json and OUT.png and prints a
Markdown table; exits with 1 when a mean over 100 steps is more than 0.15 from the mean of NeMo's two runs, step 300 on.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from omegaconf import OmegaConf
from safetensors.torch import load_file

from models.ssl_models import EncDecDenoiseMaskedTokenPredModel

# NeMo 3.0.0, CPU, float32, from these start weights: mean training loss of each 100 steps, two orders of the data
NEMO = {
    "NeMo, order A": [
        5.447, 5.030, 4.946, 4.862, 4.812, 4.744, 4.713, 4.692, 4.684, 4.711, 4.717, 4.682, 4.661, 4.605, 4.608,
    ],
    "NeMo, order B": [
        5.444, 4.998, 4.900, 4.859, 4.835, 4.725, 4.780, 4.660, 4.708, 4.728, 4.639, 4.680, 4.652, 4.649, 4.583,
    ],
}  # fmt: skip
MEAN_OVER = 100
FIRST_JUDGED_STEP = 300
TOLERANCE = 0.15  # nats; the two orders of the data differ by up to 0.08 themselves


class Losses(Callback):
    """Keeps the training loss of every step."""

    def __init__(self):
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, model, outputs, batch, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))
        if len(self.values) % MEAN_OVER == 0:
            print(f"step {len(self.values)}: loss {np.mean(self.values[-MEAN_OVER:]):.3f}", flush=True)


def train(shared: Path, steps: int, seed: int) -> list[float]:
    """The loss of each step, in nats."""
    seed_everything(seed)
    curve = shared / "golden" / "curve"
    cfg = OmegaConf.create(json.loads((curve / "config.json").read_text(encoding="utf-8")))
    cfg.train_ds.manifest_filepath = str(shared / "data" / "manifests" / "speech_train.json")
    cfg.train_ds.noise_manifest = str(shared / "data" / "manifests" / "noise_train.json")
    cfg.train_ds.seed = seed
    cfg.validation_ds = None
    model = EncDecDenoiseMaskedTokenPredModel(cfg=cfg)
    model.load_state_dict(load_file(curve / "start.safetensors"), strict=True)
    losses = Losses()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[losses],
    )
    trainer.fit(model)
    return losses.values


def plot(curves: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, means in curves.items():
        steps = MEAN_OVER * np.arange(1, len(means) + 1)
        axes.plot(steps, means, label=name, marker="o", markersize=3, linestyle="--" if name in NEMO else "-")
    middle = np.mean(list(NEMO.values()), axis=0)
    steps = MEAN_OVER * np.arange(1, len(middle) + 1)
    judged = steps >= FIRST_JUDGED_STEP
    axes.fill_between(
        steps[judged], (middle - TOLERANCE)[judged], (middle + TOLERANCE)[judged], alpha=0.12, label=f"±{TOLERANCE}"
    )
    axes.set(xlabel="step", ylabel=f"training loss, nats, mean of {MEAN_OVER} steps", title="From the same weights")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def table(curves: dict[str, list[float]]) -> str:
    count = min(map(len, curves.values()))
    rows = [["step", *(str(MEAN_OVER * (i + 1)) for i in range(count))], ["---"] * (count + 1)]
    rows += [[name, *(f"{mean:.3f}" for mean in means[:count])] for name, means in curves.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def largest_difference(means: list[float]) -> float:
    """From the mean of NeMo's two curves, from FIRST_JUDGED_STEP on."""
    first = FIRST_JUDGED_STEP // MEAN_OVER - 1
    middle = np.mean(list(NEMO.values()), axis=0)[: len(means)]
    return float(np.abs(np.array(means) - middle)[first:].max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds golden/ and data/")
    parser.add_argument("--out", type=Path, required=True, help="results go to OUT.json and OUT.png")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0, help="of the data order, noise, masks and dropout")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if arguments.steps < FIRST_JUDGED_STEP:
        parser.error(f"--steps {arguments.steps}: the comparison starts at step {FIRST_JUDGED_STEP}")
    torch.set_num_threads(arguments.threads)
    losses = train(arguments.shared, arguments.steps, arguments.seed)
    means = [float(np.mean(losses[i : i + MEAN_OVER])) for i in range(0, len(losses) - MEAN_OVER + 1, MEAN_OVER)]
    curves = {"nest-ssl": means, **NEMO}
    plot(curves, arguments.out.with_suffix(".png"))
    difference = largest_difference(means)
    result = {"seed": arguments.seed, "mean_of_100_steps": means, "largest_difference": difference, "losses": losses}
    arguments.out.with_suffix(".json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(table(curves))
    print(f"largest difference from the mean of NeMo's two runs, step {FIRST_JUDGED_STEP} on: {difference:.3f} nats")
    return int(difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
