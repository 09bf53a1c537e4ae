"""Check manifests and all of their audio before a run.

    python tools/doctor.py train.json noise.json
    python tools/doctor.py train.json --rejects rejects.jsonl --json report.json
    python tools/doctor.py train.json --fix                  writes train.clean.json beside it
    python tools/doctor.py tarred/tarred_audio_manifest.json --tarred_audio_filepaths tarred/audio__OP_0..7_CL_.tar

Every line is read as a data set reads it, in parallel, and either used, left out for its duration, or rejected for the
same reason. Exit code: 0, none is rejected; 1, some are, or none is left to use; 2, the check couldn't be made; 130,
interrupted.
"""

import argparse
import gzip
import json
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.tarred import tar_table
from parts.preprocessing.manifest import manifest_lines, read_table
from parts.preprocessing.manifest_paths import manifest_paths
from parts.preprocessing.segment import ChannelSelector, check_channel_selector
from parts.preprocessing.utterances import UtteranceTable
from tools.checkup.clean import Cleaned, clean_path, write_clean
from tools.checkup.columns import Columns
from tools.checkup.line_check import REJECTED, LineCheck, listed
from tools.checkup.processes import Lost, share_out
from tools.checkup.report import summarise
from tools.checkup.text import ascii_only, in_words
from utils.cores import usable_cores
from utils.logging import logger

CLEAN, SICK, NOT_CHECKED, INTERRUPTED = 0, 1, 2, 130
MOST_WORKERS = 16  # unless asked for; each takes 0.25 GB and more


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        table = prepare(args)
    except (ValueError, OSError) as error:
        return say_error(error)
    try:
        return check(args, table)
    except OSError as error:  # a result that can't be written
        return say_error(error)


