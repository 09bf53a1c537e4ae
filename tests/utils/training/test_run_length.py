from math import inf
from types import SimpleNamespace

import pytest

from utils.training.run_length import planned_run


def trainer(batches=10, accumulate=1, max_epochs=-1, max_steps=-1) -> SimpleNamespace:
    return SimpleNamespace(
        num_training_batches=batches, accumulate_grad_batches=accumulate, max_epochs=max_epochs, max_steps=max_steps
    )


@pytest.mark.parametrize(
    ("limits", "steps", "batches"),
    [
        ({"max_steps": 25}, 25, 25),
        ({"max_epochs": 3}, 30, 30),
        ({"max_epochs": 3, "max_steps": 12}, 12, 12),
        ({"max_epochs": None, "max_steps": 12}, 12, 12),
        ({"max_epochs": 2, "accumulate": 4}, 6, 20),  # an epoch of 10 batches takes 3 steps: 4, 4 and 2 batches
        ({"max_steps": 4, "accumulate": 4}, 4, 14),
        ({}, inf, inf),
        ({"batches": inf, "max_epochs": 2}, inf, inf),
        ({"batches": inf, "max_steps": 5, "accumulate": 2}, 5, 10),
    ],
)
def test_a_run_is_as_long_as_its_nearest_limit(limits, steps, batches):
    assert planned_run(trainer(**limits)) == (steps, batches)
