"""Seconds until a NEST model class is imported, here and in NeMo, above what torch and Lightning cost in both.

    python tools/import_time.py [--nemo-python PATH] [--runs 5]

Each figure is the wall time of a fresh Python process; the programs take turns, so that a drift of the machine's speed
meets all of them. PATH is the Python of an environment with NeMo; without it only this project is measured.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = "import torch, lightning.pytorch"
OURS = f"{BASE}, models.ssl_models"
NEMO = f"{BASE}, nemo.collections.asr.models.ssl_models"
BASE_HERE, BASE_NEMO = "torch and lightning", "torch and lightning, NeMo's environment"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nemo-python", help="Python of an environment with NeMo")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    programs = {BASE_HERE: (sys.executable, BASE), "nest-ssl": (sys.executable, OURS)}
    if args.nemo_python:
        programs[BASE_NEMO] = (args.nemo_python, BASE)
        programs["NeMo"] = (args.nemo_python, NEMO)
    for python, code in programs.values():
        seconds_of(python, code)  # once unmeasured: files come into the page cache
    seconds = {name: [] for name in programs}
    for _ in range(args.runs):
        for name, program in programs.items():
            seconds[name].append(seconds_of(*program))
    for name, values in seconds.items():
        print(f"{name:42s} median {statistics.median(values):5.2f} s  ({min(values):.2f} to {max(values):.2f})")
    print(f"nest-ssl beyond torch and lightning: {beyond(seconds, 'nest-ssl', BASE_HERE):.2f} s")
    if args.nemo_python:
        print(f"NeMo beyond them: {beyond(seconds, 'NeMo', BASE_NEMO):.2f} s")


def seconds_of(python: str, code: str) -> float:
    started = time.perf_counter()
    subprocess.run([python, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def beyond(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median over the rounds of the difference within one round."""
    return statistics.median(a - b for a, b in zip(seconds[name], seconds[base]))


if __name__ == "__main__":
    main()
