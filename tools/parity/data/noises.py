"""Noise for an utterance: which file, which piece of it, what is done about silence. All of it is drawn."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tools.parity.cases import SEED, Levels
from tools.parity.data.distributions import same_distribution, same_share
from tools.parity.data.files import CROP, PIECE_SAMPLES, PIECE_START, RAMP_START, SHORT_NOISE, Files, zero_mean_noise
from tools.parity.rows import FAILED, KNOWN, NOT_RUN, PASSED, Row
from tools.parity.side import Side

MODULE = "data.noise"
DRAWS, USER_DRAWS = 600, 100
KINDS = ("a long file", "a short file", "a silent file")
LOUDEST_SILENCE = 0.1  # the white noise that is added to silence peaks far below this, the ramp above
FULL_SCALE = 32768
Draw = Callable[[], tuple[Tensor, Tensor]]


def drawing(side: Side, manifest: str, sample_rate: int) -> Draw:
    """Draws noise for CROP samples; NeMo from numpy's global generator, ours from the one that a data set hands in."""
    datasets = import_module(f"{side.package}data.ssl_dataset")
    lines = datasets.load_noise_manifest(manifest)
    np.random.seed(SEED)
    options = {} if side.is_nemo else {"rng": np.random.default_rng(SEED)}
    return lambda: datasets.sample_noise(lines, sample_rate, CROP, **options)


def measure(side: Side, files: Files) -> Levels:
    """`kind` (n,) of KINDS; `start` of pieces of the long file and `strange` where it isn't one; `length` of short
    ones; `level` of silent ones, dB; of the special manifests what is drawn."""
    draw = drawing(side, files.manifest("noises"), files.sample_rate)
    noises = [draw() for _ in range(DRAWS)]
    kinds = torch.tensor([kind_of(noise, length) for noise, length in noises], dtype=torch.uint8)
    long, short, silent = ([x for x, kind in zip(noises, kinds) if kind == number] for number in range(len(KINDS)))
    zero_mean, _ = drawing(side, files.manifest("zero mean"), files.sample_rate)()
    draw = drawing(side, files.manifest("piece of a noise"), files.sample_rate)
    tensors = {
        "kind": kinds,
        "start": torch.tensor([start_of(noise) for noise, _ in long]),
        "strange": torch.tensor([not is_ramp(noise) for noise, _ in long], dtype=torch.uint8),
        "length": torch.tensor([int(length) for _, length in short], dtype=torch.int32),
        "level": torch.tensor([level_db(noise) for noise, _ in silent]),
        "added to zero mean": (zero_mean - torch.from_numpy(zero_mean_noise()) / FULL_SCALE).abs().max(),
        "start with offset": torch.tensor([start_of(draw()[0]) for _ in range(DRAWS // 10)]),
    }
    return tensors | measure_users(side, files.sample_rate)


def measure_users(side: Side, sample_rate: int) -> Levels:
    """Levels (dB) and lengths of draws from a user's manifest."""
    if side.job.noise_manifest is None or not Path(side.job.noise_manifest).is_file():
        return {}
    draw = drawing(side, side.job.noise_manifest, sample_rate)
    noises = [draw() for _ in range(USER_DRAWS)]
    return {
        "your level": torch.tensor([level_db(noise[: max(1, int(length))]) for noise, length in noises]),
        "your length": torch.tensor([int(length) for _, length in noises], dtype=torch.int32),
    }


def kind_of(noise: Tensor, length: Tensor) -> int:
    """Index into KINDS."""
    if length < CROP:
        return 1
    return 2 if noise.abs().max() < LOUDEST_SILENCE else 0


def start_of(noise: Tensor) -> int:
    """The sample of the ramp at which a piece of it begins."""
    return round(noise[0].item() * FULL_SCALE) - RAMP_START


def is_ramp(noise: Tensor) -> bool:
    start = start_of(noise) + RAMP_START
    return torch.equal(noise * FULL_SCALE, torch.arange(start, start + CROP).float())


def level_db(noise: Tensor) -> float:
    return 10 * float(torch.log10(noise.double().square().mean() + 1e-12))


def compare(ours: Levels, nemo: Levels) -> Iterator[Row]:
    for number, kind in enumerate(KINDS):
        yield same_share("data", f"noise: share of {kind}", ours["kind"] == number, nemo["kind"] == number, MODULE)
    yield same_distribution("data", "noise: where a piece begins", ours["start"], nemo["start"], MODULE)
    yield same_share("data", "noise: pieces that aren't of the file", ours["strange"], nemo["strange"], MODULE)
    yield lengths_row(ours["length"], nemo["length"])
    yield same_distribution("data", "noise: level of a silent file, dB", ours["level"], nemo["level"], MODULE)
    yield zero_mean_row(ours["added to zero mean"], nemo["added to zero mean"])
    yield offset_row(ours["start with offset"], nemo["start with offset"])
    for name, what in (("your level", "level, dB"), ("your length", "length, samples")):
        title = f"noise of your manifest: {what}"
        if name in nemo and name in ours:
            yield same_distribution("data", title, ours[name], nemo[name], MODULE)
        elif name in nemo:
            yield Row("data", title, NOT_RUN, reason="the manifest of noise isn't here", module=MODULE)


def lengths_row(ours: Tensor, nemo: Tensor) -> Row:
    """A file shorter than the utterance has its own length, on both sides."""
    what, reason = "noise: length of a short file", "lengths have no rounding"
    wrong = sum(int((lengths != SHORT_NOISE).sum()) for lengths in (ours, nemo))
    detail = f"{ours.unique().tolist()} instead of {nemo.unique().tolist()}, file {SHORT_NOISE}" if wrong else ""
    return Row("data", what, FAILED if wrong else PASSED, float(wrong), 0.0, reason, detail, MODULE)


def zero_mean_row(ours: Tensor, nemo: Tensor) -> Row:
    """Largest sample that was added to a loud file of zero mean."""
    what, reason = "noise: file of zero mean", "NeMo takes it for silence, and adds white noise; ours goes by energy"
    if ours > 0:
        return Row("data", what, FAILED, ours.item(), 0.0, reason, f"ours added up to {ours.item():.2g}", MODULE)
    status = KNOWN if nemo > 0 else PASSED
    return Row("data", what, status, 0.0, 0.0, reason, f"NeMo added up to {nemo.item():.2g}", MODULE)


def offset_row(ours: Tensor, nemo: Tensor) -> Row:
    """Where pieces begin of a noise that is itself a piece of its file."""
    what, reason = "noise: piece of a file", "NeMo crops from the start of the file, ours from the line's offset"
    low, high = PIECE_START, PIECE_START + PIECE_SAMPLES - CROP
    spread = f"ours {int(ours.min())} to {int(ours.max())}, NeMo {int(nemo.min())} to {int(nemo.max())}"
    if ours.min() < low or ours.max() > high:
        return Row("data", what, FAILED, reason=reason, detail=f"{spread}; the line has {low} to {high}", module=MODULE)
    same = nemo.min() >= low and nemo.max() <= high
    return Row("data", what, PASSED if same else KNOWN, reason=reason, detail=spread, module=MODULE)
