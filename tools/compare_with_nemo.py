"""Is it really the same model? Compares this project with NeMo: configuration, weights, features, tokens, masks, every
layer, loss, gradients, optimizer steps, data and checkpoint files. Exits with 0 only if all of it is equal.

    python tools/compare_with_nemo.py                                    against the records of NeMo kept here
    python tools/compare_with_nemo.py --nemo-python PATH                 against the NeMo of another environment
    python tools/compare_with_nemo.py --nemo-python PATH --config x.yaml model.encoder.n_layers=4
    python tools/compare_with_nemo.py --nemo-python PATH --checkpoint x.nemo --audio a.wav b.flac --html report.html

Both sides get the same weights, inputs and masks. NeMo runs in a process of its own, in the environment of PATH, or in
this one where it is installed. Where something differs, the first module that gets what NeMo's gets and gives something
else is named. What is compared and how closely, and how to read a failure: docs/parity.md.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.parity.cases import CASES, LEVELS, STEPS
from tools.parity.compare import compare_with
from tools.parity.jobs import LIVE_CASES, kept_job
from tools.parity.known_versions import for_version
from tools.parity.own_job import own_job
from tools.parity.records import RECORDS, Job, save
from tools.parity.report import as_json, html, markdown, terminal
from tools.parity.report.summary import Report
from tools.parity.sources import KeptRecords, LiveNemo
from tools.parity.speed import REPETITIONS, Figure, measure_speed
from tools.parity.versions import version_notes
from utils.errors import one_line_errors

# arguments that make a job of one's own
OWN = ("overrides", "config", "checkpoint", "audio", "noise", "manifest", "noise_manifest", "steps", "until")
SPEED_MODEL = ("model_size=small",)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    nemo = parser.add_argument_group("NeMo")
    nemo.add_argument("--nemo-python", metavar="PATH", help="Python of an environment with NeMo (3.0.0 or another)")
    nemo.add_argument("--records", type=Path, metavar="FOLDER", help="records to compare with, made by --record")
    nemo.add_argument(
        "--record", type=Path, nargs="?", const=RECORDS, metavar="FOLDER",
        help="keep what NeMo computes there, for machines without NeMo (default: the project's own records)",
    )  # fmt: skip
    what = parser.add_argument_group("what to compare (default: the cases of the records, with NeMo also more)")
    what.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="changes to the configuration")
    what.add_argument("--config", type=Path, metavar="FILE", help="a configuration of NeMo's or of this project")
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help=".nemo, .ckpt or .safetensors: real weights")
    what.add_argument("--audio", type=Path, nargs="+", default=[], metavar="FILE", help="real audio")
    what.add_argument("--noise", type=Path, metavar="FILE", help="noise to mix into it (default: synthetic)")
    what.add_argument("--manifest", type=Path, metavar="FILE", help="a manifest, for items and batches of data")
    what.add_argument("--noise-manifest", type=Path, metavar="FILE", help="a manifest of noise, likewise")
    what.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"of the optimizer (default: {STEPS})")
    what.add_argument("--until", choices=LEVELS, default=LEVELS[-1], metavar="LEVEL",
                      help=f"compute no further than this level, one of {', '.join(LEVELS)}")  # fmt: skip
    what.add_argument("--only", default="", metavar="TEXT", help="of the cases those whose name contains this")
    out = parser.add_argument_group("output")
    out.add_argument("--speed", action="store_true", help="measure speed and memory of both sides, too")
    out.add_argument("--repetitions", type=int, metavar="N", help=f"of each speed (default: {REPETITIONS})")
    out.add_argument("--verbose", action="store_true", help="show every single comparison")
    out.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    out.add_argument(
        "--html", type=Path, metavar="FILE", help="write a report with plots, one file that opens anywhere"
    )
    out.add_argument("--markdown", type=Path, nargs="+", default=[], metavar="FILE",
                     help="put the parity table between its markers in these files; *.zh-CN.md in Chinese")  # fmt: skip
    args = parser.parse_intermixed_args(arguments)
    args.own = any(getattr(args, name) != parser.get_default(name) for name in OWN)
    return args


def refuse_what_has_no_effect(args: argparse.Namespace) -> None:
    """Raise ValueError for an option that another one, or the lack of one, would let be ignored."""
    for ignored, message in (
        (
            args.only and args.own,
            f"--only={args.only} chooses among the cases, and a model of your own isn't one",
        ),
        (args.records and args.nemo_python, "--records and --nemo-python are two sources of NeMo's numbers: give one"),
        (args.records and args.record, "--record makes records of NeMo, --records reads them: give one"),
        (args.records and args.own, "a record holds its own configuration, weights and inputs: leave out --records"),
        (args.noise and not args.audio, f"--noise={args.noise} is mixed into --audio: give some"),
        (args.noise_manifest and not args.manifest, f"--noise-manifest={args.noise_manifest} goes with --manifest"),
        (args.repetitions and not args.speed, f"--repetitions={args.repetitions} is of --speed: give that, too"),
    ):
        if ignored:
            raise ValueError(message)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when all that was compared is equal, 1 when something differs; 2 for a mistake in the arguments."""
    args = parse_arguments(arguments)
    with one_line_errors(2, also=(OSError,)):
        refuse_what_has_no_effect(args)
        return run(args)


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        python = nemo_python(args)
        if python is None:
            return tell(args, compare_kept(args, folder))
        with LiveNemo(python, folder) as nemo:
            return tell(args, compare_live(args, nemo, folder))


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
    comparisons = [compare_with(record, folder) for record in records.all() if args.only in record.job.name]
    if not comparisons:
        raise ValueError(f"--only={args.only}: no record has this in its name")
    return Report(comparisons, records.description, speed=speed_of(args, {}))


