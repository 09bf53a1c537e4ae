"""What all training processes know together."""

import torch.distributed as dist


def from_all_ranks(mine: object) -> list:
    """What each rank passed, in the order of ranks; all ranks must call this."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    ranks = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, mine)
    return ranks
