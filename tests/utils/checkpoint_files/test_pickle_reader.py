import codecs
import functools
import io
import os
import pickle
import random
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from tests.utils.hostile import Calls, archive, saved, tensor_of
from utils.checkpoint_files import pickle_reader
from utils.checkpoint_files.pickle_reader import check_pickle
from utils.checkpoint_files.zip_check import check_zip

ONES = torch.ones(3)
DEEP = 200_000


def check(content: bytes):
    return check_pickle(*check_zip(io.BytesIO(content)))


class Tiny(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 2), nn.BatchNorm1d(2))


GOOD = {
    "nothing": {},
    "plain data": {"a": [1, -(2**40), 2.5, None, True, "text", b"bytes", (1, (2, 3)), {"x": {1, 2}}], 3: 4, None: 5},
    "a state dict": Tiny().state_dict(),
    "parameters": {"p": nn.Parameter(ONES), "frozen": nn.Parameter(ONES, requires_grad=False)},
    "shared storage": {"a": ONES, "b": ONES[1:], "c": ONES.expand(4, 3)},
    "every dtype": {str(dtype): torch.zeros(3, 2).to(dtype) for dtype in (torch.float16, torch.bool, torch.complex64)},
    "dtypes of later": {"a": torch.zeros(5, dtype=torch.uint16), "b": torch.zeros(3, dtype=torch.float8_e4m3fn)},
    "empty tensors": {"a": torch.zeros(0), "b": torch.zeros(3, 0, 2), "c": torch.tensor(1.0)},
    "torch's small objects": {"d": torch.device("cuda:1"), "t": torch.bfloat16, "s": torch.Size([1, 2])},
    "a conjugated view": {"c": torch.ones(3, dtype=torch.complex64).conj()},
    "a negated view": {"n": torch.ones(3, dtype=torch.complex64).conj().imag},
    "numbers and text of other kinds": {"c": 1 + 2j, "b": bytearray(b"x\xff"), 0.5: "a float's key", (1.5, "a"): 1},
    "Counter": {"d": Counter("aab"), "empty": Counter()},
    "defaultdict": {"d": defaultdict(dict, {0: {"step": 1}})},
    "an optimizer": torch.optim.AdamW(Tiny().parameters()).state_dict(),
    "the same part many times": {"a": [[1, 2]] * 100},
}


@pytest.mark.parametrize("name", GOOD)
def test_tensors_and_plain_data_pass(name):
    check(saved(GOOD[name]))


