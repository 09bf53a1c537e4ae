"""Seconds until a NEST model class is imported, here and in NeMo, and how many of them torch and Lightning cost.

    python tools/import_time.py [--nemo-python PATH] [--runs 5]

Each figure is of a fresh Python process; the sides take turns, so that a drift of the machine's speed meets both. PATH
is the Python of an environment with NeMo; without it only this project is measured.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.benchmark.figures import repeat, spread
from tools.parity.speed import SIDE, import_figures
from utils.errors import one_line_errors


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nemo-python", help="Python of an environment with NeMo")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args(arguments)
    pythons = {"ours": sys.executable} | ({"nemo": args.nemo_python} if args.nemo_python else {})
    with one_line_errors(2):
        repeat(pythons, SIDE, 1, import_figures)  # unmeasured: files come into the system's cache
        for figure in repeat(pythons, SIDE, args.runs, import_figures):
            print(f"{figure.name:26s} nest-ssl {spread(figure.ours):22s} NeMo {spread(figure.nemo):22s} {figure.unit}")


if __name__ == "__main__":
    main()
