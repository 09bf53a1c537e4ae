import math

import pytest
import torch
import torch.nn.functional as F

from parts.submodules.attention import MultiHeadAttention, RelativeAttention, distances_to_keys
from parts.submodules.attention_context import hidden_keys
from parts.submodules.attention_options import AttentionOptions
from parts.submodules.positions import sinusoids

LAYERS = {"abs_pos": MultiHeadAttention, "rel_pos": RelativeAttention}
STEPS = 7


def build(name, **options):
    torch.manual_seed(0)
    layer = LAYERS[name](AttentionOptions(self_attention_model=name, d_model=8, n_heads=2, **options))
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def inputs(lengths=(STEPS, 4), context=(-1, -1)):
    x = torch.randn(len(lengths), STEPS, 8, generator=torch.Generator().manual_seed(1))
    padding = torch.arange(STEPS) >= torch.tensor(lengths)[:, None]
    positions = sinusoids(torch.arange(STEPS - 1, -STEPS, -1), 8)
    return x, positions, hidden_keys(padding, context, "regular")


def by_hand(layer, x, positions, hidden):
    """Attention of item 0, one query, one head and one key at a time."""
    heads = torch.zeros(STEPS, 2, 4)
    projections = layer.linear_q, layer.linear_k, layer.linear_v
    query, key, value = (linear(x[0]).view(STEPS, 2, 4) for linear in projections)
    for head in range(2):
        for i in range(STEPS):
            scores = torch.full((STEPS,), -math.inf)
            for j in range(STEPS):
                if hidden[0, i, j]:
                    continue
                scores[j] = query[i, head] @ key[j, head]
                if isinstance(layer, RelativeAttention):
                    distance = layer.linear_pos(positions[0, STEPS - 1 - (i - j)]).view(2, 4)[head]
                    scores[j] += layer.pos_bias_u[head] @ key[j, head] + (query[i] + layer.pos_bias_v)[head] @ distance
            heads[i, head] = (scores / 2.0).softmax(0) @ value[:, head]
    return layer.linear_out(heads.flatten(1))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("context", [(-1, -1), (2, 1)])
def test_scores_are_those_of_the_papers(name, context):
    layer, (x, positions, hidden) = build(name), inputs(context=context)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, positions, hidden)[0], by_hand(layer, x, positions, hidden))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_row_i_reads_the_distance_i_minus_j_for_key_j(steps):
    distances = torch.arange(steps - 1, -steps, -1).expand(1, 1, steps, -1)
    expected = torch.arange(steps)[:, None] - torch.arange(steps)
    assert torch.equal(distances_to_keys(distances.contiguous())[0, 0], expected)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("context", [(-1, -1), (2, 1)])
@pytest.mark.parametrize("backends", [(), ("MATH",)])
def test_fused_attention_gives_the_same_values_and_gradients(name, context, backends):
    plain = build(name).double()
    fused = build(name, use_pytorch_sdpa=True, use_pytorch_sdpa_backends=backends).double()
    x, positions, hidden = inputs(context=context)
    x, positions = x.double(), positions.double()
    outputs, gradients = [], []
    for layer in (plain, fused):
        x = x.detach().requires_grad_()
        outputs.append(layer(x, positions, hidden))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), [x, *layer.parameters()]))
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("sdpa", [False, True])
def test_a_query_that_sees_nothing_gives_the_output_bias(name, sdpa):
    layer = build(name, use_pytorch_sdpa=sdpa)
    out = layer(*inputs(lengths=(4, 0)))
    torch.testing.assert_close(out[0, 4:], layer.linear_out.bias.expand(3, -1))
    torch.testing.assert_close(out[1], layer.linear_out.bias.expand(STEPS, -1))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("sdpa", [False, True])
def test_attention_dropout_acts_in_training_only(name, sdpa):
    layer, quiet = build(name, dropout_att=0.5, use_pytorch_sdpa=sdpa), build(name)
    assert not torch.allclose(layer.train()(*inputs()), quiet(*inputs()))
    torch.testing.assert_close(layer.eval()(*inputs()), quiet(*inputs()))


@pytest.mark.parametrize("name", LAYERS)
def test_fused_attention_calls_the_fused_kernel_on_the_named_backends(name, monkeypatch):
    calls, kernel = [], F.scaled_dot_product_attention

    def recorded(*inputs, **options):
        calls.append((torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()))
        return kernel(*inputs, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    build(name)(*inputs())
    build(name, use_pytorch_sdpa=True)(*inputs())
    build(name, use_pytorch_sdpa=True, use_pytorch_sdpa_backends=("MATH",))(*inputs())
    assert calls == [(True, True), (False, True)]


def test_unknown_backends_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^encoder\.use_pytorch_sdpa_backends: 'FAST' is not one of"):
        build("rel_pos", use_pytorch_sdpa=True, use_pytorch_sdpa_backends=("FAST",))
