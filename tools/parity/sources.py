"""Where NeMo's numbers come from: its own Python, asked now, or the records kept in the project."""

from pathlib import Path
from typing import Protocol

from tools.parity.records import RECORDS, Job, Record, load, save
from tools.side_process import SideProcess


class Source(Protocol):
    """description: for the report, with NeMo's version."""

    description: str

    def record(self, job: Job) -> Record:
        """What NeMo computes of the job."""


class LiveNemo:
    """NeMo in the environment of another Python (or of this one), as one process for all jobs."""

    def __init__(self, python: str, folder: Path):
        """folder: for the files that the two sides hand each other."""
        self.folder = folder
        self.process = SideProcess(python, "tools.parity.nemo_side", environment={"PYTHONWARNINGS": "ignore"})
        versions = self.process("describe")
        self.nemo_version = versions["nemo_version"]
        self.description = f"NeMo {versions['nemo_version']} (torch {versions['torch_version']}), run now"

    def record(self, job: Job) -> Record:
        asked, answer = self.folder / f"{job.name}.job.safetensors", self.folder / f"{job.name}.safetensors"
        save(Record(job, {"side": "nemo"}), asked)
        self.process("measure", job=str(asked), record=str(answer), folder=str(self.folder))
        return load(answer)

    def close(self) -> None:
        self.process.__exit__()


class KeptRecords:
    """The records in a folder, made by `tools/compare_with_nemo.py --record`."""

    def __init__(self, folder: Path = RECORDS):
        self.folder = folder
        self.names = sorted(path.stem for path in folder.glob("*.safetensors"))
        if not self.names:
            raise ValueError(f"{folder} holds no records: make some with --record where NeMo is installed")
        origin = load(folder / f"{self.names[0]}.safetensors").origin
        self.nemo_version = origin["nemo_version"]
        self.description = f"records of NeMo {origin['nemo_version']} in {folder.name}/"

    def record(self, job: Job) -> Record:
        return load(self.folder / f"{job.name}.safetensors")

    def close(self) -> None:
        """Nothing to close."""
