"""What a user typed against what there is: a wrong name gets an error that says which one was probably meant."""

import difflib
from collections.abc import Iterable, Mapping


def nearest(word: str, known: Iterable[str]) -> str:
    """End of an error message: '; did you mean X?', or all known names when none is near and they are few.

    A known name may be a path such as section.key: its key alone is near.
    """
    known = sorted(known)
    in_a_section = [name for name in known if name.endswith(f".{word}")]
    close = in_a_section or difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
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


def refuse_unless_neutral(values: Mapping, neutral: Mapping[str, tuple], path: str, why: str) -> None:
    """Raise ValueError for an option that is known, has no effect, and is set to something that should have one."""
    for key, accepted in neutral.items():
        if key in values and values[key] not in accepted:
            given, neutral_value = as_yaml(values[key]), as_yaml(accepted[0])
            raise ValueError(f"{path}.{key}={given} {why}; remove it or set it to {neutral_value}")


def first_line(error: object) -> str:
    """Of a library's error: the rest of it is seldom for users."""
    return str(error).strip().partition("\n")[0]


def as_yaml(value: object) -> str:
    """A value as a config spells it: null, true and false; others as Python does."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def is_number(value: object) -> bool:
    """Of a config: true and false are none, although Python counts with them."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_share(value: object) -> bool:
    return is_number(value) and 0 <= value <= 1
