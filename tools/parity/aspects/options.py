"""One option of both sides: the same, different, only here, or only there, and what is so on purpose."""

from typing import Any, NamedTuple

from tools.parity.aspects.constructors import Argument, Arguments
from tools.parity.rows import FAILED, KNOWN, PASSED, Row

LEVEL = "configuration"
ABSENT = object()
SAME = "the same number, text or list on both sides"


class Deliberate(NamedTuple):
    """What an option is here where NeMo has another value, and why."""

    ours: Any
    nemo: Any
    reason: str


DELIBERATE: dict[str, Deliberate] = {
    "masking.max_mask_ratio": Deliberate(
        None,
        0.8,
        "NeMo 3.0.0 keeps 0.8 and never uses it, as None here; a value is the rule of NeMo 2.6 for short audio",
    ),
    "quantizer.combine_time_steps": Deliberate(
        1, 8, "post_conv quantizes encoder steps, of which NeMo 3.0.0 would stack 8 again: codes and steps don't match"
    ),
}
LEFT_OUT = {  # sections of which NeMo may build nothing
    "optim.sched": "NeMo builds no schedule without max_steps, of a trainer or in the config: its rate is constant"
}
NEW_IN_3 = {  # options that NeMo 2 doesn't have, with the value that is its way
    "encoder.att_chunk_context_size": None,
    "encoder.conv_context_style": "regular",
}


def compare_option(
    key: str, ours: Argument | None, nemo: Argument | None, version: str, neutral: Any, *, is_asked: bool
) -> Row:
    """ours, nemo: what a side's constructor got; None where it has no such argument.

    version: NeMo's.  neutral: the value that is NeMo's way, ABSENT where we say none.  is_asked: set by the user.
    """
    if nemo is None:
        return only_here(key, ours["value"], version, neutral, is_asked)
    if ours is None:
        reason = "an option of NeMo's has to be taken here, or refused by its name"
        detail = f"NeMo {version}: {nemo['value']!r}, no such option here"
        return Row(LEVEL, f"model.{key}", FAILED, reason=reason, detail=detail)
    if ours["value"] != nemo["value"]:
        detail = f"{tell(ours)} instead of {tell(nemo)} in NeMo {version}"
        return differs(key, ours["value"], nemo["value"], detail)
    if "held" in ours and "held" in nemo and ours["held"] != nemo["held"]:
        detail = f"{ours['held']!r} in the built model instead of {nemo['held']!r} in NeMo {version}'s"
        return differs(key, ours["held"], nemo["held"], f"{tell(ours)} on both sides, but {detail}")
    return Row(LEVEL, f"model.{key}", PASSED, reason=SAME, detail=repr(ours["value"]))


def compare_section(section: str, ours: Arguments | None, nemo: Arguments | None, version: str) -> Row:
    """A whole section of which one side builds nothing."""
    who = f"nothing is built of it {'here' if ours is None else f'in NeMo {version}'}"
    if nemo is None and section in LEFT_OUT:
        return Row(LEVEL, f"model.{section}", KNOWN, reason=LEFT_OUT[section], detail=who)
    return Row(LEVEL, f"model.{section}", FAILED, reason="both sides must build the same things", detail=who)


def differs(key: str, ours: Any, nemo: Any, detail: str) -> Row:
    known = DELIBERATE.get(key)
    if known is not None and (ours, nemo) == (known.ours, known.nemo):
        return Row(LEVEL, f"model.{key}", KNOWN, reason=known.reason, detail=detail)
    return Row(LEVEL, f"model.{key}", FAILED, reason=SAME, detail=detail)


def only_here(key: str, value: Any, version: str, neutral: Any, is_asked: bool) -> Row:
    what, detail = f"model.{key}", f"{value!r}; NeMo {version} has no such option"
    if version.startswith("2.") and key in NEW_IN_3:
        neutral = NEW_IN_3[key]
    if neutral is not ABSENT and value == neutral:
        return Row(LEVEL, what, KNOWN, reason="only here, at the value that is NeMo's way", detail=detail)
    if is_asked:
        return Row(LEVEL, what, KNOWN, reason="our own option, asked for", detail=detail)
    way = "no value of it is known to be NeMo's way" if neutral is ABSENT else f"{neutral!r} would be NeMo's way"
    return Row(LEVEL, what, FAILED, reason=f"our own options must not change what NeMo computes: {way}", detail=detail)


def tell(argument: Argument) -> str:
    return f"{argument['value']!r}{'' if argument['given'] else ' by default'}"


def compare_value(what: str, ours: Any, nemo: Any, module: str = "") -> Row:
    """Two values that must be the same."""
    if ours == nemo:
        return Row(LEVEL, what, PASSED, reason=SAME, detail=repr(ours), module=module)
    got, expected = ("nothing" if value is ABSENT else repr(value) for value in (ours, nemo))
    return Row(LEVEL, what, FAILED, reason=SAME, detail=f"{got} instead of {expected}", module=module)
