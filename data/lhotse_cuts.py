"""lhotse's cuts: read from JSON lines one by one, and the audio of each. lhotse is imported on first use.

A cut's audio is read as that of any manifest, by seeking, wherever it is a piece of one file or of a Shar archive;
lhotse itself renders the others (mixtures, transforms). Shar archives are read in lhotse's layout, `cuts.000000.jsonl`
(`.gz`) beside `recording.000000.tar`, through an index, so that a cut is one seek: lhotse 1.33 reads them from front to
back, in the process that trains, with all audio of its shuffle buffer in memory.
"""

import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.tar_index import tar_index
from parts.batch_types import BadSample
from parts.preprocessing.segment import AudioSource, BadAudio, ChannelSelector, load_audio
from utils.stopwatch import stage

if TYPE_CHECKING:
    from lhotse import Recording
    from lhotse.cut import Cut

OPENED_SHARDS = 64  # whose index is kept in memory


def check_lhotse(config_path: str) -> None:
    """Raise ValueError, with the line that installs it, where lhotse can't be imported."""
    try:
        import lhotse  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"{config_path}.use_lhotse=true needs lhotse, which is missing: pip install lhotse") from error


def shar_manifests(folders: str | Sequence[str], config_path: str) -> list[str]:
    """The `cuts.*.jsonl(.gz)` of Shar folders, in order. Raises ValueError for a folder without.

    folders: a path, comma-separated ones, or a list of them.
    """
    manifests: list[str] = []
    for folder in folders.split(",") if isinstance(folders, str) else folders:
        found = sorted(str(path) for path in Path(folder.strip()).expanduser().glob("cuts.*.jsonl*"))
        if not found:
            raise ValueError(f"{config_path}: {folder!r} holds no cuts.*.jsonl(.gz); name a folder that to_shar wrote")
        manifests += found
    return manifests


class CutLines:
    """The cuts of JSON-lines files, in order, read anew each time they are gone through.

    manifests: paths of .jsonl or .jsonl.gz. min_duration, max_duration: seconds; cuts beyond are left out.
    rejected: by (manifest, line), what was found to be no cut.
    num_short, num_long: cuts that the bounds leave out, of the present or last time.
    """

    def __init__(self, manifests: list[str], min_duration: float | None = None, max_duration: float | None = None):
        self.manifests = manifests
        self.shortest = min_duration or 0.0
        self.longest = math.inf if max_duration is None else max_duration
        self.rejected: dict[tuple[str, int], BadSample] = {}
        self.num_short = self.num_long = 0

    def __iter__(self) -> "Iterator[Cut]":
        self.num_short = self.num_long = 0
        for manifest in self.manifests:
            number = 0
            try:
                with (gzip.open if manifest.endswith(".gz") else open)(manifest, "rb") as lines:
                    for number, line in enumerate(lines, 1):
                        if line.strip():
                            yield from self._cut(line, manifest, number)
            except (EOFError, OSError, zlib.error) as error:  # cut off, or no gzip at all
                self._reject(manifest, number + 1, f"the rest can't be read: {error}")

    def _cut(self, line: bytes, manifest: str, number: int) -> "Iterator[Cut]":
        from lhotse.cut import Cut
        from lhotse.serialization import deserialize_item

        try:
            cut = deserialize_item(json.loads(line))
            if not isinstance(cut, Cut):
                raise TypeError(f"it is a {type(cut).__name__}")
            start, duration = getattr(cut, "start", 0.0), cut.duration
            if not (0.0 <= start < math.inf and 0.0 < duration < math.inf):
                raise ValueError(f"start {start} s, duration {duration} s")
            cut.manifest_path, cut.manifest_line = manifest, number
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            self._reject(manifest, number, f"no cut: {type(error).__name__}: {error}")
            return
        self.num_short += duration < self.shortest
        self.num_long += duration > self.longest
        if self.shortest <= duration <= self.longest:
            yield cut

    def dropped(self) -> str:
        """'2 shorter than min_duration=1.0, 0 longer than max_duration=inf'"""
        return (
            f"{self.num_short} shorter than min_duration={self.shortest}, "
            f"{self.num_long} longer than max_duration={self.longest}"
        )

    def why_none(self) -> str:
        """Where gone through in vain: what to change."""
        if not self.rejected:
            return f"{self.dropped()}; move the bounds"
        first = next(iter(self.rejected.values()))
        return (
            f"line {first.line} is {first.detail}; these are cuts of lhotse's, and a NeMo manifest goes into "
            "manifest_filepath, with use_lhotse=false"
        )

    def _reject(self, manifest: str, number: int, detail: str) -> None:
        self.rejected[manifest, number] = BadSample(manifest, "bad_entry", detail.splitlines()[0], manifest, number)


