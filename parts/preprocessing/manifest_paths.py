"""Which files a config value names: a path, a list of them, comma-separated ones, or a pattern.

A name that is a file as it stands is that file; only else are commas, braces and wildcards looked at.
"""

import difflib
import glob
import os
import re
from collections.abc import Callable, Sequence
from itertools import islice

MAKE_DUMMY_DATA = "python tools/prepare_dummy_ssl_data.py"
KINDS = {  # what is named -> all of a folder, what else a user can do where there is none
    "manifest": ("*.json", f", or make dummy data with `{MAKE_DUMMY_DATA}` and use that"),
    "noise manifest": ("*.json", ""),
    "room impulse response manifest": ("*.json", ""),
    "tar file": ("*.tar", ""),
    "cut manifest": ("*.jsonl.gz", ""),
}
OPEN, CLOSE, COMMA = "\0", "\1", "\2"  # stand for { } , of a group, as no file name has them
INNERMOST_GROUP = re.compile(r"[{(\[<]([^{}()\[\]<>]*(?:\.\.|,)[^{}()\[\]<>]*)[})\]>]")
NAMES_COMPARED = 10_000  # in a folder, when a name isn't there


def manifest_paths(manifests: str | Sequence[str] | None, config_path: str, kind: str = "manifest") -> list[str]:
    """The files that a config value names, in the order given; those of a wildcard are sorted.

    manifests: a path, a list of them, or comma-separated ones, each with `~`, braces (see `expand_braces`) and
        wildcards (`*`, `?`, `**` for any folders).
    kind: what they are, one of KINDS, for messages.
    Raises ValueError where nothing is named, FileNotFoundError for a name or pattern without a file.
    """
    values = [manifests] if isinstance(manifests, str | os.PathLike) else manifests
    values = [] if values in (None, ["???"]) else values
    if not isinstance(values, Sequence) or not all(isinstance(value, str | os.PathLike) for value in values):
        raise ValueError(f"{config_path}={manifests!r} is not a path, a list of paths or comma-separated paths")
    names = [name for value in values for name in _names(os.fspath(value))]
    if not names:
        raise ValueError(f"{config_path} is not set; give a {kind}{KINDS[kind][1]}")
    return [path for name in names for path in _files(name, config_path, kind)]


def expand_braces(pattern: str) -> list[str]:
    """`m_{0..2}.json` -> m_0.json, m_1.json, m_2.json; also `{08..10}`, `{0..10..2}`, `{a..c}`, `{x,y}`, nested.

    `_OP_` and `_CL_`, which no shell touches, mean the braces, and so do `( )`, `[ ]` and `< >` around a range or a
    list (NeMo 3.0.0 takes any of these characters for a brace, so that no folder can be called `data (old)`).
    Raises ValueError for a brace without its partner.
    """
    import braceexpand  # here, because only patterns need it

    return list(braceexpand.braceexpand(_with_braces(_mark_groups(pattern)), escape=False))


def scattered(num_shards: int, world_size: int, global_rank: int) -> range:
    share = num_shards // world_size
    return range(share * global_rank, share * (global_rank + 1))


def replicated(num_shards: int, world_size: int, global_rank: int) -> range:
    return range(num_shards)


# name -> (number of shards, of ranks, the rank) -> the shards that this rank reads. Shares are of equal size, so
# `scatter` leaves out those behind the last share. Source: NeMo 3.0.0 `expand_sharded_filepaths`.
SHARD_STRATEGIES: dict[str, Callable[[int, int, int], range]] = {"scatter": scattered, "replicate": replicated}


def _mark_groups(pattern: str) -> str:
    pattern = pattern.replace("_OP_", "{").replace("_CL_", "}")
    found = 1
    while found:  # from the innermost group outward
        pattern, found = INNERMOST_GROUP.subn(lambda group: OPEN + group[1].replace(",", COMMA) + CLOSE, pattern)
    return pattern


def _with_braces(marked: str) -> str:
    return marked.replace(OPEN, "{").replace(CLOSE, "}").replace(COMMA, ",")


def _names(value: str) -> list[str]:
    """The names or patterns in a string that may hold several."""
    if os.path.isfile(os.path.expanduser(value)):
        return [value]
    names = [_with_braces(name).strip() for name in _mark_groups(value).split(",")]
    return [name for name in names if name]


def _files(name: str, config_path: str, kind: str) -> list[str]:
    """The files that one name or pattern stands for."""
    name = os.path.expanduser(name)
    if os.path.isfile(name):
        return [name]
    try:
        expanded = expand_braces(name)
    except ValueError as error:
        raise ValueError(f"{config_path}={name!r}: {error}; write ranges as {{0..7}} or _OP_0..7_CL_") from None
    paths: list[str] = []
    for path in expanded:
        matches = [path] if os.path.isfile(path) else sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
        if not matches:
            raise FileNotFoundError(f"{config_path}: {_what_is_there_instead(path, kind)}")
        paths += matches
    return paths


def _what_is_there_instead(path: str, kind: str) -> str:
    all_of_folder, other_advice = KINDS[kind]
    if os.path.isdir(path):
        return f"{path!r} is a folder; name the {kind}s in it, such as {os.path.join(path, all_of_folder)!r}"
    folder, name = os.path.split(path)
    looked = f"looked from {os.getcwd()}"
    if not os.path.isdir(folder or "."):
        looked = f"nor a folder {folder!r}; {looked}"
    else:
        with os.scandir(folder or ".") as entries:
            close = difflib.get_close_matches(name, [entry.name for entry in islice(entries, NAMES_COMPARED)], n=1)
        looked += f"; the nearest name is {close[0]!r}" if close else ""
    return f"there is no {kind} {path!r} ({looked}); correct the path{other_advice}"
