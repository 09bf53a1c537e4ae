"""A digest tells weights apart by names, types, shapes and bits, and by nothing else."""

import pytest
import torch

from utils.checkpoint_files.tensor_digest import digest

MATRIX = torch.arange(6, dtype=torch.float32).reshape(2, 3)


@pytest.mark.parametrize(
    "same",
    [
        {"b": torch.tensor(True), "a": MATRIX},
        {"a": torch.nn.Parameter(MATRIX), "b": torch.tensor(True)},
        {"a": MATRIX.T.contiguous().T, "b": torch.tensor(True)},
        {"a": torch.cat([MATRIX, MATRIX])[2:], "b": torch.tensor(True)},
    ],
    ids=["another order", "a parameter", "another layout", "part of a larger one"],
)
def test_order_and_memory_layout_do_not_count(same):
    assert digest(same) == digest({"a": MATRIX, "b": torch.tensor(True)})


@pytest.mark.parametrize(
    "other",
    [{"b": MATRIX}, {"a": MATRIX.reshape(3, 2)}, {"a": MATRIX.view(torch.int32)}, {"a": -0.0 * MATRIX}, {}],
    ids=["name", "shape", "type", "bits", "nothing"],
)
def test_what_makes_another_model_makes_another_digest(other):
    assert digest(other) != digest({"a": MATRIX})
    assert digest({"a": 0.0 * MATRIX}) != digest({"a": -0.0 * MATRIX})
    assert digest({"a": MATRIX}, text="{}") != digest({"a": MATRIX})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.int8, torch.complex64, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_every_type_and_shape_has_one(dtype, shape):
    assert len(digest({"a": torch.zeros(shape, dtype=dtype)})) == 64