def compare_live(args: argparse.Namespace, nemo: LiveNemo, folder: Path) -> Report:
    """Against NeMo, run now."""
    comparisons = []
    for job in jobs(args):
        record = nemo.record(for_version(job, nemo.nemo_version))
        if args.record:
            save(record, args.record / f"{job.name}.safetensors")
        comparisons.append(compare_with(record, folder))
        terminal.progress(comparisons[-1])
    if not comparisons:
        raise ValueError(f"--only={args.only}: no case has this in its name")
    versions = [] if args.own else version_notes(nemo)
    return Report(comparisons, nemo.description, speed=speed_of(args, {"nemo": nemo.python}), versions=versions)


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """The user's own one, or those of the records, and of the other cases unless records are made."""
    if args.own:
        yield job_of(args)
        return
    names = [*CASES, *(() if args.record else LIVE_CASES)]
    for name in (name for name in names if args.only in name):
        yield kept_job(name) if name in CASES else LIVE_CASES[name]()


def job_of(args: argparse.Namespace) -> Job:
    """The user's own one."""
    return own_job(
        args.config, args.overrides, args.checkpoint, args.audio, noise=args.noise, manifest=args.manifest,
        noise_manifest=args.noise_manifest, steps=args.steps, until=args.until,
    )  # fmt: skip


def speed_of(args: argparse.Namespace, nemo: dict[str, str]) -> list[Figure]:
    """Of the user's own model and audio, else of the small size on synthetic speech: the cases are too tiny for it."""
    if not args.speed:
        return []
    print("measuring speed ...", file=sys.stderr, flush=True)
    job = job_of(args) if args.own else own_job(overrides=SPEED_MODEL)
    batch = {"batch": None} if args.audio else {}
    return measure_speed(job, {"ours": sys.executable, **nemo}, args.repetitions or REPETITIONS, **batch)


def tell(args: argparse.Namespace, report: Report) -> int:
    terminal.show(report, verbose=args.verbose)
    if args.json:
        write(args.json, as_json.to_json(report))
    if args.html:
        write(args.html, html.to_html(report))
    for path in args.markdown:
        language = "zh" if path.stem.endswith("zh-CN") else "en"
        table = markdown.parity_table(report.comparisons, language=language)
        write(path, markdown.replace_table(path.read_text(encoding="utf-8"), table))
    return 0 if report.passed else 1


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
