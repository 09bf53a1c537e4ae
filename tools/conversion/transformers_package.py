"""transformers, also beside a torchaudio that is installed and can't be imported."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType


@cache
def transformers() -> ModuleType:
    """The package, for its classes.

    It imports torchaudio where that is installed, and the one of PyPI raises OSError beside a torch for CPUs
    (libc10_cuda.so). Parakeet needs nothing of it, so such a one is hidden while transformers looks for it.
    """
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        with hidden("torchaudio"):
            return look_around()
    return look_around()


def look_around() -> ModuleType:
    """Let transformers see which packages there are; it looks once, and remembers."""
    import transformers
    from transformers.utils.import_utils import is_torchaudio_available

    if hasattr(is_torchaudio_available, "cache_clear"):  # imported before, by someone else
        is_torchaudio_available.cache_clear()
    import transformers.audio_utils

    return transformers


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """What looks for the package finds none."""
    sys.modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]
