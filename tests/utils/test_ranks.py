import multiprocessing
import os
from multiprocessing.queues import Queue

import pytest
import torch.distributed as dist

from utils.ranks import from_all_ranks


def test_a_process_alone_has_only_its_own():
    assert from_all_ranks({"a": 1}) == [{"a": 1}]


def exchange(rank: int, store: str, found: Queue) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found.put((rank, from_all_ranks({"rank": rank})))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="gloo meets over a file:// path of POSIX here")
def test_each_rank_gets_what_all_passed_in_their_order(tmp_path):
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    processes = [context.Process(target=exchange, args=(rank, str(tmp_path / "store"), found)) for rank in range(2)]
    for process in processes:
        process.start()
    expected = [{"rank": 0}, {"rank": 1}]
    assert sorted(found.get(timeout=120) for _ in range(2)) == [(0, expected), (1, expected)]
    for process in processes:
        process.join(timeout=60)
