import pytest
import torch

from parts.submodules.attention import RelativeAttention
from parts.submodules.attention_context import hidden_keys
from parts.submodules.attention_options import LOCAL, AttentionOptions
from parts.submodules.local_attention import LocalRelativeAttention, window_mask
from parts.submodules.positions import sinusoids


def build(left=3, right=3, **options):
    torch.manual_seed(0)
    options = AttentionOptions(
        self_attention_model=LOCAL, d_model=8, n_heads=2, att_context_sizes=((left, right),), **options
    )
    layer = LocalRelativeAttention(options)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer.eval()


def run(layer, x, lengths):
    padding = torch.arange(x.size(1)) >= torch.tensor(lengths)[:, None]
    positions = sinusoids(torch.arange(layer.left, -layer.right - 1, -1), 8)
    return layer(x, positions, window_mask(padding, (layer.left, layer.right)))


def states(steps=17, batch=2):
    return torch.randn(batch, steps, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("width", [1, 2, 3, 16, 40])
def test_equals_full_attention_with_everything_outside_the_window_hidden(width):
    local = build(width, width)
    full = RelativeAttention(AttentionOptions(self_attention_model="rel_pos", d_model=8, n_heads=2))
    full.load_state_dict(local.state_dict())
    x, padding = states(), torch.arange(17) >= torch.tensor([[17], [5]])
    hidden = hidden_keys(padding, (width, width), "regular")
    expected = full(x, sinusoids(torch.arange(16, -17, -1), 8), hidden)
    torch.testing.assert_close(run(local, x, [17, 5]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("left, right", [(3, 3), (4, 1), (1, 4), (3, 0), (0, 3)])
def test_a_step_sees_exactly_its_window(left, right):
    layer, x = build(left, right), states(batch=1)
    before = run(layer, x, [17])
    x[:, 8] += 3.0
    changed = (run(layer, x, [17]) != before).any(dim=2)[0].nonzero().flatten().tolist()
    assert changed == list(range(8 - right, 8 + left + 1))


def test_global_tokens_see_all_and_are_seen_by_all():
    x = states(batch=1)
    layer = build(2, 2, global_tokens=2, global_tokens_spacing=5)  # steps 0 and 5
    before = run(layer, x, [17])
    for step, expected in ((5, list(range(17))), (12, [0, 5, 10, 11, 12, 13, 14])):
        changed = x.clone()
        changed[:, step] += 3.0
        assert (run(layer, changed, [17]) != before).any(dim=2)[0].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("length", [4, 9, 17])
def test_an_item_alone_equals_the_item_in_a_batch(separate, length):
    layer = build(2, 2, global_tokens=3, global_tokens_spacing=4, global_attn_separate=separate)
    x = states(batch=3)
    batched = run(layer, x, [17, length, 6])
    torch.testing.assert_close(batched[1, :length], run(layer, x[1:2, :length], [length])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"global_tokens": 1},
        {"global_tokens": 3},
        {"global_tokens": 3, "global_tokens_spacing": 2},
        {"global_tokens": 1, "global_attn_separate": True},
    ],
)
def test_each_option_of_global_tokens_changes_the_output(options):
    base = build() if options == {"global_tokens": 1} else build(global_tokens=1)
    layer, x = build(**options), states()
    layer.load_state_dict(base.state_dict(), strict=False)
    assert not torch.allclose(run(layer, x, [17, 9]), run(base, x, [17, 9]))


def test_attention_dropout_acts_in_training_only():
    layer, quiet, x = build(dropout_att=0.5, global_tokens=1), build(global_tokens=1), states()
    assert not torch.allclose(run(layer.train(), x, [17, 9]), run(quiet, x, [17, 9]))
    torch.testing.assert_close(run(layer.eval(), x, [17, 9]), run(quiet, x, [17, 9]))


def test_memory_grows_with_the_steps_and_not_with_their_square():
    layer = build(4, 4)
    largest = []
    for steps in (64, 256):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            run(layer, states(steps, batch=1), [steps])
        largest.append(max(sizes))
    assert largest[1] <= 4.1 * largest[0]
