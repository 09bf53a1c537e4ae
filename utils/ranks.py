"""What all training processes know together."""

import torch.distributed as dist
from torch import Tensor


def from_all_ranks(mine: object) -> list:
    """What each rank passed, in the order of ranks; all ranks must call this."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    ranks = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, mine)
    return ranks


def largest_of_all_ranks(mine: Tensor) -> Tensor:
    """Element by element over ranks, which all must call this; on the device of `mine`, which it may change."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mine, op=dist.ReduceOp.MAX)
    return mine
