"""Names a user typed against the names there are: the error says which one was probably meant."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """End of an error message: '; did you mean X?', or all known names when none is near and they are few."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if 0 < len(known) <= 60 else ""


def refuse_unknown_keys(section: Iterable[str], known: Iterable[str], path: str) -> None:
    """Raise ValueError for the first key of `section` that isn't in `known`. path: of the section, '' at the top."""
    known = set(known)
    for key in section:
        if key not in known:
            full = f"{path}.{key}" if path else str(key)
            raise ValueError(f"{full} is not a known config key{nearest(key, known)}")
