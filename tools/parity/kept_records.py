"""A folder of records that is kept. Each has its digest in a file beside it, so that what was lost or changed since is
found: `sha256sum --check SHA256SUMS` there says the same."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tools.parity.aspects.file_differences import sha256
from tools.parity.cases import CASES
from tools.parity.jobs import kept_job
from tools.parity.known_versions import for_version
from tools.parity.records import RECORDS, Job, Record, description_of, load, save

SUMS = "SHA256SUMS"
REMEDY = "make the records anew with --record where NeMo is installed"


def keep(record: Record, folder: Path) -> None:
    """Write a record, and its digest among those of the folder."""
    path = folder / f"{record.job.name}.safetensors"
    save(record, path)
    write_sums(folder, (read_sums(folder) if (folder / SUMS).is_file() else {}) | {path.name: sha256(path)})
    shutil.copymode(folder / SUMS, path)  # safetensors lets its owner alone read it


def kept_paths(folder: Path) -> list[Path]:
    """The records of a folder, by name. Raises ValueError, in one line, where they aren't those that were written."""
    paths = {path.name: path for path in sorted(folder.glob("*.safetensors"))}
    if not paths:
        raise ValueError(f"{folder} holds no records: {REMEDY}")
    sums = read_sums(folder)
    for name in sorted(sums.keys() | paths):
        if name not in paths:
            raise ValueError(f"{folder / name} is missing, which {SUMS} names: {REMEDY}")
        if sums.get(name) != sha256(paths[name]):
            raise ValueError(f"{paths[name]} is not the record that {SUMS} names: {REMEDY}")
        check(paths[name])
    if folder.resolve() == RECORDS:
        check_cases(paths)
    return list(paths.values())


def load_kept(path: Path) -> Record:
    """Raises ValueError, in one line, for a file that isn't the record of the job that it is named after."""
    check(path)
    return load(path)


def check(path: Path) -> None:
    """Of what a record says of itself; its tensors aren't read."""
    description = description_of(path)
    name, origin, facts = description["job"]["name"], description["origin"], description["facts"]
    for is_wrong, message in (
        (name != path.stem, f"is of the job {name}"),
        (origin.get("side") != "nemo" or "nemo_version" not in origin, "is not of a NeMo"),
        (set(facts) != set(description["job"]["aspects"]), "does not hold the aspects of its job"),
    ):
        if is_wrong:
            raise ValueError(f"{path} {message}: {REMEDY}")


def check_cases(paths: Mapping[str, Path]) -> None:
    """The project's own folder has a record of each case, as it is today, and nothing else."""
    if set(paths) != {f"{name}.safetensors" for name in CASES}:
        odd = sorted(set(paths) ^ {f"{name}.safetensors" for name in CASES})
        raise ValueError(f"{RECORDS} has not one record of each case (see {', '.join(odd)}): {REMEDY}")
    for name in CASES:
        path = paths[f"{name}.safetensors"]
        description = description_of(path)
        asked = described(for_version(kept_job(name), description["origin"]["nemo_version"]))
        changed = [key for key in asked if asked[key] != description["job"].get(key)]
        if changed or description["raised"]:
            raise ValueError(f"{path} is of another job than today's ({', '.join(changed) or 'raised'}): {REMEDY}")


def described(job: Job) -> dict[str, Any]:
    """A job as a record has it, without tensors."""
    return json.loads(json.dumps(asdict(replace(job, inputs={}, start={}))))


def read_sums(folder: Path) -> dict[str, str]:
    """Name -> digest."""
    path = folder / SUMS
    if not path.is_file():
        raise ValueError(f"{path} is missing, which says what the records are: {REMEDY}")
    lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines()]
    return {name.lstrip("*"): digest for digest, name in (line for line in lines if len(line) == 2)}


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")
