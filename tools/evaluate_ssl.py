"""How well does a checkpoint guess hidden codes, and is that better than knowing nothing but how frequent they are?

    python tools/evaluate_ssl.py CHECKPOINT.ckpt --manifest val.json --noise_manifest noise.json --plot guesses.png

Masks and noise are drawn from seeds per utterance, so every model is asked the same questions. The yardstick is to
guess the commonest code at every step, the commonest of these very steps: knowing it beforehand is an advantage that
the model doesn't have. Utterances, not steps, are independent: the standard error treats each as one cluster.

Letters: M scored steps, Q codebooks, V codes per book.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.connectors.initial_weights import read_weights
from data.ssl_dataset import audio_noise_dataloader
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from utils.errors import one_line_errors
from utils.training.pictures import save_prediction_picture

FROZEN = ("quantizer.", "mask_processor.")  # parts that a run doesn't train: the task, not the model


class Guesses(NamedTuple):
    """Every scored step of an evaluation. utterance: (M,), the one it is part of; the others (M, Q), loss in nats."""

    utterance: np.ndarray
    target: np.ndarray
    guess: np.ndarray
    loss: np.ndarray


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cfg, state = read_checkpoint(args.checkpoint)
    data = validation_section(cfg, args)
    model = build_model(cfg, state).to(device)
    result = summarise(collect_guesses(model, data, args.seeds), cfg.num_classes)
    if args.untrained:
        result["loss_untrained"] = mean_loss_untrained(cfg, state, data, args.seeds, device)
    print(in_words(result, args.seeds))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if args.plot:
        draw_utterance(model, data, args.plot)
        print(f"Picture: {args.plot}")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on masked steps of a validation set.")
    parser.add_argument("checkpoint", type=Path, help="a .ckpt, .nemo or .safetensors file of a model")
    parser.add_argument("--manifest", help="validation manifest; default: the checkpoint's model.validation_ds")
    parser.add_argument("--noise_manifest", help="default: the checkpoint's; with --manifest: none")
    parser.add_argument("--seeds", type=int, default=3, help="how many draws of masks and noise (default: 3)")
    parser.add_argument("--untrained", action="store_true", help="also evaluate the model with fresh weights")
    parser.add_argument("--plot", type=Path, help="write a PNG of one utterance, its mask and the guesses")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"--seeds={args.seeds} is below 1")
    return args


def read_checkpoint(path: Path) -> tuple[DictConfig, dict[str, torch.Tensor]]:
    """The model's config and weights; nothing in the file is executed."""
    weights = read_weights(path)
    if weights.config is None:
        raise ValueError(f"{path} has weights without a model's config: give the .ckpt or .nemo file of a run")
    return weights.config, weights.state_dict


def build_model(cfg: DictConfig, state: dict[str, torch.Tensor]) -> EncDecDenoiseMaskedTokenPredModel:
    model = EncDecDenoiseMaskedTokenPredModel(cfg)
    model.load_state_dict(state)
    return model.eval()


def validation_section(cfg: DictConfig, args: argparse.Namespace) -> DictConfig:
    """`model.validation_ds` of the checkpoint, with the manifests of the command line; without one, as `train_ds`."""
    whole = {"manifest_filepath": None, "drop_last": False}
    section = OmegaConf.create(cfg.get("validation_ds") or {**cfg.train_ds, **whole})
    if args.manifest:
        section.manifest_filepath = args.manifest
        section.noise_manifest = args.noise_manifest
    elif args.noise_manifest:
        section.noise_manifest = args.noise_manifest
    if section.manifest_filepath is None:
        raise ValueError("the checkpoint's model.validation_ds.manifest_filepath is null; give --manifest")
    return section


@torch.no_grad()
def collect_guesses(model: EncDecDenoiseMaskedTokenPredModel, data: DictConfig, num_draws: int = 1) -> Guesses:
    """Every scored step of a validation set, under `num_draws` draws of masks and noise."""
    loader = audio_noise_dataloader(data, path="model.validation_ds", training=True)  # other noise in each epoch
    parts: list[Guesses] = []
    for draw in range(num_draws):
        loader.sampler.set_epoch(draw)
        for batch in loader:
            if len(batch) == 0:
                continue
            scored = model.step(model.transfer_batch_to_device(batch, model.device, 0), seeded=True)
            row = scored.is_scored.nonzero()[:, 0].cpu().numpy()  # (M,)
            loss = -scored.log_probs.gather(1, scored.targets.unsqueeze(1)).squeeze(1)  # (M, Q)
            guess = scored.log_probs.argmax(dim=1)  # (M, Q)
            utterance = np.array([int(name) for name in batch.sample_id])[row]
            parts.append(Guesses(utterance, *(x.cpu().numpy() for x in (scored.targets, guess, loss))))
    if not sum(len(part.utterance) for part in parts):
        raise ValueError("no step was masked in the whole validation set; use longer audio, or set masking.min_masks")
    return Guesses(*(np.concatenate(columns) for columns in zip(*parts)))


