"""Noise and impulse responses: random files of a manifest, where one that can't be used gives way to another."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from parts.batch_types import BadSample
from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.utterances import Utterance, UtteranceTable
from utils.logging import warn_once
from utils.rejects_list import log_reject, log_reject_in_main

MAX_TRIALS = 20  # NeMo's `sample_noise`
Loaded = TypeVar("Loaded")


def draw_audio(
    files: Sequence[Utterance | Mapping],
    load: Callable[[Utterance], Loaded],
    rng: np.random.Generator,
    *,
    kind: str,
    rejected: list[BadSample] | None = None,
    max_trials: int = MAX_TRIALS,
) -> Loaded | None:
    """What `load` makes of a random line; None, with a warning, when `max_trials` lines in a row raise BadAudio.

    files: lines as utterances, or as the dicts that NeMo's users have.
    kind: noise or rir; the reasons of the unusable ones begin with it (see utils/rejects_list.py).
    rejected: gets the unusable ones. They are logged as well; in a loader's worker only where there is no such list.
    """
    for _ in range(max_trials if len(files) else 0):
        entry = as_utterance(files[int(rng.integers(len(files)))])
        try:
            return load(entry)
        except BadAudio as error:
            bad = BadSample(entry.audio_filepath, f"{kind}_{error.reason}", str(error), entry.manifest, entry.line)
            if rejected is None:
                log_reject(bad)
            else:
                log_reject_in_main(bad)
                rejected.append(bad)
    if len(files):
        warn_once(f"{kind}: {max_trials} files drawn in a row can't be used; some utterances go without")
    return None


def rejected_lines(files: UtteranceTable, kind: str) -> tuple[BadSample, ...]:
    """Lines of their manifest that name no usable piece of audio, with the reason "<kind>_bad_entry"."""
    return tuple(bad._replace(reason=f"{kind}_{bad.reason}") for bad in files.rejected)


def as_utterance(entry: Utterance | Mapping) -> Utterance:
    """A dict with audio_filepath, and duration and offset where known, as an utterance."""
    if isinstance(entry, Utterance):
        return entry
    return Utterance(
        audio_filepath=entry["audio_filepath"],
        duration=entry.get("duration") or None,
        offset=entry.get("offset") or 0.0,
        manifest=entry.get("manifest", ""),
        line=entry.get("line", 0),
    )