def say_error(error: Exception) -> int:
    print(f"error: {ascii_only(str(error))}", file=sys.stderr)
    return NOT_CHECKED


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check manifests and all of their audio before a run.")
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST", help="as manifest_filepath in a config")
    parser.add_argument("--tarred_audio_filepaths", nargs="+", metavar="TAR", help="the audio is in these tar files")
    parser.add_argument("--sample_rate", type=int, default=16000, help="Hz; lower files are counted (default: 16000)")
    parser.add_argument("--channel_selector", type=channel_selector, default="average", help="average, 0, or 0,1, ...")
    parser.add_argument("--min_duration", type=float, help="seconds; shorter lines are left out, as in the run")
    parser.add_argument("--max_duration", type=float, help="seconds; longer lines are left out, as in the run")
    parser.add_argument("--noise", action="store_true", help="these are noise manifests, where silence is allowed")
    parser.add_argument(
        "--num_workers", type=int, default=min(usable_cores(), MOST_WORKERS), help="processes (default: cores, to 16)"
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which a file is given up")
    parser.add_argument("--rejects", type=Path, help="write rejected lines to this file, as JSON lines")
    parser.add_argument("--json", help="write the whole report to this file; - for standard output")
    parser.add_argument("--fix", action="store_true", help="write NAME.clean.json beside each manifest")
    parser.add_argument("--force", action="store_true", help="let --fix overwrite existing files")
    args = parser.parse_args(arguments)
    lowest, highest = args.min_duration or 0.0, math.inf if args.max_duration is None else args.max_duration
    for name, is_right, right in (
        ("sample_rate", args.sample_rate >= 1, "at least 1"),
        ("num_workers", args.num_workers >= 0, "at least 0; 0 checks in this process, which a broken file may end"),
        ("timeout", args.timeout > 0, "above 0"),
        ("min_duration", lowest >= 0, "0 or more"),
        ("max_duration", highest >= 0, "0 or more"),
        ("max_duration", highest >= lowest, "at least --min_duration"),
    ):
        if not is_right:
            parser.error(f"--{name}={getattr(args, name)} is not {right}")
    return args


def channel_selector(text: str) -> ChannelSelector:
    numbers = [int(x) if x.strip().isdigit() else x for x in text.split(",")]
    selector = numbers[0] if len(numbers) == 1 else numbers
    try:
        check_channel_selector(selector)
    except ValueError as error:  # argparse would only repeat the value
        raise argparse.ArgumentTypeError(str(error)) from None
    return selector


def prepare(args: argparse.Namespace) -> UtteranceTable:
    """The lines of the manifests, each named once. Finds out now, not after an hour, whether results can be written."""
    named = manifest_paths(args.manifests, "MANIFEST")
    paths = list({os.path.realpath(path): path for path in reversed(named)}.values())[::-1]
    for path in paths:
        if "recording" in (entry := first_entry(path)) and "audio_filepath" not in entry:
            raise ValueError(f"{path} holds lhotse's cuts; only manifests with audio_filepath can be checked")
    for path in (args.rejects, args.json and args.json != "-" and Path(args.json)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for path in map(clean_path, paths) if args.fix else ():
        if os.path.realpath(path) in map(os.path.realpath, paths):
            raise ValueError(f"--fix would overwrite {path}, which is to be checked itself; leave one of the two out")
        if path.exists() and not args.force:
            raise ValueError(f"--fix: {path} exists; move it away, or add --force to overwrite it")
    with quiet():
        if args.tarred_audio_filepaths:
            return tar_table(args.tarred_audio_filepaths, paths, "doctor")
        return read_table(paths)


def first_entry(manifest: str) -> dict:
    """The JSON object in the first line of a manifest, also of one that is packed by gzip; {} where there is none."""
    try:
        if manifest.endswith(".gz"):
            with gzip.open(manifest) as file:
                line = file.readline()
        else:
            line = next(manifest_lines(manifest), b"")
        entry = json.loads(line.decode("utf-8-sig"))
    except (ValueError, OSError):  # no JSON, no gzip
        return {}
    return entry if isinstance(entry, dict) else {}


def check(args: argparse.Namespace, table: UtteranceTable) -> int:
    line_check = LineCheck(
        sample_rate=args.sample_rate,
        channel_selector=args.channel_selector,
        min_duration=args.min_duration,
        max_duration=args.max_duration,
        noise=args.noise,
    )
    columns = check_lines(table, line_check, num_workers=args.num_workers, patience_seconds=args.timeout)
    report = summarise(columns, asdict(line_check))
    if args.rejects:
        lines = (json.dumps(bad) + "\n" for bad in report["rejects"])
        with open(args.rejects, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
    if args.json == "-":
        print(json.dumps(report, indent=2))
    else:
        print(in_words(report))
    if args.json not in (None, "-"):
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if args.fix:
        for cleaned in write_clean(columns):
            print(what_was_done(cleaned), file=sys.stderr if args.json == "-" else sys.stdout)
    may_be_of_tars = not report["used"] and not args.tarred_audio_filepaths
    if may_be_of_tars and any("shard_id" in first_entry(path) for path in table.manifests):
        print("these lines are of tar shards: name the tar files, with --tarred_audio_filepaths", file=sys.stderr)
    return CLEAN if report["used"] and not report["rejected"] else SICK


def check_lines(
    table: UtteranceTable, line_check: LineCheck, *, num_workers: int = 0, patience_seconds: float = 600.0
) -> Columns:
    """Look at every row of a table, with a progress bar where somebody watches."""
    columns = Columns(table, line_check.sample_rate)
    rows_alone = table[:]
    rows_alone.rejected = ()  # else they would travel with every part
    results = share_out(rows_alone, line_check, num_workers=num_workers, patience_seconds=patience_seconds)
    with quiet():
        for row, result in tqdm(results, total=len(table), unit=" lines", ascii=True, disable=None):
            if isinstance(result, Lost):
                result = listed(table[row], REJECTED, "unreadable", result.detail)
            columns.add(row, result)
    return columns


@contextmanager
def quiet() -> Iterator[None]:
    """What decoding would log is in the results."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def what_was_done(cleaned: Cleaned) -> str:
    return (
        f"Wrote {ascii_only(str(cleaned.path))}: {cleaned.kept} lines ({cleaned.corrected} with a new duration), "
        f"without {cleaned.rejected} rejected and {cleaned.repeated} repeated ones"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
