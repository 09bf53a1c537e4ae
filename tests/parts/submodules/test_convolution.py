import pytest
import torch

from parts.submodules.convolution import NORM, ConformerConvolution, build_norm, convolution_context

NORMS = [*NORM, "group_norm1", "group_norm4"]
OVER_PADDING = {"instance_norm", "group_norm1", "group_norm4"}  # their statistics include padding, as NeMo's do


def build(norm="batch_norm", context=(4, 4), use_bias=True):
    torch.manual_seed(0)
    layer = ConformerConvolution(8, 9, context, norm, use_bias)
    if norm == "batch_norm":
        torch.nn.init.uniform_(layer.batch_norm.running_mean)
    return layer.eval()


def run(layer, x, lengths):
    return layer(x, torch.arange(x.size(1)) >= torch.tensor(lengths)[:, None])


@pytest.mark.parametrize("norm", NORMS)
def test_padding_content_changes_nothing(norm):
    layer, x = build(norm), torch.randn(2, 20, 8)
    before = run(layer, x, [20, 7])
    x[1, 7:] = 1e4
    torch.testing.assert_close(run(layer, x, [20, 7])[1, :7], before[1, :7])


@pytest.mark.parametrize("norm", NORMS)
def test_padding_amount_changes_nothing_unless_statistics_include_it(norm):
    layer, x = build(norm), torch.randn(1, 20, 8)
    alone, padded = run(layer, x[:, :7], [7]), run(layer, x, [7])[:, :7]
    assert torch.allclose(alone, padded, atol=1e-6) != (norm in OVER_PADDING)


@pytest.mark.parametrize("context", [(4, 4), (8, 0), (6, 2), (0, 8)])
def test_a_step_reads_its_context_and_no_more(context):
    layer, x = build(context=context), torch.randn(1, 30, 8)
    before = run(layer, x, [30])
    x[:, 15] += 1.0
    changed = (run(layer, x, [30]) != before).any(dim=2)[0].nonzero().flatten()
    assert (changed.min(), changed.max()) == (15 - context[1], 15 + context[0])


@pytest.mark.parametrize("norm", NORMS)
def test_each_norm_gives_another_output(norm):
    x = torch.randn(1, 20, 8)
    outputs = [run(build(other), x, [20]) for other in NORMS if other != norm]
    assert not any(torch.allclose(run(build(norm), x, [20]), output, atol=1e-4) for output in outputs)


def test_batch_norm_statistics_include_padding_in_training():
    layer, x = build().train(), torch.randn(1, 20, 8)
    run(layer, x, [7])
    with_padding = layer.batch_norm.running_mean.clone()
    layer = build().train()
    run(layer, x[:, :7], [7])
    assert not torch.allclose(with_padding, layer.batch_norm.running_mean)


def test_without_bias_only_the_norm_has_one():
    names = [name for name, _ in build(use_bias=False).named_parameters() if name.endswith("bias")]
    assert names == ["batch_norm.bias"]


def test_contexts_are_null_causal_or_a_pair():
    assert convolution_context(None, 9) == [4, 4]
    assert convolution_context("causal", 9) == [8, 0]
    assert convolution_context((6, 2), 9) == [6, 2]


@pytest.mark.parametrize("size, kernel_size", [("centred", 9), ([4, 3], 9), ([9, -1], 9), ([4], 5)])
def test_contexts_that_do_not_fill_the_kernel_are_refused_by_name(size, kernel_size):
    with pytest.raises(ValueError, match=r"^encoder\.conv_context_size="):
        convolution_context(size, kernel_size)


def test_even_kernels_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^encoder\.conv_kernel_size=8 must be odd"):
        convolution_context(None, 8)


@pytest.mark.parametrize("name", ["group_norm3", "group_norm", "group_norm0", "group_norm-1", "bn"])
def test_unknown_norms_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^encoder\.conv_norm_type='{name}' is not one of") as error:
        build_norm(name, 8)
    assert "\n" not in str(error.value)
