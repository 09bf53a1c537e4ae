"""Noise and impulse responses: random files of a manifest, where one that can't be used gives way to another."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from parts.batch_types import BadSample
from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.utterances import Utterance, UtteranceTable
from utils.training.rejects_list import MAX_TRIALS, log_reject, log_reject_in_main

Loaded = TypeVar("Loaded")


class LastTrial(BadSample):
    """The last of so many unusable files in a row that nothing is mixed into the sample they were drawn for."""

    is_last_trial = True


def draw_audio(
    files: Sequence[Utterance | Mapping],
    load: Callable[[Utterance], Loaded],
    rng: np.random.Generator,
    *,
    kind: str,
    rejected: list[BadSample] | None = None,
    max_trials: int = MAX_TRIALS,
) -> Loaded | None:
    """What `load` makes of a random line; None when `max_trials` lines in a row raise BadAudio.

    files: lines as utterances, or as the dicts that NeMo's users have.
    kind: noise or rir; the reasons of the unusable ones begin with it (see utils/training/rejects_list.py).
    rejected: gets the unusable ones, the last of `max_trials` as a `LastTrial`. They are logged as well; in a loader's
        worker only where there is no such list.
    """
    trials = max_trials if len(files) else 0
    for trial in range(1, trials + 1):
        entry = as_utterance(files[int(rng.integers(len(files)))])
        try:
            return load(entry)
        except BadAudio as error:
            bad = BadSample(entry.audio_filepath, f"{kind}_{error.reason}", str(error), entry.manifest, entry.line)
            reject(bad if trial < trials else LastTrial(*bad), rejected)
    return None


def reject(bad: BadSample, rejected: list[BadSample] | None) -> None:
    """Where there is a list, a loader's worker leaves it to the process that trains to say so."""
    if rejected is None:
        log_reject(bad)
    else:
        log_reject_in_main(bad)
        rejected.append(bad)


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