def load_cut(
    cut: "Cut",
    sample_rate: int,
    *,
    channel_selector: ChannelSelector = None,
    trim: bool = False,
    int_values: bool = False,
    normalize_db: float | None = None,
) -> np.ndarray:
    """(N,) float32. Raises BadAudio. See `load_audio`.

    channel_selector: among the channels of the cut; one channel is taken as it is (NeMo 3.0.0).
    """
    piece = piece_of_file(cut) or rendered(cut)
    return load_audio(
        piece.source,
        sample_rate,
        offset=piece.offset,
        duration=piece.duration,
        channel_selector=selected(piece.channels, channel_selector),
        trim=trim,
        int_values=int_values,
        normalize_db=normalize_db,
    )


class Piece(NamedTuple):
    """Where the audio of a cut is: a file, seconds of it, and which of its channels."""

    source: AudioSource
    offset: float
    duration: float
    channels: list[int]


def piece_of_file(cut: "Cut") -> Piece | None:
    """None for a cut that isn't simply a part of one file. Raises BadAudio."""
    from lhotse.cut.data import DataCut
    from lhotse.utils import compute_num_samples

    if not isinstance(cut, DataCut):
        return None
    recording: Recording | None = cut.recording
    if recording is None:
        raise BadAudio("bad_entry", "the cut has no recording")
    source = recording.sources[0] if len(recording.sources) == 1 else None
    if source is None or source.has_video or recording.transforms or source.type not in ("file", "shar"):
        return None
    wanted = [cut.channel] if isinstance(cut.channel, int) else list(cut.channel)
    if not {*wanted} <= {*source.channels}:
        raise BadAudio("bad_entry", f"channels {wanted} of a recording that has {source.channels}")
    audio = shar_member(cut) if source.type == "shar" else source.source
    # lhotse rounds to the nearest sample, and `load_audio` down: half a sample more is that sample
    rate = cut.sampling_rate
    offset, duration = ((compute_num_samples(seconds, rate) + 0.5) / rate for seconds in (cut.start, cut.duration))
    return Piece(audio, offset, duration, [source.channels.index(channel) for channel in wanted])


def shar_member(cut: "Cut") -> io.BytesIO:
    """The encoded audio of a cut of a Shar archive. Raises BadAudio."""
    manifest = Path(cut.manifest_path)
    shard = manifest.with_name(f"recording.{manifest.name.split('.')[1]}.tar")
    try:
        with stage("decode"):
            start, size = shard_members(str(shard))[cut.id]
            with open(shard, "rb", buffering=0) as tar:
                tar.seek(start)
                return io.BytesIO(tar.read(size))
    except KeyError:
        raise BadAudio("unreadable", f"not in {shard.name}") from None
    except (OSError, ValueError) as error:
        raise BadAudio("unreadable", f"{shard.name} can't be read: {error}") from error


@lru_cache(maxsize=OPENED_SHARDS)
def shard_members(shard: str) -> dict[str, tuple[int, int]]:
    """Cut id -> where its audio begins in the tar, and how long it is, in bytes."""
    index = tar_index(shard)
    paths = map(PurePosixPath, index.names)
    members = zip(paths, index.starts, index.sizes, strict=True)
    about = (".json", ".nometa", ".nodata")  # what lhotse writes beside the audio, or for a cut without any
    return {str(path.parent / path.stem): (start, size) for path, start, size in members if path.suffix not in about}


def rendered(cut: "Cut") -> Piece:
    """What lhotse makes of a cut, as the bytes of a WAV file. Raises BadAudio."""
    import soundfile
    from lhotse.audio.backend import audio_backend

    if runs_commands(cut.to_dict()):
        raise BadAudio("bad_entry", "its audio is what a command prints; commands in manifests aren't run")
    try:
        # of lhotse's decoders the one that all else here uses; it would try torchaudio, which may not load
        with stage("decode"), audio_backend("LibsndfileBackend"):
            samples = cut.load_audio()  # (channels, N)
            wav = io.BytesIO()
            soundfile.write(wav, samples.T, cut.sampling_rate, format="WAV", subtype="FLOAT")
    except Exception as error:  # lhotse asserts, and passes on what soundfile, torchaudio and the system raise
        raise BadAudio("unreadable", f"{type(error).__name__}: {error}".splitlines()[0]) from error
    wav.seek(0)
    return Piece(wav, 0.0, cut.duration, list(range(len(samples))))


def runs_commands(entry: object) -> bool:
    """Whether a manifest entry, or any part of it, names a command as the source of its audio."""
    if isinstance(entry, Mapping):
        return entry.get("type") == "command" or any(map(runs_commands, entry.values()))
    return isinstance(entry, list | tuple) and any(map(runs_commands, entry))


def selected(channels: list[int], channel_selector: ChannelSelector) -> list[int]:
    """The file's channels to average. Raises BadAudio where the cut hasn't as many."""
    if len(channels) == 1 or channel_selector in (None, "average"):
        return channels
    numbers = [channel_selector] if isinstance(channel_selector, int) else channel_selector
    if max(numbers) >= len(channels):
        raise BadAudio("unreadable", f"channel_selector={channel_selector} asks for more than {len(channels)} channels")
    return [channels[number] for number in numbers]
