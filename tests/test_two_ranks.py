"""What the tests of several ranks stand on: no test may hang, and none may pass because its ranks failed."""

import time

import pytest
import torch.distributed as dist

from tests import two_ranks as harness
from tests.two_ranks import two_ranks

pytestmark = pytest.mark.slow


def fail_alone(rank: int) -> None:
    if rank == 1:
        raise ValueError("only here")
    dist.barrier()


def wait_for_ever(rank: int) -> None:
    time.sleep(1000)


def test_a_rank_that_fails_alone_ends_both_with_its_traceback():
    with pytest.raises(AssertionError, match=r"rank 1: (?s:.*)ValueError: only here"):
        two_ranks(fail_alone)


def test_ranks_that_wait_for_ever_are_ended(monkeypatch):
    monkeypatch.setattr(harness, "SECONDS", 1.0)
    with pytest.raises(TimeoutError, match="rank 0 and 1: no end in 1 s"):
        two_ranks(wait_for_ever)
