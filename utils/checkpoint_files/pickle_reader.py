"""What is in a checkpoint's pickle, found out without making any of it.

torch's own `weights_only` reader calls no code that it doesn't know, but believes what it is told: a tensor larger than
its storage, a storage larger than its record, any size to allocate, dicts nested without end. Here the pickle is read
to a tree of inert values, in which each call is checked against a table.
"""

import pickletools
from collections.abc import Callable, Mapping

from utils.checkpoint_files.pickle_calls import (
    DTYPES,
    LOCATION,
    STORAGES,
    Filled,
    Named,
    Storage,
    check,
    holds_only,
    is_count,
)
from utils.checkpoint_files.safe_globals import CONFIG_NODES, SAFE

MAX_DEPTH = 100
MAX_OPERATIONS = 4_000_000  # in the pickle; 10,000 parameters with Adam and averages: 1,600,000
MAX_VALUES = 4_000_000  # of the tree, each shared part counted as often as it's met
UNREAD = {  # what torch reads and weights don't need; the start of a name
    "numpy.": "a number or an array of NumPy",
    "torch._utils._rebuild_sparse": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_meta_tensor": "a tensor without values",
    "torch._utils._rebuild_parameter_with_state": "a parameter with Python attributes",
    "torch._tensor._rebuild_from_type_v2": "a tensor with Python attributes, or of a class of its own",
    **dict.fromkeys(("torch.qint", "torch.quint", "torch.bits"), "a type of numbers that weights don't have"),
}


def check_pickle(pickle: bytes, sizes: Mapping[str, int]) -> object:
    """Read the pickle of torch.save to inert values.

    sizes: bytes of each record in the archive, by name.
    Raises ValueError, saying what is wrong, for code, claims beyond the records, and trees too deep or too large.
    """
    reader = _Reader(sizes)
    end = 0
    for count, (operation, argument, end) in enumerate(pickletools.genops(pickle)):  # noqa: B007
        if count >= MAX_OPERATIONS:
            raise ValueError(f"has a pickle of more than {MAX_OPERATIONS:,} operations: too much beside its tensors")
        if operation.name not in OPERATIONS:
            raise ValueError(f"has {operation.name} in its pickle, which torch.save doesn't write")
        OPERATIONS[operation.name](reader, argument)
    if end + 1 != len(pickle) or reader.marks or len(reader.stack) != 1:
        raise ValueError("has a pickle that doesn't end where it should")
    root = reader.stack[0]
    if not isinstance(root, Filled) or root.name in CONFIG_NODES:
        raise ValueError("holds no dict, which checkpoints and state dicts are")
    weigh(root)
    return root


