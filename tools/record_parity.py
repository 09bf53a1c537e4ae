"""Record what the real NeMo computes for small models, for tests/parity/test_records.py to ask of this project.

    python tools/record_parity.py [--out tests/parity/records] [--only NAME]

Run it in an environment that has NeMo (nemo_toolkit[asr]==3.0.0); nothing else of this project is needed.
A record is one safetensors file: start weights (`start/...`) and all levels of `tools/parity/levels.py`; its metadata
say which versions, seed and script made it, and hold the configuration. Inputs stand in two files of their own.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.parity.cases import CASES, NEMO, SEED, Case, make_audio, make_masks, seed_everything, shift_weights
from tools.parity.comparison import without_noise
from tools.parity.levels import Levels, measure
from tools.parity.records import RECORDS, START, start_weights

ENTRANCE = ("input_gradient/", "gradient/pre_encode.", "gradient/encoder.pre_encode.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Record what the real NeMo computes for small models.")
    parser.add_argument("--out", type=Path, default=RECORDS, help="folder to write to")
    parser.add_argument("--only", default="", help="record cases whose name contains this")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    import nemo  # here, so that --help works without it

    logging.disable(logging.WARNING)
    origin = {
        "nemo_version": nemo.__version__,
        "torch_version": torch.__version__,
        "seed": str(SEED),
        "script": "tools/record_parity.py",
    }
    inputs = {"inputs_encoder": encoder_inputs(), "inputs_model": make_audio() | {"masks": make_masks()}}
    for name, tensors in inputs.items():
        write(args.out / f"{name}.safetensors", tensors, origin)
    for name in (name for name in CASES if args.only in name):
        case = CASES[name]
        tensors = record(case, inputs[case.inputs])
        description = {"class_path": case.class_path, "config": json.dumps(case.config), "inputs": case.inputs}
        write(args.out / f"{name}.safetensors", tensors, origin | description)


def write(path: Path, tensors: Levels, metadata: dict[str, str]) -> None:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata=metadata)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def record(case: Case, inputs: Levels) -> Levels:
    """Start weights and levels of a model that NeMo builds."""
    seed_everything(SEED)
    module = case.build(NEMO)
    shift_weights(module, SEED)
    start = {START + name: value for name, value in start_weights(module).items()}
    levels = without_noise(measure(case, module, inputs))
    zeros = [name for name, value in levels.items() if name.startswith(ENTRANCE) and not value.any()]
    if zeros:
        raise RuntimeError(f"dead ReLUs, {zeros} are zero: take another seed or more channels for {case.config}")
    return start | levels


def encoder_inputs(frames: int = 105) -> Levels:
    """Log-mel features (3, 16, frames) of synthetic speech, in lengths that no subsampling factor divides."""
    preprocessor = Case(
        "modules.audio_preprocessing.AudioToMelSpectrogramPreprocessor",
        {"features": 16, "dither": 0.0, "pad_to": 0, "n_fft": 512},
    ).build(NEMO)
    audio = make_audio(SEED + 1)
    features, _ = preprocessor.eval()(input_signal=audio["noisy"] / 32768, length=audio["lengths"])
    lengths = torch.tensor([frames, 74, 33])
    features = torch.stack([features[0, :, :frames], features[1, :, :frames], features[0, :, -frames:]])
    return {"features": features, "feature_lengths": lengths}


if __name__ == "__main__":
    main()
