"""What constructors are really called with: the arguments given, over the defaults of the signature."""

import functools
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

NOT_OPTIONS = ("self", "params", "optimizer")  # what an optimizer or a schedule works on
Argument = dict[str, Any]  # value: as JSON has it; given: or else by default; held: by what is built, where that tells
Arguments = dict[str, Argument]


class Constructions:
    """The arguments of each object that was made, found by the object."""

    def __init__(self):
        self.made: list[tuple[weakref.ref, Arguments]] = []  # NeMo makes an encoder and drops it

    def of(self, made: object) -> Arguments:
        """Raises KeyError for an object that none of the noted classes made."""
        for reference, arguments in self.made:
            if reference() is made:
                return arguments
        raise KeyError(f"{type(made).__qualname__} was made by none of the classes that were looked at")


@contextmanager
def noted(classes: Iterable[type]) -> Iterator[Constructions]:
    """Inside, note how objects of exactly these classes are made."""
    constructions, before = Constructions(), {}
    for cls in dict.fromkeys(classes):
        before[cls] = vars(cls).get("__init__")
        cls.__init__ = noting(cls, cls.__init__, constructions)
    try:
        yield constructions
    finally:
        for cls, constructor in before.items():
            if constructor is None:
                del cls.__init__  # it was inherited
            else:
                cls.__init__ = constructor


def noting(cls: type, constructor: Callable[..., None], constructions: Constructions) -> Callable[..., None]:
    names = list(inspect.signature(constructor).parameters)
    defaults = default_arguments(cls)

    @functools.wraps(constructor)
    def construct(self, *args, **kwargs):
        if type(self) is cls:  # not where a class that inherits from it is made
            given = dict(zip(names[1:], args)) | kwargs
            constructions.made.append((weakref.ref(self), effective(given, defaults)))
        constructor(self, *args, **kwargs)

    return construct


def effective(given: dict[str, Any], defaults: dict[str, Any]) -> Arguments:
    names = [name for name in {**defaults, **given} if name not in NOT_OPTIONS]
    return {
        name: {"value": as_json(given.get(name, defaults.get(name))), "given": name in given} for name in sorted(names)
    }


def default_arguments(cls: type) -> dict[str, Any]:
    """Every argument that a class takes, with its default. Behind `**kwargs` stand those of the class it inherits from.

    Arguments without a default have None: a call without them fails by itself.
    """
    defaults: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        for p in parameters:
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                defaults.setdefault(p.name, None if p.default is p.empty else p.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return defaults


def as_json(value: Any) -> Any:
    """Numbers, text, lists and mappings as JSON has them; of anything else its type, which holds no state."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "items"):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) or type(value).__name__ == "ListConfig":
        return [as_json(item) for item in value]
    return f"<{type(value).__name__}>"
