"""The folder of a tarred data set: what it was made from is kept there, so that no two sets get mixed in it."""

import json
from collections.abc import Iterator
from pathlib import Path

RECORD = "made_from.json"
MANIFEST = "tarred_audio_manifest.json"
BUCKETS = "bucket*"
TARS = "audio_*.tar"
FILES = (TARS, f"{TARS}.*", "sharded_manifests/manifest_*.json*", MANIFEST, "metadata.yaml", "rejects.jsonl")


def claim(folder: Path, made_from: dict, *, replace: bool = False) -> None:
    """Write down what the shards in this folder are made from, before the first is written.

    made_from: manifests and options, as JSON has them.
    replace: remove shards that were made from something else. Raises ValueError for such shards otherwise.
    """
    refuse_another_set(folder, made_from, replace=replace)
    if read_record(folder) != made_from:
        for path in list(files_of_a_set(folder)):
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")


def refuse_another_set(folder: Path, made_from: dict, *, replace: bool = False) -> None:
    before = read_record(folder)
    if replace or before == made_from or not any(path.suffix == ".tar" for path in files_of_a_set(folder)):
        return
    what = "shards that this program has no record of"
    if before is not None:
        changes = [name for name in {**before, **made_from} if before.get(name) != made_from.get(name)]
        changed = ", ".join(f"{name} was {before.get(name)}, is {made_from.get(name)}" for name in changes)
        what = f"shards of another data set ({changed})"
    raise ValueError(f"--target_dir={folder} holds {what}; name another folder, or add --force to replace them")


def read_record(folder: Path) -> dict | None:
    """None where there is none, or half of one."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def files_of_a_set(folder: Path) -> Iterator[Path]:
    """What a run may have written into the folder and its buckets, but for the record."""
    for part in (folder, *folder.glob(BUCKETS)):
        for pattern in FILES:
            yield from part.glob(pattern)