def summarise(guesses: Guesses, num_classes: int) -> dict[str, float]:
    """Numbers to judge a model by; those of several codebooks are means over the books."""
    counts = [np.bincount(codes, minlength=num_classes) for codes in guesses.target.T]  # Q times (V,)
    right = (guesses.guess == guesses.target).mean(axis=1)  # (M,)
    commonest = (guesses.target == [count.argmax() for count in counts]).mean(axis=1)  # (M,)
    return {
        "loss": float(guesses.loss.mean()),
        "accuracy": float(right.mean()),
        "commonest_code_accuracy": float(commonest.mean()),
        "difference": float((right - commonest).mean()),
        "standard_error": clustered_standard_error(right - commonest, guesses.utterance),
        "entropy": float(np.mean([entropy(count) for count in counts])),
        "codes_used": float(np.mean([np.count_nonzero(count) for count in counts])),
        "num_classes": num_classes,
        "scored_steps": len(right),
        "utterances": len(np.unique(guesses.utterance)),
    }


def clustered_standard_error(values: np.ndarray, cluster: np.ndarray) -> float:
    """Of the mean of `values` (M,), when only values of different clusters are independent.

    Each cluster's sum of deviations is one draw (linearised ratio estimator). NaN for a single cluster.
    """
    names, index = np.unique(cluster, return_inverse=True)
    if len(names) < 2:
        return float("nan")
    deviations = np.bincount(index, weights=values - values.mean())
    return float(np.sqrt(len(names) / (len(names) - 1) * (deviations**2).sum()) / len(values))


def entropy(counts: np.ndarray) -> float:
    """In nats, of frequencies given as counts: the loss of a model that knows them and nothing else."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def mean_loss_untrained(cfg: DictConfig, state: dict, data: DictConfig, num_draws: int, device: torch.device) -> float:
    """Loss of fresh weights on the same task: the trained model's quantizer and mask, everything else new."""
    torch.manual_seed(0)
    model = EncDecDenoiseMaskedTokenPredModel(cfg)
    model.load_state_dict({name: x for name, x in state.items() if name.startswith(FROZEN)}, strict=False)
    return float(collect_guesses(model.eval().to(device), data, num_draws).loss.mean())


def in_words(result: dict[str, float], num_draws: int) -> str:
    fresh = f" (untrained: {result['loss_untrained']:.2f})" if "loss_untrained" in result else ""
    return (
        f"Over {result['scored_steps']} hidden steps of {result['utterances']} utterances ({num_draws} draws of masks "
        f"and noise):\n"
        f"  masked accuracy {result['accuracy']:.3f}; always guessing the commonest code "
        f"{result['commonest_code_accuracy']:.3f}; difference {result['difference']:+.3f} "
        f"with standard error {result['standard_error']:.3f}\n"
        f"  masked loss {result['loss']:.2f} nats{fresh}; knowing only how frequent each code is "
        f"{result['entropy']:.2f}; {result['codes_used']:g} of {result['num_classes']} codes occur"
    )


@torch.no_grad()
def draw_utterance(model: EncDecDenoiseMaskedTokenPredModel, data: DictConfig, path: Path) -> None:
    """Picture of the first utterance in which something is masked."""
    alone = OmegaConf.merge(data, {"batch_size": 1, "shuffle": False})
    for batch in audio_noise_dataloader(alone, path="model.validation_ds", training=False):
        if len(batch) == 0:
            continue
        batch = model.transfer_batch_to_device(batch, model.device, 0)
        with model.mask_processor.seeded(batch.seeds):
            log_probs, _, masks, tokens = model(
                input_signal=batch.audio,
                input_signal_length=batch.audio_len,
                noisy_input_signal=batch.noisy_audio,
                noisy_input_signal_length=batch.noisy_audio_len,
                apply_mask=True,
            )
        is_scored = model.loss.is_scored(masks)[0]  # (S,)
        if is_scored.any():
            features = model.features(batch)
            num_frames, num_steps = int(features.clean_lengths[0]), len(is_scored)
            is_masked = masks[0].amax(dim=0) > 0  # frames; steps in post_conv
            is_masked = is_masked.repeat_interleave(-(-features.clean.shape[2] // len(is_masked)))
            save_prediction_picture(
                path,
                clean=features.clean[0, :, :num_frames].cpu().numpy(),
                noisy=features.noisy[0, :, :num_frames].cpu().numpy(),
                is_masked=is_masked[:num_frames].cpu().numpy(),
                true_codes=tokens[0].reshape(num_steps, -1)[:, 0].cpu().numpy(),
                guessed_codes=log_probs[0].argmax(dim=1).reshape(num_steps, -1)[:, 0].cpu().numpy(),
                is_scored=is_scored.cpu().numpy(),
                frame_seconds=model.cfg.preprocessor.get("window_stride", 0.01),
                frames_per_step=model.encoder.subsampling_factor,
                title=f"utterance {batch.sample_id[0]} of {Path(str(data.manifest_filepath)).name}",
            )
            return


if __name__ == "__main__":
    with one_line_errors():
        main()
