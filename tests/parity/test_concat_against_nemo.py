"""`ConcatDataset` against NeMo's own, item by item, over options that no record has.

Runs where NeMo 3.0.0 can be imported (`pytest -m nemo tests/parity/test_concat_against_nemo.py` in its environment).
"""

import importlib.util

import numpy as np
import pytest
from torch.utils.data import DataLoader

from data.dataset import ConcatDataset
from tests.data.test_dataset import Numbers, NumbersInTurn, first

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]


def draw_options(rng: np.random.Generator) -> tuple[list, dict, int]:
    """(data sets, options, workers); every worker has an item of each set, else NeMo hangs."""
    workers, world_size = int(rng.choice([0, 0, 0, 2])), int(rng.integers(1, 4))
    count = int(rng.integers(1, 5))
    kind = [Numbers, NumbersInTurn][rng.integers(2)]
    sizes = rng.integers(max(1, workers) * world_size, 40, count)
    technique = rng.choice(["temperature", "random", "round-robin"])
    probabilities = rng.dirichlet(np.ones(count)).tolist()
    options = {
        "shuffle": bool(rng.integers(2)),
        "sampling_technique": str(technique),
        "sampling_temperature": float(rng.uniform(0.5, 8)),
        "sampling_scale": [1, 1, 2, 0.5, 1.7][rng.integers(5)],
        "sampling_probabilities": [None, probabilities][rng.integers(2)],
        "seed": int(rng.integers(1000)),
        "global_rank": int(rng.integers(world_size)),
        "world_size": world_size,
    }
    return [kind(str(number), int(size)) for number, size in enumerate(sizes)], options, workers


def items_of(concat: type, datasets: list, options: dict, workers: int) -> tuple[int, list]:
    np.random.seed(11)
    mixed = concat(list(datasets), **options)
    if workers == 0:
        return len(mixed), list(mixed)
    loader = DataLoader(mixed, batch_size=1, num_workers=workers, collate_fn=first, worker_init_fn=seed_worker)
    return len(mixed), list(loader)


def seed_worker(number: int) -> None:
    np.random.seed(number)


@pytest.mark.parametrize("seed", range(60))
def test_the_first_epoch_is_nemos(seed):
    from nemo.collections.common.data.dataset import ConcatDataset as NemoConcatDataset

    datasets, options, workers = draw_options(np.random.default_rng(seed))
    assert items_of(ConcatDataset, datasets, options, workers) == items_of(
        NemoConcatDataset, datasets, options, workers
    )
