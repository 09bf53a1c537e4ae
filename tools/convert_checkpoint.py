"""Convert a model between Lightning, NeMo, Hugging Face, safetensors and ONNX, and check that it stays the same model.

    python tools/convert_checkpoint.py run.ckpt nest.nemo                 # for NeMo, or model.restore_from=nest.nemo
    python tools/convert_checkpoint.py nest.nemo parakeet/                # for transformers: ParakeetEncoder
    python tools/convert_checkpoint.py parakeet/ nest.nemo --base old.nemo
    python tools/convert_checkpoint.py run.ckpt nest.onnx --with-preprocessor --weights ema

Names tell the formats: .ckpt, .nemo, .safetensors, .onnx (written only), and for Hugging Face a folder. Folders and
ONNX files hold the encoder and its features; the others a whole model, or with --encoder-only the same.
What was written is read again and run beside what was read, on the same ragged batch of speech; if the largest
difference is above the format's tolerance, nothing is left behind and the exit code is 1. Nothing is downloaded.
"""

import argparse
import glob
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.conversion.arguments import add_weights, check_free, new_parser
from tools.conversion.formats import FOLDER, FORMATS, ONNX_WITH_PREPROCESSOR, Format, kind_of, read_file
from tools.conversion.onnx_file import weights_beside
from tools.conversion.self_check import Difference, Speech, check, load, make_speech, synthesise
from tools.conversion.speech_encoder import encoder_of, with_encoder
from utils.checkpoint_files.checkpoint_file import BadCheckpoint
from utils.checkpoint_files.files import UNFINISHED
from utils.errors import one_line_errors

MISTAKES = (OSError, BadCheckpoint)  # a user's wherever they are raised


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    source, target = find_format(args, is_input=True), find_format(args, is_input=False)
    source.check_installed()
    target.check_installed()
    check_free(Path(args.output), args.force)
    model = read(args, source)
    if args.encoder_only or not target.holds_whole_models:
        model = encoder_of(model)
    rate = model.cfg.preprocessor.get("sample_rate", 16000)
    speech = make_speech(model, load(args.audio, rate) if args.audio else synthesise(rate))
    print(f"{args.input} ({source.title}) -> {args.output} ({target.title})")
    print(f"largest differences on utterances of {durations(speech)} s, {'recorded' if args.audio else 'synthesised'}:")
    if not source.holds_whole_models:  # run by another library; `model` is what stands in any other file
        show(args.input, check(model, source.run(Path(args.input), speech), source.tolerances, args.input, speech))
    with placed(Path(args.output), as_folder=target is FORMATS[FOLDER]) as unfinished:
        target.write(model, unfinished)
        show(args.output, check(model, target.run(unfinished, speech), target.tolerances, args.output, speech))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("input", metavar="IN", help="a file or folder")
    parser.add_argument("output", metavar="OUT", help="a file or folder that isn't there yet")
    parser.add_argument("--force", action="store_true", help="replace what OUT is now")
    parser.add_argument("--encoder-only", action="store_true", help="without quantizer and decoder")
    add_weights(parser)
    parser.add_argument("--base", help="a whole model that gets the encoder of IN in place of its own")
    parser.add_argument("--with-preprocessor", action="store_true", help="ONNX: from the waveform, not from features")
    parser.add_argument("--audio", nargs="+", type=Path, metavar="FILE", help="speech to check with, best of your own")
    return parser.parse_args(arguments)


def find_format(args: argparse.Namespace, *, is_input: bool) -> Format:
    """The format of IN or OUT. Raises ValueError for what can't be read, and for options of other formats."""
    kind = kind_of(args.input if is_input else args.output, is_input=is_input)
    if is_input:
        if FORMATS[kind].read is None:
            raise ValueError(f"{args.input}: {kind} files are written only; convert the file that it was made from")
        if args.weights != "trained" and kind != ".ckpt":
            raise ValueError(f"--weights {args.weights} is for .ckpt files, not for {args.input}")
    elif args.with_preprocessor:
        if kind != ".onnx":
            raise ValueError(f"--with-preprocessor is for .onnx files, not for {args.output}")
        return ONNX_WITH_PREPROCESSOR
    return FORMATS[kind]


def read(args: argparse.Namespace, source: Format) -> nn.Module:
    """The model of IN, or that of --base with the encoder of IN."""
    path = Path(args.input)
    model = source.read(path) if args.weights == "trained" else read_file(path, args.weights)
    if args.base is None:
        return model
    base = FORMATS[kind_of(args.base, is_input=True)]
    if base.read is None or not base.holds_whole_models:
        raise ValueError(f"--base {args.base} holds no whole model: give a .nemo, .ckpt or .safetensors file")
    return with_encoder(base.read(Path(args.base)), model, args.input)


def durations(speech: Speech) -> str:
    return ", ".join(f"{n / speech.sample_rate:.2f}" for n in speech.audio_lengths.tolist())


def show(name: str, differences: list[Difference]) -> None:
    for difference in differences:
        print(f"  {name}: {difference}")


@contextmanager
def placed(path: Path, *, as_folder: bool) -> Iterator[Path]:
    """Give a path to write to; what was written takes its place only if no error comes.

    Files that a folder holds besides stay; weights that an ONNX file had beside it go with it.
    """
    workshop = new_workshop(path)
    try:
        yield workshop if as_folder else workshop / path.name
        folder = path if as_folder else path.parent
        folder.mkdir(exist_ok=True)
        files = sorted(workshop.iterdir(), key=lambda file: file.name == path.name)  # what it refers to first
        for file in files:
            file.replace(folder / file.name)
        for older in set(weights_beside(path)) - {folder / file.name for file in files}:
            older.unlink()
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def new_workshop(path: Path) -> Path:
    """A folder beside `path`, in place of those that killed conversions to this name have left.

    Raises OSError, naming the folder, where nothing can be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}{UNFINISHED}"):
            shutil.rmtree(left)
        workshop = path.parent / f".{path.name}.{uuid4().hex[:8]}{UNFINISHED}"
        workshop.mkdir()
    except OSError as error:
        raise type(error)(f"nothing can be written to {path.parent}: {error.strerror}") from error
    return workshop


if __name__ == "__main__":
    with one_line_errors(also=MISTAKES):
        main()
