"""Fresh weights are drawn as NeMo draws them; copied ones would hide another draw."""

from dataclasses import replace

import pytest
from torch import nn

from modules.ssl_modules import masking, multi_softmax_decoder, quantizers
from parts.submodules.conformer_block import FeedForward
from tools.parity.aspects.initial_weights import compare, measure
from tools.parity.records import Record, kept
from tools.parity.rows import FAILED, PASSED
from tools.parity.side import Side


def rows(folder):
    nemo = kept("model_pre_conv_1_book")
    job = replace(nemo.job, aspects=("initial_weights",))
    ours = Record(job, {"side": "ours"}, {"initial_weights": measure(Side("ours", job, folder))})
    return list(compare(ours, nemo))


def test_every_weight_is_drawn_as_nemos(tmp_path):
    found = rows(tmp_path)
    assert {row.status for row in found} == {PASSED}
    assert {"quantizer.codebooks", "length of a code", "mask_processor.mask_embedding"} <= {row.what for row in found}


def codes_of_any_length(patch):
    patch.setattr(quantizers.F, "normalize", lambda x, dim: x)


def uniform_instead_of_normal(patch):
    patch.setattr(quantizers.nn.init, "xavier_normal_", nn.init.xavier_uniform_)


def mask_embedding_of_unit_variance(patch):
    build = masking.RandomBlockMasking.__init__

    def wide(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self.mask_embedding.data *= 10

    patch.setattr(masking.RandomBlockMasking, "__init__", wide)


def normal_instead_of_uniform(patch):
    gain = (1 / 3) ** 0.5
    init = multi_softmax_decoder.WEIGHT_INITS
    patch.setitem(init, "xavier_uniform", lambda weight: nn.init.xavier_normal_(weight, gain=3**0.5 * gain))


def zeros_for_biases(patch):
    build = FeedForward.__init__

    def with_zeros(self, *args):
        build(self, *args)
        nn.init.zeros_(self.linear1.bias)

    patch.setattr(FeedForward, "__init__", with_zeros)


@pytest.mark.parametrize(
    ("mutant", "what", "module"),
    [
        (codes_of_any_length, "length of a code", "quantizer"),
        (uniform_instead_of_normal, "quantizer.proj.weight", "quantizer.proj"),
        (mask_embedding_of_unit_variance, "mask_processor.mask_embedding", "mask_processor"),
        (normal_instead_of_uniform, "decoder.decoder_layers.0.weight", "decoder.decoder_layers.0"),
        (zeros_for_biases, "encoder.layers.0.feed_forward1.linear1.bias", "encoder.layers.0.feed_forward1.linear1"),
    ],
)
def test_another_draw_is_seen(mutant, what, module, monkeypatch, tmp_path):
    mutant(monkeypatch)
    failed = {row.what: row.module for row in rows(tmp_path) if row.status == FAILED}
    assert failed.get(what) == module
