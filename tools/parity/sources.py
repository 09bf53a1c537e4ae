"""Where NeMo's numbers come from: its own Python, asked now, or the records kept in the project."""

from collections.abc import Iterator
from pathlib import Path

from tools.parity.aspects import files
from tools.parity.kept_records import kept_paths, load_kept
from tools.parity.records import Job, Record, description_of, load, save
from tools.parity.side import Side
from tools.side_process import SideFailed, SideProcess, is_python


class LiveNemo:
    """NeMo in the environment of another Python (or of this one), as one process for all jobs; where it fails at one,
    the next gets a new process.

    origin: versions of NeMo, torch and Python there.  nemo_version: of them.  description: of it, for the report.
    """

    def __init__(self, python: str, folder: Path):
        """folder: for the files that the two sides hand each other."""
        self.python, self.folder = python, folder
        self.process = self.start()
        self.origin = {"side": "nemo", **self.describe()}
        self.nemo_version = self.origin["nemo_version"]
        self.description = f"NeMo {self.nemo_version} (torch {self.origin['torch_version']}), run now"

    def start(self) -> SideProcess:
        return SideProcess(self.python, "tools.parity.nemo_side", environment={"PYTHONWARNINGS": "ignore"})

    def describe(self) -> dict[str, str]:
        """Versions of NeMo, torch and Python there. Raises ValueError, in one line, where NeMo can't be imported."""
        try:
            return self.process("describe")
        except SideFailed as error:
            self.process.__exit__()
            if not is_python(self.python):
                raise ValueError(f"{self.python} is no Python: give --nemo-python one that has NeMo") from error
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"{self.python} can't import NeMo ({reason}): give --nemo-python the Python of an environment with "
                "nemo_toolkit[asr] and safetensors"
            ) from error

    def record(self, job: Job) -> Record:
        """What NeMo computes of the job. Raises SideFailed where its process fails; then the next job gets another."""
        if self.process.ended:
            self.process = self.start()
        try:
            return self.ask(job)
        except SideFailed as error:
            self.process.__exit__(type(error), error, error.__traceback__)
            raise

    def ask(self, job: Job) -> Record:
        asked, answer = self.folder / f"{job.name}.job.safetensors", self.folder / f"{job.name}.safetensors"
        save(Record(job, {"side": "nemo"}), asked)
        if files.NAME in job.aspects:  # NeMo's side opens our files, so these are written before it is asked
            self.process("complete", job=str(asked), folder=str(self.folder))
            files.prepare(Side("ours", load(asked).job, self.folder))
        self.process("measure", job=str(asked), record=str(answer), folder=str(self.folder))
        return load(answer)

    def __enter__(self) -> "LiveNemo":
        return self

    def __exit__(self, *exception) -> None:
        self.process.__exit__(*exception)


class KeptRecords:
    """The records in a folder, made by `tools/compare_with_nemo.py --record`."""

    def __init__(self, folder: Path):
        self.paths = kept_paths(folder)
        versions = {description_of(path)["origin"]["nemo_version"] for path in self.paths}
        self.description = f"records of NeMo {', '.join(sorted(versions))} in {folder.name}/"

    def named(self, part: str) -> Iterator[Record]:
        """Those whose name contains this; no other is read."""
        return (load_kept(path) for path in self.paths if part in path.stem)