class _Reader:
    """The pickle machine, reduced to what torch.save writes (protocol 2) and to values that can't act."""

    def __init__(self, sizes: Mapping[str, int]):
        self.sizes = sizes
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self, _: None) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def last(self, count: int) -> list:
        if len(self.stack) < count:
            raise ValueError("has a damaged pickle")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.push(self.memo[index])

    def append(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("has a damaged pickle: appends to no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, Filled) or target.name in CONFIG_NODES or len(items) % 2:
            raise ValueError("has a damaged pickle: sets items of no dict")
        for key, value in zip(items[::2], items[1::2]):
            parts = key if type(key) is tuple else (key,)
            if not all(part is None or type(part) in (str, bool, int, float) for part in parts):
                raise ValueError("has a dict with a key that is neither a text nor a number")
            target.items[key] = value

    def name(self, argument: str) -> None:
        """GLOBAL: its argument is the module and the name."""
        module, _, name = argument.partition(" ")
        if module == "__builtin__":  # as protocol 2 writes it, for Python 2
            module, name = "builtins", {"long": "int", "unicode": "str"}.get(name, name)
        path = f"{module}.{name}"
        if path not in STORAGES and path not in DTYPES and path not in SAFE:
            refuse_unread(path)
            raise ValueError(
                f"names {path}, which is code and not data: nothing of it was run; if the file is yours, read it where "
                "it was made and torch.save its tensors and plain data only"
            )
        self.push(Named(path))

    def storage(self, _: None) -> None:
        """BINPERSID: ("storage", class, record, device, number of values)."""
        (identity,) = self.last(1)
        kind, named, key, location, count = identity
        if kind != "storage" or named.name not in STORAGES or not LOCATION.fullmatch(location):
            raise ValueError(f"has a storage of an unknown kind, {identity!r:.80}")
        dtype, size = STORAGES[named.name], self.sizes.get(f"data/{key}")
        if size is None or not is_count(count) or not 0 <= size - count * dtype.itemsize < dtype.itemsize:
            raise ValueError(f"claims a storage of {count} x {dtype}, of which the record data/{key} has {size} bytes")
        storage = self.storages.setdefault(key, Storage(dtype, size))
        if storage.dtype != dtype:
            raise ValueError(f"claims two types of values for the record data/{key}")
        self.push(storage)

    def call(self, _: None) -> None:
        """REDUCE."""
        named, arguments = self.last(2)
        if not isinstance(named, Named) or type(arguments) is not tuple:
            raise ValueError(f"calls {named!r:.80}, which is nothing to call")
        if named.name not in SAFE or SAFE[named.name].call is None:
            raise ValueError(f"calls {named.name}, which is only to be named")
        self.push(SAFE[named.name].call(*arguments))

    def make(self, _: None) -> None:
        """NEWOBJ."""
        named, arguments = self.last(2)
        if not isinstance(named, Named) or named.name not in CONFIG_NODES or arguments != ():
            raise ValueError(f"makes an object of {named!r:.80}")
        self.push(Filled(named.name))

    def build(self, _: None) -> None:
        """BUILD: the state of a config, or what a state dict knows of versions."""
        (state,) = self.last(1)
        target = self.stack[-1]
        if not isinstance(target, Filled) or not isinstance(state, Filled) or state.name != "dict":
            raise ValueError("has a damaged pickle: gives a state to what has none")
        if target.name in CONFIG_NODES:
            target.items = {key: state.items[key] for key in ("_content", "_val") if key in state.items}
        elif target.name != "collections.OrderedDict" or not is_metadata(state):
            raise ValueError(f"gives a {target.name} what it doesn't have")


OPERATIONS: dict[str, Callable[[_Reader, object], None]] = {
    "PROTO": lambda reader, version: check(version == 2, f"has a pickle of protocol {version}; torch.save writes 2"),
    "STOP": lambda reader, _: None,
    "GLOBAL": _Reader.name,
    "REDUCE": _Reader.call,
    "NEWOBJ": _Reader.make,
    "BUILD": _Reader.build,
    "BINPERSID": _Reader.storage,
    "MARK": _Reader.mark,
    "APPEND": lambda reader, _: reader.append(reader.last(1)),
    "APPENDS": lambda reader, _: reader.append(reader.since_mark()),
    "SETITEM": lambda reader, _: reader.set_items(reader.last(2)),
    "SETITEMS": lambda reader, _: reader.set_items(reader.since_mark()),
    "TUPLE": lambda reader, _: reader.push(tuple(reader.since_mark())),
    "TUPLE1": lambda reader, _: reader.push(tuple(reader.last(1))),
    "TUPLE2": lambda reader, _: reader.push(tuple(reader.last(2))),
    "TUPLE3": lambda reader, _: reader.push(tuple(reader.last(3))),
    "EMPTY_DICT": lambda reader, _: reader.push(Filled("dict")),
    "EMPTY_LIST": lambda reader, _: reader.push([]),
    "EMPTY_TUPLE": lambda reader, _: reader.push(()),
    "NONE": lambda reader, _: reader.push(None),
    "NEWTRUE": lambda reader, _: reader.push(True),
    "NEWFALSE": lambda reader, _: reader.push(False),
    "BINUNICODE": _Reader.push,
    "BININT": _Reader.push,
    "BININT1": _Reader.push,
    "BININT2": _Reader.push,
    "BINFLOAT": _Reader.push,
    "LONG1": _Reader.push,
    "BINPUT": _Reader.remember,
    "LONG_BINPUT": _Reader.remember,
    "BINGET": _Reader.recall,
    "LONG_BINGET": _Reader.recall,
}


def refuse_unread(path: str) -> None:
    """Raise ValueError for what is no code, and not read all the same."""
    for start, kind in UNREAD.items():
        if path.startswith(start):
            raise ValueError(f"holds {kind} ({path}), which isn't read here: save plain tensors and plain data only")


def is_metadata(state: Filled) -> bool:
    """What `Module.state_dict` says of each module: {"_metadata": {"encoder.norm": {"version": 2}}}."""
    (key, modules), *more = state.items.items()
    return (
        key == "_metadata" and not more and all(holds_only(module, int, bool, str) for module in modules.items.values())
    )


def weigh(value: object, depth: int = 0, known: dict[int, tuple[int, int]] | None = None) -> tuple[int, int]:
    """How many values `value` is made of and how deep it is.

    Raises ValueError if either is too much, as in a circle, and for a part that is no data: a function, a storage.
    """
    known = {} if known is None else known
    if not is_data(value):
        raise ValueError(f"holds {value!r:.80} where data should be")
    count, height = known.get(id(value), (1, 0))
    if depth + height > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep, or contains itself")
    children = tuple(value.items.values()) if isinstance(value, Filled) else value
    if not isinstance(children, tuple | list) or id(value) in known:
        return count, height
    for child in children:
        child_count, child_height = weigh(child, depth + 1, known)
        count, height = count + child_count, max(height, child_height + 1)
    if count > MAX_VALUES:
        raise ValueError(f"has parts that are repeated to more than {MAX_VALUES:,} values")
    known[id(value)] = count, height
    return count, height


def is_data(value: object) -> bool:
    """Types of numbers are, and what becomes a text (see `safe_globals.plain`)."""
    if isinstance(value, Named):
        return value.name in DTYPES or (value.name in SAFE and SAFE[value.name].stand_in is not None)
    return not isinstance(value, Storage)
