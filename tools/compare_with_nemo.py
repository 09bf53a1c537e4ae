"""Is it really the same model? Compares this project with NeMo: configuration, weights, features, tokens, masks, every
layer, loss, gradients, optimizer steps, data and checkpoint files.

    python tools/compare_with_nemo.py                                    against the records of NeMo kept here
    python tools/compare_with_nemo.py --nemo-python PATH                 against the NeMo of another environment
    python tools/compare_with_nemo.py --nemo-python PATH --config x.yaml model.encoder.n_layers=4
    python tools/compare_with_nemo.py --nemo-python PATH --checkpoint x.nemo --audio a.wav b.flac --html report.html

Both sides get the same weights, inputs and masks. NeMo runs in a process of its own, in the environment of PATH, or in
this one where it is installed. Where something differs, the first module that gets what NeMo's gets and gives something
else is named. What is compared and how closely, and how to read a failure: docs/parity.md.

Exit code: 0 if something was compared and all of it is equal, 1 if something differs, 2 for a mistake in the arguments,
3 if nothing differs but something could not be compared, as NeMo's process failed (all else is compared and written).
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.parity.arguments import check, parse_arguments
from tools.parity.cases import CASES, LEVELS, STEPS
from tools.parity.compare import Comparison, broken_off, compare_with
from tools.parity.jobs import LIVE_CASES, kept_job
from tools.parity.kept_records import keep
from tools.parity.known_versions import for_version, noted
from tools.parity.own_job import own_job
from tools.parity.records import RECORDS, Job
from tools.parity.report import as_json, html, markdown, terminal
from tools.parity.report.summary import Report
from tools.parity.sources import KeptRecords, LiveNemo
from tools.parity.speed import REPETITIONS, Figure, measure_speed
from tools.parity.versions import version_notes
from tools.side_process import SideFailed
from utils.errors import one_line_errors

SPEED_MODEL = ("model_size=small",)


def main(arguments: list[str] | None = None) -> int:
    """The exit code, see above."""
    args = parse_arguments(arguments, __doc__)
    with one_line_errors(2, also=(OSError,)):
        check(args)
        return run(args)


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        own = job_of(args) if args.own else None
        python = nemo_python(args)
        if python is None:
            return tell(args, compare_kept(args, folder))
        with LiveNemo(python, folder) as nemo:
            return tell(args, compare_live(args, own, nemo, folder))


def nemo_python(args: argparse.Namespace) -> str | None:
    """The Python that has NeMo: the one given, else this one if it has it; None for the kept records."""
    if args.records:
        return None
    if args.nemo_python:
        return args.nemo_python
    if importlib.util.find_spec("nemo"):
        return sys.executable
    if args.record or args.own:
        asked = "--record" if args.record else "a configuration, checkpoint, audio or manifest of your own"
        raise ValueError(f"{asked} needs NeMo: give --nemo-python PATH, the Python of an environment that has it")
    return None


def compare_kept(args: argparse.Namespace, folder: Path) -> Report:
    """Against the records of a folder, whatever they are of."""
    records = KeptRecords(args.records or RECORDS)
    comparisons = [compare_with(record, folder) for record in records.named(args.only)]
    if not comparisons:
        raise ValueError(f"--only={args.only}: no record has this in its name")
    return Report(comparisons, records.description, speed=speed_of(args, None, {}))


def compare_live(args: argparse.Namespace, own: Job | None, nemo: LiveNemo, folder: Path) -> Report:
    """Against NeMo, run now."""
    comparisons = []
    for job in [noted(own, nemo.nemo_version)] if own else jobs(args):
        comparisons.append(compare_job(job, nemo, folder, args.record))
        terminal.progress(comparisons[-1])
    if not comparisons:
        raise ValueError(f"--only={args.only}: no case has this in its name")
    versions = [] if own else version_notes(nemo, only=args.only)
    return Report(comparisons, nemo.description, speed=speed_of(args, own, {"nemo": nemo.python}), versions=versions)


def compare_job(job: Job, nemo: LiveNemo, folder: Path, kept_in: Path | None) -> Comparison:
    """kept_in: where NeMo's record is kept, if anywhere. Where NeMo's process fails, that is what came of the job."""
    job = for_version(job, nemo.nemo_version)
    try:
        record = nemo.record(job)
    except SideFailed as error:
        return broken_off(job, nemo.origin, error.in_one_line)
    if kept_in:
        keep(record, kept_in)
    return compare_with(record, folder)


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """Those of the records, and of the other cases unless records are made."""
    names = [*CASES, *(() if args.record else LIVE_CASES)]
    for name in (name for name in names if args.only in name):
        yield kept_job(name) if name in CASES else LIVE_CASES[name]()


def job_of(args: argparse.Namespace) -> Job:
    """The user's own one."""
    return own_job(
        args.config, args.overrides, args.checkpoint, args.audio, noise=args.noise, manifest=args.manifest,
        noise_manifest=args.noise_manifest, steps=STEPS if args.steps is None else args.steps,
        until=args.until or LEVELS[-1],
    )  # fmt: skip


def speed_of(args: argparse.Namespace, own: Job | None, nemo: dict[str, str]) -> list[Figure]:
    """Of the user's own model and audio, else of the small size on synthetic speech: the cases are too tiny for it."""
    if not args.speed:
        return []
    terminal.say("measuring speed ...")
    batch = {"batch": None} if args.audio else {}
    pythons = {"ours": sys.executable, **nemo}
    job = own or own_job(overrides=SPEED_MODEL)
    try:
        return measure_speed(job, pythons, args.repetitions or REPETITIONS, **batch)
    except SideFailed as error:  # ours
        return [Figure("nothing could be measured", "", False, note=error.in_one_line)]


def tell(args: argparse.Namespace, report: Report) -> int:
    """Write the files first: who reads the text may stop (`| head`). Returns the exit code."""
    try:
        write_files(args, report)
        terminal.show(report, verbose=args.verbose)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
    return report.exit_code


def write_files(args: argparse.Namespace, report: Report) -> None:
    if args.json:
        write(args.json, as_json.to_json(report))
    if args.html:
        write(args.html, html.to_html(report))
    if args.markdown and not report.passed:
        terminal.say(f"not written, as not all passed: {', '.join(map(str, args.markdown))}")
    for path in args.markdown if report.passed else ():
        language = "zh" if path.stem.endswith("zh-CN") else "en"
        table = markdown.parity_table(report.comparisons, language=language)
        write(path, markdown.replace_table(path.read_text(encoding="utf-8"), table))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    terminal.say(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
