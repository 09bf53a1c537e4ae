"""Is it really the same model? Compare this project with NeMo, from features to parameters after optimizer steps.

python tools/compare_with_nemo.py                         against the records of NeMo kept in this project
python tools/compare_with_nemo.py --nemo-python PATH      against the NeMo of another environment, run now
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.parity.cases import CASES
from tools.parity.compare import Comparison, compare_with
from tools.parity.jobs import kept_job
from tools.parity.records import RECORDS, save
from tools.parity.sources import KeptRecords, LiveNemo, Source
from utils.errors import one_line_errors


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nemo-python", metavar="PATH", help="Python of an environment with NeMo")
    parser.add_argument("--record", type=Path, nargs="?", const=RECORDS, metavar="FOLDER", help="make the records anew")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when all that was compared is equal, else 1."""
    args = parse_arguments(arguments)
    with one_line_errors(2), tempfile.TemporaryDirectory() as temporary:
        source = open_source(args, Path(temporary))
        try:
            return run(args, source, Path(temporary))
        finally:
            source.close()


def open_source(args: argparse.Namespace, folder: Path) -> Source:
    """NeMo itself where it is given or installed here, else the records."""
    if args.nemo_python or importlib.util.find_spec("nemo"):
        return LiveNemo(args.nemo_python or sys.executable, folder)
    if args.record:
        raise ValueError("--record needs NeMo: give --nemo-python PATH")
    return KeptRecords()


def run(args: argparse.Namespace, source: Source, folder: Path) -> int:
    comparisons: list[Comparison] = []
    for name in (name for name in CASES if args.only in name):
        record = source.record(kept_job(name))
        if args.record:
            save(record, args.record / f"{name}.safetensors")
        comparisons.append(compare_with(record, folder))
        tell(comparisons[-1])
    return 0 if all(c.passed for c in comparisons) else 1


def tell(comparison: Comparison) -> None:
    print(comparison.name, "passed" if comparison.passed else "FAILED", comparison.culprit, comparison.failed[:3])


if __name__ == "__main__":
    sys.exit(main())
