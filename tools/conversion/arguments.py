"""What the programs that write models take and refuse alike."""

import argparse
from pathlib import Path


def new_parser(description: str) -> argparse.ArgumentParser:
    """description: a program's docstring, whose first line stands above the options and the rest below them."""
    summary, _, examples = description.partition("\n")
    return argparse.ArgumentParser(
        description=summary, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        choices=("trained", "ema"),
        default="trained",
        help="of a .ckpt whose run averaged its weights (exp_manager.ema): those as trained, the default, or the "
        "moving averages",
    )


def check_free(path: Path, force: bool) -> None:
    """Raise FileExistsError where something stands already, but for an empty folder."""
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not force:
        raise FileExistsError(f"{path} is there already: give another name, or --force to replace it")
