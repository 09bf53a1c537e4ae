"""Where NeMo's numbers come from: its own Python, asked now, or the records kept in the project."""

from collections.abc import Iterator
from pathlib import Path

from tools.parity.aspects import files
from tools.parity.records import Job, Record, load, save
from tools.parity.side import Side
from tools.side_process import SideProcess


class LiveNemo:
    """NeMo in the environment of another Python (or of this one), as one process for all jobs.

    nemo_version: of the NeMo there.  description: of it, for the report.
    """

    def __init__(self, python: str, folder: Path):
        """folder: for the files that the two sides hand each other."""
        self.python, self.folder = python, folder
        self.process = SideProcess(python, "tools.parity.nemo_side", environment={"PYTHONWARNINGS": "ignore"})
        versions = self.describe()
        self.nemo_version = versions["nemo_version"]
        self.description = f"NeMo {self.nemo_version} (torch {versions['torch_version']}), run now"

    def describe(self) -> dict[str, str]:
        """Versions of NeMo, torch and Python there. Raises ValueError, in one line, where NeMo can't be imported."""
        try:
            return self.process("describe")
        except RuntimeError as error:
            self.process.__exit__()
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"{self.python} can't import NeMo ({reason}): give --nemo-python the Python of an environment with "
                "nemo_toolkit[asr] and safetensors"
            ) from error

    def record(self, job: Job) -> Record:
        """What NeMo computes of the job."""
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
        self.paths = sorted(folder.glob("*.safetensors"))
        if not self.paths:
            raise ValueError(f"{folder} holds no records: make some with --record where NeMo is installed")
        versions = {load(path).origin["nemo_version"] for path in self.paths}
        self.description = f"records of NeMo {', '.join(sorted(versions))} in {folder.name}/"

    def all(self) -> Iterator[Record]:
        return map(load, self.paths)
