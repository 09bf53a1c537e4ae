"""Pack the audio of a manifest into tar shards, in the layout of NeMo's convert_to_tarred_audio_dataset.py.

    python tools/make_tarred_dataset.py --manifest_path train.json --target_dir tarred --num_shards 64 --shuffle
    python tools/make_tarred_dataset.py --manifest_path train.json --target_dir buckets --num_shards 16 --shuffle \\
        --buckets_num 4 --min_duration 1 --max_duration 20

    tarred/audio_0.tar ...                        the audio files, and an index beside each tar
    tarred/sharded_manifests/manifest_0.json ...  the lines of each shard
    tarred/tarred_audio_manifest.json             all lines
    tarred/metadata.yaml                          how it was made, as NeMo's script says it
    tarred/made_from.json                         manifests and options: shards of others are replaced with --force only
    tarred/rejects.jsonl                          what was left out and why, if anything was

Stopped and started again with the same arguments, it goes on behind the shards that are finished. Every member is read
back before its shard counts. Options are NeMo's, but that by default no utterance is left out to make shards equal
(--equal_shards), a duration may equal --max_duration, and lines of one file keep its name (NeMo's script calls them
name-sub1, name-sub2, which NeMo 3.0.0 doesn't find again). Exit code: 0, all audio is packed; 1, some had to be left
out; 2, the shards couldn't be written.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parts.batch_types import BadSample
from parts.preprocessing.manifest import describe, keep_durations, read_manifests
from parts.preprocessing.utterances import UtteranceTable
from tools.tarring.folder import MANIFEST, claim, refuse_another_set
from tools.tarring.plan import Shard, missing_files, plan_shards
from tools.tarring.shards import CONTAINERS, ShardReport, write_json_lines, write_shard
from utils.cores import usable_cores
from utils.errors import one_line_errors
from utils.training.rejects_list import FILE_NAME, entry_of

COMPLETE, INCOMPLETE, NOT_DONE = 0, 1, 2
OPTIONS = (  # that decide what is in which shard
    "num_shards",
    "buckets_num",
    "min_duration",
    "max_duration",
    "shuffle",
    "shuffle_seed",
    "keep_files_together",
    "sort_in_shards",
    "equal_shards",
    "slice_with_offset",
    "force_codec",
)
SHARD_PATTERN = "audio__OP_0..{last}_CL_.tar"


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    with one_line_errors(NOT_DONE, also=(OSError,)):
        return pack(args)


def pack(args: argparse.Namespace) -> int:
    """Write one data set, or one for each bucket; returns COMPLETE or INCOMPLETE."""
    table = read_manifests(args.manifest_path, "--manifest_path")
    table = keep_durations(table, args.min_duration, args.max_duration, "--manifest_path")
    parts = [(args.target_dir, table)] if args.buckets_num == 1 else list(buckets(table, args))
    made_from = {"manifests": [os.path.abspath(path) for path in table.manifests]}
    made_from |= {name: getattr(args, name) for name in OPTIONS}
    if args.dry_run:
        refuse_another_set(args.target_dir, made_from, replace=args.force)
    else:
        claim(args.target_dir, made_from, replace=args.force)
    left_out = sum(make(folder, part, args) for folder, part in parts)
    if not args.dry_run:
        print(train_command([folder for folder, _ in parts], args.num_shards))
    return INCOMPLETE if left_out else COMPLETE


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Pack the audio of a manifest into tar shards that NeMo and this project read.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--manifest_path", required=True, help="manifest, or several, comma-separated")
    parser.add_argument("--target_dir", type=Path, default=Path("tarred"), help="folder to write to")
    parser.add_argument("--num_shards", type=int, required=True, help="tar files (in each bucket)")
    parser.add_argument("--max_duration", type=float, help="seconds; longer utterances are left out")
    parser.add_argument("--min_duration", type=float, help="seconds; shorter utterances are left out")
    parser.add_argument("--shuffle", action="store_true", help="shuffle the lines before they are divided")
    parser.add_argument("--shuffle_seed", type=int, help="for the same order each time; as in NeMo's script")
    parser.add_argument("--keep_files_together", action="store_true", help="shuffle files, not lines")
    parser.add_argument("--sort_in_shards", action="store_true", help="order each shard by duration")
    parser.add_argument("--equal_shards", action="store_true", help="leave out the utterances that don't divide")
    parser.add_argument("--slice_with_offset", action="store_true", help="cut out what each line's offset says")
    parser.add_argument("--buckets_num", type=int, default=1, help="data sets, by equal ranges of duration")
    parser.add_argument("--force_codec", choices=sorted(CONTAINERS), help="convert all audio")
    parser.add_argument("--workers", type=int, default=-1, help="shards written at a time; -1: one for each core")
    parser.add_argument("--force", action="store_true", help="replace shards of another data set in the folder")
    parser.add_argument("--dry_run", action="store_true", help="say what would be written")
    args = parser.parse_args(arguments)
    for name in ("num_shards", "buckets_num"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)} is below 1")
    if args.workers < 1 and args.workers != -1:
        parser.error(f"--workers={args.workers} is neither -1 nor 1 or more")
    if args.buckets_num > 1 and None in (args.min_duration, args.max_duration):
        parser.error("--buckets_num needs --min_duration and --max_duration, whose range it divides")
    if not args.shuffle and (args.shuffle_seed is not None or args.keep_files_together):
        parser.error("--shuffle_seed and --keep_files_together have no effect without --shuffle")
    return args


def buckets(table: UtteranceTable, args: argparse.Namespace) -> Iterator[tuple[Path, UtteranceTable]]:
    """Folder and utterances of each bucket; the last one includes the longest duration."""
    edges = np.linspace(args.min_duration, args.max_duration, args.buckets_num + 1)[1:-1]
    bucket_of = np.searchsorted(edges, np.nan_to_num(table.durations, nan=np.inf), side="right")
    for number in range(args.buckets_num):
        rows = np.flatnonzero(bucket_of == number)
        if len(rows):
            yield args.target_dir / f"bucket{number + 1}", table.select(rows)
        else:
            print(f"bucket{number + 1} has no utterance and isn't written")


def make(folder: Path, table: UtteranceTable, args: argparse.Namespace) -> int:
    """Write one data set; returns how many lines or files had to be left out."""
    rejected = [*table.rejected, *missing_files(table)]
    absent = {(bad.manifest, bad.line) for bad in rejected}
    rows = [row for row, entry in enumerate(_places(table)) if entry not in absent]
    if not args.dry_run:
        list_rejects(folder, rejected)  # now, as it may be all that there is to say
    if not rows:
        raise ValueError(f"none of {len(rejected)} lines for {folder} can be used; the first: {describe(rejected[0])}")
    if len(rows) < args.num_shards:
        raise ValueError(
            f"{len(rows)} utterances don't fill --num_shards={args.num_shards} for {folder}; "
            "lower it" + (" or --buckets_num" if args.buckets_num > 1 else "")
        )
    shards = plan_shards(
        table.select(np.array(rows)),
        args.num_shards,
        shuffle=args.shuffle,
        shuffle_seed=args.shuffle_seed,
        keep_files_together=args.keep_files_together,
        sort_in_shards=args.sort_in_shards,
        equal_shards=args.equal_shards,
        slice_with_offset=args.slice_with_offset,
        codec=args.force_codec,
    )
    counts = [len(shard.lines) for shard in shards]
    left_out = len(rows) - sum(counts)
    print(
        f"{folder}: {sum(counts)} utterances in {len(shards)} shards of {min(counts)} to {max(counts)}, "
        f"{np.nansum(table.durations) / 3600:.2f} hours" + (f"; {left_out} don't divide, left out" if left_out else "")
    )
    if args.dry_run:
        return 0
    reports = write_all(shards, folder, args)
    write_json_lines(folder / MANIFEST, [line for report in reports for line in report.lines])
    write_metadata(folder / "metadata.yaml", args, len(table), min(counts))
    rejected += [bad for report in reports for bad in report.rejected]
    tell(folder, reports, rejected)
    return len(rejected)


def _places(table: UtteranceTable) -> Iterable[tuple[str, int]]:
    return ((table.manifests[number], line) for number, line in zip(table.manifest_numbers, table.lines, strict=True))


def write_all(shards: list[Shard], folder: Path, args: argparse.Namespace) -> list[ShardReport]:
    """In threads: the work is reading, writing and libsndfile, which all leave Python's lock alone."""
    workers = usable_cores() if args.workers == -1 else args.workers
    members = sum(len(shard.members) for shard in shards)
    with (
        tqdm(total=members, unit=" files", desc=folder.name, ascii=True, disable=None) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        return list(pool.map(lambda shard: write_shard(shard, folder, args.force_codec, bar.update), shards))


def write_metadata(path: Path, args: argparse.Namespace, count: int, per_shard: int) -> None:
    """The keys of NeMo's script, which reads them to add to a data set."""
    metadata = {
        "created_datetime": datetime.now().strftime("%m-%d-%Y %H-%M-%S"),
        "version": 0,
        "num_samples_per_shard": per_shard,
        "is_concatenated_manifest": False,
        "dataset_config": {
            "num_shards": args.num_shards,
            "shuffle": args.shuffle,
            "max_duration": args.max_duration,
            "min_duration": args.min_duration,
            "shuffle_seed": args.shuffle_seed,
            "sort_in_shards": args.sort_in_shards,
            "slice_with_offset": args.slice_with_offset,
            "shard_manifests": True,
            "keep_files_together": args.keep_files_together,
            "force_codec": args.force_codec,
            "use_lhotse": False,
            "use_bucketing": False,
            "num_buckets": None,
            "bucket_duration_bins": None,
        },
        "history": [],
    }
    OmegaConf.save(OmegaConf.create(metadata), path)


def tell(folder: Path, reports: list[ShardReport], rejected: list[BadSample]) -> None:
    there = sum(not report.written for report in reports)
    size = sum(report.num_bytes for report in reports) / 1e6
    print(
        f"{folder}: {len(reports)} shards, {size:.1f} MB" + (f"; {there} of them were there already" if there else "")
    )
    if list_rejects(folder, rejected):
        print(
            f"{len(rejected)} lines or files can't be used and are left out, see {folder / FILE_NAME}", file=sys.stderr
        )


def list_rejects(folder: Path, rejected: list[BadSample]) -> bool:
    """Whether there are any; without, there is no list."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).unlink(missing_ok=True)
    if rejected:
        write_json_lines(folder / FILE_NAME, [entry_of(bad) for bad in rejected])
    return bool(rejected)


def train_command(folders: list[Path], num_shards: int) -> str:
    """Several folders are buckets: lists of lists."""
    manifests = [(folder / MANIFEST).as_posix() for folder in folders]
    tars = [(folder / SHARD_PATTERN.format(last=num_shards - 1)).as_posix() for folder in folders]

    def value(paths: list[str]) -> str:
        return paths[0] if len(paths) == 1 else f"[{','.join(f'[{path}]' for path in paths)}]"

    return (
        "Train on it with\n  model.train_ds.is_tarred=true "
        f"'model.train_ds.manifest_filepath={value(manifests)}' "
        f"'model.train_ds.tarred_audio_filepaths={value(tars)}'"
    )


if __name__ == "__main__":
    sys.exit(main())