CODE = {
    "os.system": lambda: Calls(os.system, "true"),
    "builtins.eval": lambda: Calls(eval, "1"),
    "builtins.exec": lambda: Calls(exec, "1"),
    "builtins.getattr": lambda: Calls(getattr, "a", "upper"),
    "builtins.type": lambda: type,
    "functools.partial": lambda: functools.partial(os.system, "true"),
    "torch.hub.load": lambda: Calls(torch.hub.load, "a", "b"),
    "torch.serialization.load": lambda: Calls(torch.load, "a"),
    "torch.nn.modules.linear.Linear": lambda: nn.Linear(1, 1),
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_refused_by_its_name_wherever_it_stands(name):
    named = {"os.system": "(posix|nt).system"}.get(name, name)
    for content in ({"x": CODE[name]()}, {"state_dict": {"a": [ONES, (CODE[name](),)]}}, OrderedDict(a=CODE[name]())):
        with pytest.raises(ValueError, match=rf"^names {named}, which is code and not data: nothing of it was run"):
            check(saved(content))


def with_attribute(tensor: torch.Tensor) -> torch.Tensor:
    tensor.note = "text"
    return tensor


UNREAD = {
    "a sparse tensor": torch.eye(3).to_sparse(),
    "a quantized tensor": Calls(torch._utils._rebuild_qtensor, 1),
    "a tensor without values": torch.zeros(3, device="meta"),
    "a parameter with Python attributes": with_attribute(nn.Parameter(ONES)),
    "a tensor with Python attributes": with_attribute(torch.ones(2)),
    "a tensor with Python attributes, or of": Calls(torch._tensor._rebuild_from_type_v2, len, str, ("a",), {}),
    "a type of numbers that weights don't have": torch.zeros(3, dtype=torch.uint8).view(torch.bits8),
    "a number or an array of NumPy": np.float32(1),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_what_is_neither_code_nor_read_is_refused_as_what_it_is(kind):
    with pytest.raises(ValueError, match=rf"^holds {kind}.* isn't read here: save plain tensors and plain data only"):
        check(saved({"x": UNREAD[kind]}))


REBUILD = torch._utils._rebuild_tensor_v2
HOSTILE = {
    "a tensor beyond its storage": (tensor_of(ONES, 0, (4,), (1,)), r"shape \[4\] in a storage of 3 values"),
    "a tensor that begins beyond it": (tensor_of(ONES, 3, (1,), (1,)), r"shape \[1\] in a storage"),
    "a long stride": (tensor_of(ONES, 0, (2,), (3,)), r"shape \[2\] in a storage"),
    "a negative stride": (tensor_of(ONES, 2, (2,), (-1,)), "damaged tensor"),
    "a negative start": (tensor_of(ONES, -1, (2,), (1,)), "damaged tensor"),
    "a negative size": (tensor_of(ONES, 0, (-1,), (1,)), "damaged tensor"),
    "one value a billion times": (tensor_of(ONES, 0, (10**9,), (0,)), r"shape \[1000000000\]"),
    "a size that overflows": (tensor_of(ONES, 0, (2**62, 4), (0, 0)), "in a storage of 3 values"),
    "strides of another number": (tensor_of(ONES, 0, (2, 1), (1,)), "damaged tensor"),
    "a tensor of no storage": (Calls(REBUILD, 1, 0, (1,), (1,), False, OrderedDict()), "no attribute"),
    "hooks": (Calls(REBUILD, ONES._typed_storage(), 0, (1,), (1,), False, OrderedDict(a=1)), "damaged tensor"),
    "a parameter of no tensor": (Calls(torch._utils._rebuild_parameter, "a", True, OrderedDict()), "damaged parameter"),
    "text that becomes long": (Calls(codecs.encode, "ab" * 10, "utf-32"), "encoding"),
    "a codec that runs code": (Calls(codecs.encode, "ab", "zlib"), "encoding"),
    "a meta device": (Calls(torch.device, "meta"), "unknown device"),
    "a set of tuples": ({(1,)}, "set of more than"),
    "a long bytearray": (Calls(bytearray, 10**15), "damaged bytearray"),
    "a Counter of a text": (Calls(Counter, "aab"), "damaged Counter"),
    "a function": ({"f": codecs.encode}, "holds .*_codecs.encode.* where data should be"),
    "a function in a tuple": (([1, torch._utils._rebuild_tensor_v2],), "where data should be"),
    "a class of storages": (torch.FloatStorage, "where data should be"),
    "a storage": (ONES._typed_storage(), "where data should be"),
    "a call of a dtype": (Calls(torch.device, torch.float32), "."),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_refused(name):
    value, said = HOSTILE[name]
    with pytest.raises((ValueError, TypeError, AttributeError), match=said):
        check(saved({"x": value}))


def test_parts_without_end_are_refused():
    circle: list = []
    circle.append(circle)
    doubled: list = ["x"]
    for _ in range(60):
        doubled = [doubled, doubled]
    for value in (circle, {"a": [circle]}, doubled):
        with pytest.raises(ValueError, match=r"contains itself|repeated to more than"):
            check(saved({"x": value}))


BOMBS = {"dicts": b"}", "numbers": b"K\x01", "empty texts": b"X\x00\x00\x00\x00", "globals": b"ctyping\nAny\n"}


@pytest.mark.parametrize("kind", BOMBS)
def test_more_values_than_any_checkpoint_has_are_refused_before_they_are_made(kind, monkeypatch):
    monkeypatch.setattr(pickle_reader, "MAX_OPERATIONS", 10_000)
    with pytest.raises(ValueError, match="a pickle of more than 10,000 operations"):
        check(archive(b"\x80\x02}K\x01](" + BOMBS[kind] * 10_000 + b"es."))


ORDERED = b"\x80\x02ccollections\nOrderedDict\n)R"
PICKLES = {
    "a list too deep": (b"\x80\x02}K\x01" + b"]" * DEEP + b"a" * (DEEP - 1) + b"s.", "nested more than"),
    "a tuple too deep": (b"\x80\x02}K\x01)" + b"\x85" * DEEP + b"s.", "nested more than"),
    "a key too deep": (b"\x80\x02})" + b"\x85" * DEEP + b"K\x01s.", "key that is neither"),
    "a list as a key": (b"\x80\x02}]K\x01s.", "key that is neither"),
    "no end": (b"\x80\x02}", "."),
    "more after the end": (b"\x80\x02}.x", "doesn't end where it should"),
    "two values": (b"\x80\x02}}.", "doesn't end where it should"),
    "an open mark": (b"\x80\x02(}.", "doesn't end where it should"),
    "no value": (b"\x80\x02.", "doesn't end where it should"),
    "a list at its root": (b"\x80\x02].", "holds no dict"),
    "a class at its root": (b"\x80\x02ctyping\nAny\n.", "holds no dict"),
    "protocol 4": (pickle.dumps({"a": 1}, protocol=4), "protocol 4"),
    "another operation": (b"\x80\x02}K\x01I1\ns.", "has INT in its pickle"),
    "a class to make": (b"\x80\x02}K\x01ctyping\nAny\n)\x81s.", "makes an object"),
    "a dict to call": (b"\x80\x02}K\x01})Rs.", "nothing to call"),
    "a state for a list": (b"\x80\x02}K\x01]}bs.", "a state"),
    "a state of an OrderedDict": (
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x04\x00\x00\x00keysK\x01sb.",
        "doesn't have",
    ),
    "items of a list": (b"\x80\x02}K\x01]K\x01K\x02ss.", "sets items of no dict"),
    "a long value": (b"\x80\x02}X\xff\xff\xff\xffabc.", "."),
}


@pytest.mark.parametrize("name", PICKLES)
def test_damaged_and_hostile_pickles_are_errors(name):
    content, said = PICKLES[name]
    with pytest.raises((ValueError, IndexError, KeyError), match=said):
        check(archive(content))


@pytest.mark.parametrize(
    ("kind", "count", "size"),
    [
        (b"Float", b"K\x04", 12),  # more than there is: torch would read beyond it
        (b"Float", b"K\x02", 12),
        (b"Float", b"J\xff\xff\xff\xff", 12),
        (b"Double", b"K\x03", 12),
        (b"QInt8", b"K\x0c", 12),
    ],
)
def test_a_storage_that_is_not_its_record_is_refused(kind, count, size):
    pid = b"(X\x07\x00\x00\x00storagectorch\n%bStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%bt" % (kind, count)
    with pytest.raises(ValueError, match=r"claims a storage of|names torch.QInt8Storage"):
        check(archive(b"\x80\x02}K\x01" + pid + b"Qs.", **{"0": bytes(size)}))


def test_one_record_cannot_be_storages_of_two_types():
    pid = b"(X\x07\x00\x00\x00storagectorch\n%bStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK%bt"
    both = b"K\x01" + pid % (b"Double", b"\x02") + b"QsK\x02" + pid % (b"Float", b"\x04") + b"Qs"
    with pytest.raises(ValueError, match=r"claims two types of values for the record data/0"):
        check(archive(b"\x80\x02}" + both + b".", **{"0": bytes(16)}))


@pytest.mark.slow
def test_mutated_pickles_never_do_more_than_raise():
    """With every checksum right: what passes is then loaded by torch, and must be plain."""
    whole = check_zip(io.BytesIO(saved({"state_dict": Tiny().state_dict(), "optimizer": GOOD["an optimizer"], "n": 1})))
    rng = random.Random(0)
    storages = {
        name.removeprefix("data/"): bytes(size) for name, size in whole.sizes.items() if name.startswith("data/")
    }
    for _ in range(3000):
        mutated = bytearray(whole.pickle)
        for _ in range(rng.choice((1, 1, 2, 8))):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        content = archive(bytes(mutated), **storages)
        try:
            check(content)
        except Exception:  # any kind: `checkpoint_file` makes one of them all
            continue
        torch.load(io.BytesIO(content), weights_only=True)
