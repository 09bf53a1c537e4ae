"""What a report says: the lines of its table, and what came of each over one case or many."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from tools.benchmark.figures import Figure
from tools.parity.cases import LEVELS
from tools.parity.compare import Comparison
from tools.parity.levels import is_before
from tools.parity.own_job import LAST_WITHOUT_OPTIM
from tools.parity.records import Job
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN, PASSED, Row


@dataclass(frozen=True)
class Line:
    """A line of the table.

    what: is compared there.  levels: of the rows that belong to it.  why: their limits are what they are, in short.
    unit: of these limits, where they have one in common.
    """

    title: str
    what: str
    levels: tuple[str, ...]
    why: str = ""
    unit: str = ""


RUN = "run"  # a line that is there only if it has something to say
LARGEST, NORM, STANDARD_ERRORS = "of the largest entry", "of the norm", "standard errors"
LINES = (
    Line("configuration", "every key", ("configuration",), "an option is the same, or it isn't"),
    Line(
        "parameters", "names, shapes, dtypes, counts per module", ("parameters",),
        "names and shapes are exact; the preprocessor's constants round",
    ),
    Line(
        "initial weights", "of models that train from scratch", ("initial_weights",),
        "drawn anew on each side: they agree in distribution", STANDARD_ERRORS,
    ),
    Line("lengths", "frames and encoder steps", ("length", "training_length"), "counts have no rounding"),
    Line(
        "features", "log-mel of clean and noisy speech", ("feature",),
        "logarithms of nearly silent bands magnify the FFT's rounding", LARGEST,
    ),
    Line("tokens", "codes and their indices", ("code", "token"), "codes are copied; scores may tie within 2e-6"),
    Line(
        "masks", "frame by frame, and distributions", ("masks",),
        "one seed gives one mask; other draws agree in distribution", STANDARD_ERRORS,
    ),
    Line(
        "subsampling", "evaluation and training", ("subsampled", "training_subsampled"),
        "float32 rounds, and sums are made in another order", LARGEST,
    ),
    Line(
        "encoder layers", "each, evaluation and training", ("layer", "training_layer"),
        "likewise; in training the batch's statistics add to it", LARGEST,
    ),
    Line(
        "encoder", "evaluation and training", ("encoded", "training_encoded"),
        "likewise; in training the batch's statistics add to it", LARGEST,
    ),
    Line("decoder", "log-probabilities", ("log_prob",), "float32 rounds, and sums are made in another order", LARGEST),
    Line("loss", "evaluation and training", ("loss", "training_loss"), "in a mean errors cancel", LARGEST),
    Line(
        "gradients", "every parameter", ("input_gradient", "gradient"),
        "rounding flips single ReLUs, so norms are compared", NORM,
    ),
    Line(
        "batch norm", "running statistics after a step", ("batch_norm",),
        "a tenth of the batch's statistics, added to the old ones", LARGEST,
    ),
    Line(
        "optimizer steps", "learning rates, losses, parameters", ("learning_rate", "step_loss", "parameter"),
        "rates are exact; Adam takes whole steps on rounding noise, too",
    ),
    Line(
        "data", "items and batches of a manifest", ("data",),
        "audio to a third of a 16-bit step; draws agree in distribution",
    ),
    Line(
        "checkpoint files", "in both directions", ("files",),
        "tensors are kept bit for bit; outputs of the loaded model round",
    ),
    Line(RUN, "both sides, to the end", ("computation",), "what NeMo runs has to run here"),
)  # fmt: skip
NO_ROWS = "no case has it"
PASSES, DIFFERS, NOT_COMPARED = 0, 1, 3  # exit codes
STATUSES = (FAILED, BROKEN, KNOWN, PASSED, NOT_RUN)  # what a line with several is called after: the first of these


@dataclass(frozen=True)
class Summary:
    """What came of a line; rows: in the order in which they were compared.  absent: why there are none."""

    line: Line
    rows: tuple[Row, ...]
    absent: str = NO_ROWS

    def count(self, status: str) -> int:
        return sum(row.status == status for row in self.rows)

    @property
    def compared(self) -> int:
        """Things that both sides computed."""
        return len(self.rows) - self.count(NOT_RUN) - self.count(BROKEN)

    @property
    def worst(self) -> Row | None:
        """The row nearest to its limit, or furthest beyond; of things that may differ only when all do."""
        judged = [row for row in self.rows if row.status in (PASSED, FAILED)]
        compared = judged or [row for row in self.rows if row.status == KNOWN]
        return max(compared, key=lambda row: (row.status == FAILED, share_of_limit(row), row.limit), default=None)

    @property
    def status(self) -> str:
        return next((status for status in STATUSES if self.count(status)), NOT_RUN)

    @property
    def verdict(self) -> str:
        """The status, with what else there is, in words."""
        parts = []
        if self.count(FAILED):
            parts.append(f"{self.count(FAILED)} {FAILED}")
        elif self.count(PASSED):
            parts.append(PASSED)
        parts += [f"{self.count(status)} {status}" for status in (BROKEN, KNOWN) if self.count(status)]
        if self.count(NOT_RUN) or not self.rows:
            parts.append(f"{self.count(NOT_RUN) or ''} {NOT_RUN}".strip())
        return ", ".join(parts)

    @property
    def reasons(self) -> list[str]:
        """Why the rows that are no plain pass or failure are what they are, each once."""
        reasons = {row.reason: None for row in self.rows if row.status in (BROKEN, KNOWN, NOT_RUN)}
        return list(reasons) if self.rows else [self.absent]


def share_of_limit(row: Row) -> float:
    """Error in units of the limit; infinite for NaN, and where nothing may differ and something does."""
    if row.limit > 0 and row.error == row.error:
        return row.error / row.limit
    return float("inf") if row.error or row.status == FAILED else 0.0


def summarise(rows: Iterable[Row], jobs: Sequence[Job] | None = None) -> list[Summary]:
    """A summary for each line that has rows, or for all; rows of a level of no line get a line of their own.

    jobs: all that were compared: lines without rows, too, with the reason.
    """
    rows = list(rows)
    known = {level for line in LINES for level in line.levels}
    others = {row.level: Line(row.level, "", (row.level,)) for row in rows if row.level not in known}
    lines = (*LINES, *others.values())
    summaries = [Summary(line, rows_of(line, rows), why_absent(line, jobs or ())) for line in lines]
    return [s for s in summaries if s.rows or (jobs is not None and s.line.title != RUN)]


def why_absent(line: Line, jobs: Sequence[Job]) -> str:
    """Why none of the jobs has rows of a line."""
    last = max((job.until for job in jobs), key=LEVELS.index, default=LEVELS[-1])
    first_level = {"files": LAST_WITHOUT_OPTIM}.get(line.levels[0], line.levels[0])
    if first_level in LEVELS and is_before(last, first_level):
        return f"the computation ended with the level {last}"
    if line.levels == ("data",) and jobs and not any("data" in job.aspects for job in jobs):
        return f"{NO_ROWS} (--manifest FILE gives one)"
    return NO_ROWS


def case_status(comparison: Comparison) -> str:
    """FAILED if anything did or broke off, or nothing was asked; NOT_RUN if NeMo can't do the case; else PASSED."""
    statuses = {row.status for row in comparison.rows}
    if not statuses or statuses & {FAILED, BROKEN}:
        return FAILED
    return PASSED if comparison.passed else NOT_RUN


