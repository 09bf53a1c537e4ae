"""`expand_sharded_filepaths` against NeMo's own, pattern by pattern.

Runs where NeMo 3.0.0 can be imported (`pytest -m nemo tests/parity/test_sharded_paths_against_nemo.py` in its
environment).
"""

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest

from data.audio_to_text import expand_sharded_filepaths

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]

OPENING = ("{", "(", "[", "<", "_OP_")
CLOSING = ("}", ")", "]", ">", "_CL_")
LITERALS = ("a", "shard", "x-", "_", "/d/e/", "", "..", "C:\\x\\")


def draw_group(rng: np.random.Generator, depth: int) -> str:
    kind = rng.integers(3)
    if kind == 0:  # numbers, padded or not, either way, with or without a step
        form = str(rng.choice(["%d", "%02d", "%03d"]))
        inside = "..".join(form % number for number in rng.integers(-3, 13, 2))
        inside += str(rng.choice(["", "..2", "..-2", "..0"]))
    elif kind == 1:
        inside = f"{rng.choice(list('abzAZ'))}..{rng.choice(list('abzAZ'))}" + str(rng.choice(["", "..3"]))
    else:
        inside = ",".join(draw_pattern(rng, depth + 1) for _ in range(rng.integers(2, 4)))
    return str(rng.choice(OPENING)) + inside + str(rng.choice(CLOSING))


def draw_pattern(rng: np.random.Generator, depth: int = 0) -> str:
    num_groups = rng.integers(3) if depth < 2 else 0
    return str(rng.choice(LITERALS)) + "".join(
        draw_group(rng, depth) + str(rng.choice(LITERALS)) for _ in range(num_groups)
    )


def outcome(expand: Callable, *call) -> list | str:
    try:
        return list(expand(*call))
    except ValueError as error:
        return type(error).__name__


def test_every_rank_gets_the_paths_that_nemo_gives_it():
    from nemo.collections.asr.data.audio_to_text import expand_sharded_filepaths as nemos

    rng = np.random.default_rng(0)
    expanded = 0
    for _ in range(500):
        pattern = draw_pattern(rng)
        world_size = int(rng.integers(1, 5))
        for strategy in ("scatter", "replicate"):
            call = (pattern, strategy, world_size, int(rng.integers(world_size)))
            ours = outcome(expand_sharded_filepaths, *call)
            assert ours == outcome(nemos, *call), call
            expanded += len(ours) > 1
    assert expanded > 300
