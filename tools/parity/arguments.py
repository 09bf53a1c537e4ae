"""The command line of tools/compare_with_nemo.py: what it takes, and what is refused before anything is computed."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.parity.cases import LEVELS, STEPS
from tools.parity.levels import is_before
from tools.parity.records import RECORDS
from tools.parity.report import markdown
from tools.parity.speed import REPETITIONS

# arguments that make a job of one's own
OWN = ("overrides", "config", "checkpoint", "audio", "noise", "manifest", "noise_manifest", "steps", "until")
FIRST_OF_STEPS = "learning_rate"  # the first level that optimizer steps are for


def parse_arguments(arguments: list[str] | None, description: str) -> argparse.Namespace:
    """`own`: whether they ask for a job of one's own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    nemo = parser.add_argument_group("NeMo")
    nemo.add_argument("--nemo-python", metavar="PATH", help="Python of an environment with NeMo (3.0.0 or another)")
    nemo.add_argument("--records", type=Path, metavar="FOLDER", help="records to compare with, made by --record")
    nemo.add_argument(
        "--record", type=Path, nargs="?", const=RECORDS, metavar="FOLDER",
        help="keep what NeMo computes there, for machines without NeMo (default: the project's own records)",
    )  # fmt: skip
    what = parser.add_argument_group("what to compare (default: the cases of the records, with NeMo also more)")
    what.add_argument("overrides", nargs="*", default=[], metavar="key=value",
                      help="changes to the configuration; they stand first")  # fmt: skip
    what.add_argument("--config", type=Path, metavar="FILE", help="a configuration of NeMo's or of this project")
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help=".nemo, .ckpt or .safetensors: real weights")
    what.add_argument("--audio", type=Path, nargs="+", default=[], metavar="FILE", help="real audio")
    what.add_argument("--noise", type=Path, metavar="FILE", help="noise to mix into it (default: synthetic)")
    what.add_argument("--manifest", type=Path, metavar="FILE", help="a manifest, for items and batches of data")
    what.add_argument("--noise-manifest", type=Path, metavar="FILE", help="a manifest of noise, likewise")
    what.add_argument("--steps", type=int, metavar="N", help=f"of the optimizer (default: {STEPS})")
    what.add_argument("--until", choices=LEVELS, metavar="LEVEL",
                      help=f"compute no further than this level, one of {', '.join(LEVELS)}")  # fmt: skip
    what.add_argument("--only", default="", metavar="TEXT", help="of the cases those whose name contains this")
    out = parser.add_argument_group("output")
    out.add_argument("--speed", action="store_true", help="measure speed and memory of both sides, too")
    out.add_argument("--repetitions", type=int, metavar="N", help=f"of each speed (default: {REPETITIONS})")
    out.add_argument("--verbose", action="store_true", help="show every single comparison, by case and level")
    out.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    out.add_argument(
        "--html", type=Path, metavar="FILE", help="write a report with plots, one file that opens anywhere"
    )
    out.add_argument(
        "--markdown", type=Path, nargs="+", default=[], metavar="FILE",
        help="put the table of all cases between its markers in these files, if all passed; *.zh-CN.md in Chinese",
    )  # fmt: skip
    args = parser.parse_intermixed_args(arguments)
    args.own = any(getattr(args, name) not in (None, []) for name in OWN)
    return args


def check(args: argparse.Namespace) -> None:
    """Raise ValueError or OSError, in one line, for what would be ignored, misunderstood, or found out too late."""
    refuse_swallowed_overrides(args)
    refuse_what_has_no_effect(args)
    refuse_what_has_no_meaning(args)
    for path in args.markdown:
        with named("--markdown", path):
            markdown.replace_table(path.read_text(encoding="utf-8"), "")
            check_writable(path)
    files = {"--json": args.json, "--html": args.html, "--record": args.record and args.record / "a record"}
    for option, path in files.items():
        if path:
            with named(option, path):
                check_writable(path)


def refuse_swallowed_overrides(args: argparse.Namespace) -> None:
    """An option that takes as many values as there are takes overrides, too."""
    for option, values in {"record": [args.record], "audio": args.audio, "markdown": args.markdown}.items():
        for value in values:
            if value and "=" in str(value) and not value.exists():
                raise ValueError(f"--{option} got {value}, which doesn't exist: put overrides before all options")


def refuse_what_has_no_effect(args: argparse.Namespace) -> None:
    """Raise ValueError for an option that another one, or the lack of one, would let be ignored."""
    makes_no_steps = args.until and is_before(args.until, FIRST_OF_STEPS)
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
        (args.repetitions is not None and not args.speed, f"--repetitions={args.repetitions} is of --speed: give that"),
        (
            args.steps is not None and makes_no_steps,
            f"--steps={args.steps} has no effect, as --until={args.until} is before the optimizer: leave one out",
        ),
        (
            args.markdown and (args.own or args.only or args.records),
            "--markdown is the table of all of the project's cases: leave out --only, --records and your own model",
        ),
    ):
        if ignored:
            raise ValueError(message)


def refuse_what_has_no_meaning(args: argparse.Namespace) -> None:
    if args.nemo_python is not None and not args.nemo_python.strip():
        raise ValueError("--nemo-python is empty: give the path of the Python of an environment that has NeMo")
    if args.repetitions is not None and args.repetitions < 1:
        raise ValueError(f"--repetitions={args.repetitions} is below 1")
    if args.json and args.html and args.json.absolute() == args.html.absolute():
        raise ValueError(f"--json and --html would both write {args.json}: give two files")


@contextmanager
def named(option: str, path: Path) -> Iterator[None]:
    """What is wrong with the file begins with the option."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from error


def check_writable(path: Path) -> None:
    """Make its folder. Raises OSError where the file can't be written there; one that is there stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.open("a").close()
    else:
        tempfile.TemporaryFile(dir=path.parent).close()
