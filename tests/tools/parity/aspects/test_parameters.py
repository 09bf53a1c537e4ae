"""Names, shapes, types, order and counts of parameters: each change of them fails, at the tensor that it is.

NeMo's side is our own unchanged one; tests/parity/test_configuration_against_nemo.py has NeMo.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from modules.conformer_encoder import ConformerEncoder
from modules.ssl_modules import RandomBlockMasking, RandomProjectionVectorQuantizer
from parts.preprocessing.features import FilterbankFeatures
from parts.submodules.conformer_block import ConformerBlock
from tools.parity.aspects import parameters
from tools.parity.aspects.parameters import NAME
from tools.parity.cases import CASES
from tools.parity.records import Job, Measured, Record
from tools.parity.rows import FAILED, PASSED, Row
from tools.parity.side import Side

Patch = pytest.MonkeyPatch
CODEBOOKS = "quantizer.codebooks"


def job_of(name: str) -> Job:
    return Job(name, CASES[name], (NAME,))


def measured(job: Job) -> Record:
    return Record(job, {"side": "ours"}, {NAME: parameters.measure(Side("ours", job, Path()))})


@pytest.fixture(scope="module")
def nemo() -> Record:
    return measured(job_of("model_pre_conv_1_book"))


def failed(nemo: Record) -> dict[str, Row]:
    rows = parameters.compare(measured(nemo.job), nemo)
    return {row.what: row for row in rows if row.status == FAILED}


def after(patch: Patch, cls: type, change: Callable[[nn.Module], None]) -> None:
    """Let a class's constructor end with `change`."""
    before = cls.__init__

    @functools.wraps(before)
    def construct(self, *args, **kwargs):
        before(self, *args, **kwargs)
        change(self)

    patch.setattr(cls, "__init__", construct)


@pytest.mark.parametrize("name", ["encoder_reduction_striding", "model_post_conv_1_book", "model_pre_conv_2_books"])
def test_what_is_the_same_passes(name):
    record = measured(job_of(name))
    rows = list(parameters.compare(record, record))
    assert {row.status for row in rows} == {PASSED}
    assert {row.level for row in rows} == {"parameters"}
    whats = {row.what for row in rows}
    assert {"order of the trained parameters", "count of all"} <= whats
    if "post_conv" in name:  # each parameter before the mask has two names
        assert {"encoder.pre_encode.pre_encode.out.weight", "pre_encoder.pre_encode.out.weight"} <= whats


def test_each_tensor_names_its_module_and_counts_add_up(nemo):
    rows = {row.what: row for row in parameters.compare(nemo, nemo)}
    assert rows["encoder.layers.1.norm_out.weight"].module == "encoder.layers.1.norm_out"
    assert rows["encoder.layers.0.conv.batch_norm.running_mean"].detail.startswith("kind buffer, shape [16], dtype")
    assert rows["encoder.layers.0.conv.batch_norm.num_batches_tracked"].detail.endswith("dtype int64, trained False")
    counts = nemo.measured[NAME].facts["counts"]
    parts = ("encoder", "quantizer", "mask_processor", "decoder")
    assert counts["all"] == {key: sum(counts[part][key] for part in parts) for key in ("trained", "frozen")}
    assert counts["encoder"]["trained"] == sum(
        counts[part]["trained"] for part in ("encoder.pre_encode", "encoder.layers")
    )


def test_a_renamed_parameter_is_missing_and_too_much(nemo, monkeypatch):
    def rename(block: nn.Module) -> None:
        block.norm_end = block._modules.pop("norm_out")
        object.__setattr__(block, "norm_out", block.norm_end)

    after(monkeypatch, ConformerBlock, rename)
    found = failed(nemo)
    old, new = found["encoder.layers.0.norm_out.weight"], found["encoder.layers.0.norm_end.weight"]
    assert old.detail.startswith("nothing instead of kind parameter, shape [16]")
    assert new.detail.endswith("instead of nothing")
    assert found["order of the trained parameters"].detail.endswith("instead of encoder.layers.0.norm_out.weight")


def test_another_type_fails(nemo, monkeypatch):
    after(monkeypatch, RandomProjectionVectorQuantizer, single_precision)
    found = failed(nemo)
    assert set(found) == {CODEBOOKS}
    assert "dtype float32" in found[CODEBOOKS].detail
    assert "instead of kind parameter, shape [1, 32, 8], dtype float64" in found[CODEBOOKS].detail
    assert found[CODEBOOKS].module == "quantizer"


def single_precision(quantizer: nn.Module) -> None:
    quantizer.codebooks = nn.Parameter(quantizer.codebooks.float(), requires_grad=False)


def test_a_frozen_parameter_that_is_trained_fails_and_is_counted(nemo, monkeypatch):
    after(monkeypatch, RandomBlockMasking, lambda masking: masking.requires_grad_(True))
    found = failed(nemo)
    assert set(found) == {
        "mask_processor.mask_embedding", "order of the trained parameters", "count of mask_processor", "count of all",
    }  # fmt: skip
    assert "trained 80, frozen 0 instead of trained 0, frozen 80" in found["count of mask_processor"].detail


def test_another_order_of_registration_fails(nemo, monkeypatch):
    def reorder(block: nn.Module) -> None:
        block._modules["norm_conv"] = block._modules.pop("norm_conv")

    after(monkeypatch, ConformerBlock, reorder)
    assert set(failed(nemo)) == {"order of the trained parameters"}


def test_a_buffer_that_is_no_longer_saved_fails_and_says_so(nemo, monkeypatch):
    after(monkeypatch, FilterbankFeatures, lambda filters: filters._non_persistent_buffers_set.add("fb"))
    found = failed(nemo)
    assert "preprocessor.featurizer.fb" in found
    assert found["preprocessor.featurizer.fb"].detail.startswith("nothing, here a buffer that isn't saved instead of")


def test_another_window_and_other_filters_fail_where_they_differ_most(nemo, monkeypatch):
    def change(filters: nn.Module) -> None:
        filters.window.copy_(torch.hamming_window(len(filters.window), periodic=False))
        filters.fb[0, 3] *= 1.00001

    after(monkeypatch, FilterbankFeatures, change)
    found = failed(nemo)
    assert set(found) == {f"values of preprocessor.featurizer.{name}" for name in ("window", "fb")}
    row = found["values of preprocessor.featurizer.window"]
    assert row.error == pytest.approx(0.08, abs=1e-3) and row.limit < 1e-5
    assert row.detail.startswith("[0]: 0.08")
    assert found["values of preprocessor.featurizer.fb"].detail.startswith("[0, 3, ")


def test_a_constant_that_is_not_finite_or_of_another_size_fails(nemo):
    for window in (torch.full((400,), float("nan")), torch.ones(320)):
        tensors = nemo.measured[NAME].tensors | {"preprocessor.featurizer.window": window}
        ours = replace(nemo, measured={NAME: Measured(tensors, nemo.measured[NAME].facts)})
        found = {row.what for row in parameters.compare(ours, nemo) if row.status == FAILED}
        assert found == {"values of preprocessor.featurizer.window"}


def test_a_frozen_layer_fails_in_every_count_that_it_changes(nemo, monkeypatch):
    after(monkeypatch, ConformerEncoder, lambda encoder: encoder.layers[1].requires_grad_(False))
    found = failed(nemo)
    assert {"count of encoder.layers", "count of encoder", "count of all"} <= set(found)
    assert "count of encoder.pre_encode" not in found
