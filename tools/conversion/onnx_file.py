"""The encoder of a model as an ONNX file, for any batch size and any length of audio."""

import glob
import importlib
import importlib.util
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from core.classes import NeuralModule
from tools.conversion.onnx_layers import exportable
from utils.checkpoint_files.files import written_whole

OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OLDEST_TORCH = (2, 7)  # the first whose exporter takes names of axes in `dynamic_shapes`
LARGEST_FILE_BYTES = 2**31 - 2**26  # protobuf ends at 2 GiB; the graph itself needs some of it
OUTPUTS = ("encoded", "encoded_lengths")
PROJECT = Path(__file__).resolve().parents[2]
SECTIONS = ("sample_rate", "preprocessor", "encoder")  # of a model's config: what concerns the encoder


class FeatureEncoder(NeuralModule):
    """features (B, F, T), lengths (B,) in frames -> encoded (B, D, S), encoded_lengths (B,) in steps."""

    axes = ("features", "frames")

    def __init__(self, model: nn.Module):
        super().__init__()
        self.encoder = model.encoder

    def example(self) -> Tensor:
        return torch.zeros(2, self.encoder._feat_in, 403)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(audio_signal=features, length=lengths)


class WaveformEncoder(NeuralModule):
    """waveform (B, N), lengths (B,) in samples -> encoded (B, D, S), encoded_lengths (B,) in steps."""

    axes = ("waveform", "samples")

    def __init__(self, model: nn.Module):
        super().__init__()
        if getattr(model.preprocessor.featurizer, "pad_to", None) == "max":
            raise ValueError("preprocessor.pad_to='max' fits one length only, ONNX files take any: set it to a number")
        self.preprocessor = model.preprocessor
        self.encoder = model.encoder

    def example(self) -> Tensor:
        return torch.zeros(2, 32123)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        features, frames = self.preprocessor(input_signal=waveform, length=lengths)
        return self.encoder(audio_signal=features, length=frames)


def write_onnx(model: nn.Module, path: str | Path, *, with_preprocessor: bool) -> None:
    """Write a model's encoder, in evaluation mode, as an ONNX file that is there whole or not at all.

    model: a NEST model, or what has its `encoder`, `preprocessor` and `cfg`; stays as it is.
    with_preprocessor: the file's inputs are `waveform` (B, N) float32 and `lengths` (B,) int64 in samples, else
        `features` (B, F, T) and `lengths` in frames. Outputs: `encoded` (B, D, S), `encoded_lengths` (B,).
    The file tells the sample rate, the sections of the config that made the encoder, and this project's version in
    its metadata. Weights of 2 GB and more stand in a second file beside it, which it names: move them together.
    Raises ImportError, naming the command, where packages or a recent torch are missing, and ValueError, naming the
    option, for what can't be exported.
    """
    check_installed()
    exported = (WaveformEncoder if with_preprocessor else FeatureEncoder)(model)
    check_dtype(exported)
    with exported.as_frozen(), exportable(exported):
        program = export(exported)
    check_sizes_are_free(program.model)
    program.model.metadata_props.update(metadata(model, with_preprocessor))
    save(program.model, Path(path))


def run_onnx(path: str | Path, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run a file of `write_onnx` on the CPU with (features, lengths) or (waveform, lengths)."""
    check_installed()
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    outputs = session.run(OUTPUTS, {name: x.detach().cpu().numpy() for name, x in zip(names, inputs, strict=True)})
    return tuple(map(torch.from_numpy, outputs))


def check_installed() -> None:
    """Raise ImportError, with what to type, unless ONNX files can be written and run here."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX files need {', '.join(missing)}: pip install -r requirements-convert.txt")
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < OLDEST_TORCH:
        needed = ".".join(map(str, OLDEST_TORCH))
        raise ImportError(f"ONNX files need torch {needed} or newer, this is {torch.__version__}: pip install -U torch")


def check_dtype(module: nn.Module) -> None:
    """Raise ValueError unless all it computes with is float32."""
    for name, x in (*module.named_parameters(), *module.named_buffers()):
        if x.is_floating_point() and x.dtype != torch.float32:
            raise ValueError(f"{name} is {x.dtype}; the ONNX file would hold float32: call model.float() first")


def export(module: FeatureEncoder | WaveformEncoder) -> "torch.onnx.ONNXProgram":
    """Trace the module with symbols in the place of batch and time."""
    signal, time = module.axes
    x = module.example().to(next(module.parameters()).device)
    lengths = torch.full((len(x),), x.size(-1), device=x.device)
    with quiet_exporter():
        return torch.onnx.export(
            module,
            (x, lengths),
            input_names=[signal, "lengths"],
            output_names=list(OUTPUTS),
            dynamic_shapes={signal: {0: "batch", x.dim() - 1: time}, "lengths": {0: "batch"}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )


def check_sizes_are_free(model: "onnxscript.ir.Model") -> None:  # noqa: F821  (imported where it is needed)
    """An exporter that meets a branch on a size fixes that size without a word; ours may not."""
    for value in model.graph.inputs:
        for axis in {0, len(value.shape) - 1}:
            if isinstance(value.shape[axis], int):
                raise RuntimeError(
                    f"torch {torch.__version__} wrote {value.name} for size {value.shape[axis]} of axis {axis} only"
                )


def metadata(model: nn.Module, with_preprocessor: bool) -> dict[str, str]:
    """What the file tells about itself: text under text. The config comes without data sections, so without paths."""
    config = OmegaConf.to_container(model.cfg, resolve=True) if OmegaConf.is_config(model.cfg) else dict(model.cfg)
    return {
        "nest_ssl_version": project_version(),
        "config": json.dumps({key: value for key, value in config.items() if key in SECTIONS}),
        "sample_rate": str(model.preprocessor._sample_rate),
        "input": "waveform" if with_preprocessor else "features",
        "opset": str(OPSET),
        "torch_version": torch.__version__,
    }


def project_version() -> str:
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(r'^version = "(.+)"$', text, flags=re.MULTILINE)[1]


def save(model: "onnxscript.ir.Model", path: Path) -> None:  # noqa: F821
    """Write the file; weights too big for it go before it into one of their own, under a name not used before.

    So the file that is there always finds its own weights, and the weights of the file before it can go at the end.
    """
    ir = importlib.import_module("onnxscript").ir
    total = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    weights = path.with_name(f"{path.name}.{uuid4().hex[:8]}.data")
    try:
        with written_whole(path) as unfinished:
            if total < LARGEST_FILE_BYTES:
                ir.save(model, unfinished, format="protobuf")
            else:
                ir.save(model, unfinished, format="protobuf", external_data=weights.name)
                flush(weights)
    except BaseException:
        weights.unlink(missing_ok=True)
        raise
    for older in weights_beside(path):
        if older != weights:
            older.unlink()


def weights_beside(path: Path) -> list[Path]:
    """The files of their own that exports under this name have written their weights to."""
    return list(path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 8}.data"))


def flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """What torch's exporter says on the way concerns its authors; its errors are raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