def counted(number: int, noun: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rows_of(line: Line, rows: list[Row]) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.level in line.levels)


@dataclass(frozen=True)
class Report:
    """Everything that an output may tell.

    source: where NeMo's numbers come from.  speed: figures of both sides.  versions: what differs between
    versions of NeMo, a row each.  made: date in UTC.
    """

    comparisons: Sequence[Comparison]
    source: str
    speed: Sequence[Figure] = ()
    versions: Sequence[Row] = ()
    made: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @property
    def rows(self) -> list[Row]:
        return [row for comparison in self.comparisons for row in comparison.rows]

    @property
    def passed(self) -> bool:
        """No case failed, nor does a version of NeMo, and a case passed."""
        cases = {case_status(comparison) for comparison in self.comparisons}
        return PASSED in cases and not {FAILED, BROKEN} & (cases | {row.status for row in self.versions})

    @property
    def exit_code(self) -> int:
        """See tools/compare_with_nemo.py."""
        differs = any(row.status == FAILED for row in (*self.rows, *self.versions))
        return DIFFERS if differs else PASSES if self.passed else NOT_COMPARED

    @property
    def nemo(self) -> str:
        """`NeMo 3.0.0`, or the versions of several records."""
        versions = {c.nemo.origin.get("nemo_version", "of an unknown version"): None for c in self.comparisons}
        return f"NeMo {', '.join(versions)}".strip()

    @property
    def summaries(self) -> list[Summary]:
        return summarise(self.rows, [comparison.nemo.job for comparison in self.comparisons])

    @property
    def verdict(self) -> str:
        """The last line."""
        count = {status: sum(row.status == status for row in (*self.rows, *self.versions)) for status in STATUSES}
        cases = [case_status(comparison) for comparison in self.comparisons]
        beside = "".join(
            f"; {count[status]} {words}"
            for status, words in ((BROKEN, "broken off"), (KNOWN, "differ on purpose"), (NOT_RUN, "not run"))
            if count[status]
        )
        if incomparable := cases.count(NOT_RUN):
            beside += f"; {incomparable} of {counted(len(cases), 'case')} not comparable"
        if self.passed:
            things, passed = counted(count[PASSED], "thing"), counted(cases.count(PASSED), "case")
            return f"PASSED: {things} in {passed} equal {self.nemo}{beside}"
        if not count[FAILED]:
            without = len(cases) - cases.count(PASSED)
            return f"FAILED: nothing was compared in {without} of {counted(len(cases), 'case')}{beside}"
        things = counted(count[PASSED] + count[FAILED], "thing")
        differing = sum(bool(comparison.failed) for comparison in self.comparisons)
        share = f"{count[FAILED]} of {things}, in {differing} of {counted(len(cases), 'case')}"
        return f"FAILED: {share}, differ from {self.nemo}{beside}"
