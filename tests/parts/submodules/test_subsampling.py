import itertools
from math import ceil

import pytest
import torch

from parts.submodules.subsampling import SUBSAMPLING, FrameProjection, SubsamplingOptions, build_subsampling

FRAMES = [400, 401, 402, 404]  # odd after 0, 1 and 2 halvings, and never: even sizes hide leaks
KINDS = [
    (name, factor, causal)
    for name, factor, causal in itertools.product(SUBSAMPLING, (2, 4, 8), (False, True))
    if not (name == "vggnet" and causal)
]


def build(name, factor=8, causal=False, **options):
    torch.manual_seed(0)
    return build_subsampling(name, SubsamplingOptions(6, 10, factor, conv_channels=4, causal=causal, **options)).eval()


def mel(num_frames, batch=2, seed=0):
    return torch.randn(batch, num_frames, 6, generator=torch.Generator().manual_seed(seed))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, factor, causal", KINDS)
@pytest.mark.parametrize("num_frames", FRAMES)
def test_lengths_follow_the_formula_of_each_kind(name, factor, causal, num_frames):
    steps = num_frames
    for _ in range(factor.bit_length() - 1):
        steps = steps // 2 + 1 if causal else ceil(steps / 2)
    if name.startswith("stacking"):
        steps = num_frames // factor
    _, lengths = build(name, factor, causal)(mel(num_frames, 1), torch.tensor([num_frames]))
    assert lengths.tolist() == [steps]


@pytest.mark.parametrize("name, factor, causal", KINDS)
@pytest.mark.parametrize("num_frames", FRAMES)
def test_an_item_alone_equals_the_item_in_a_batch(name, factor, causal, num_frames):
    layer, x, length = build(name, factor, causal), mel(404), torch.tensor([404, num_frames])
    batched, steps = layer(x, length)
    alone, steps_alone = layer(x[1:, :num_frames], length[1:])
    assert steps[1] == steps_alone[0] <= alone.size(1)
    same(batched[1, : steps[1]], alone[0, : steps_alone[0]])


@pytest.mark.parametrize("name, factor, causal", KINDS)
def test_padding_content_changes_nothing(name, factor, causal):
    layer, x, lengths = build(name, factor, causal), mel(404), torch.tensor([301, 97])
    before, steps = layer(x, lengths)
    for row, length in enumerate(lengths):
        x[row, length:] = float("nan")
    after, _ = layer(x, lengths)
    for row, step in enumerate(steps):
        assert torch.equal(before[row, :step], after[row, :step])


@pytest.mark.parametrize("name, factor, causal", KINDS)
def test_the_last_real_frame_that_counts_reaches_the_last_step(name, factor, causal):
    layer, x, lengths = build(name, factor, causal), mel(401, 1), torch.tensor([397])
    before, steps = layer(x, lengths)
    last = 397 - 397 % factor - 1 if name.startswith("stacking") else 396
    x[0, last] *= -3.0
    after, _ = layer(x, lengths)
    assert not torch.allclose(before[0, steps[0] - 1], after[0, steps[0] - 1])


@pytest.mark.parametrize("name, factor, causal", [kind for kind in KINDS if kind[2]])
def test_causal_steps_read_no_frame_of_a_later_step(name, factor, causal):
    layer, x, lengths = build(name, factor, causal), mel(404, 1), torch.tensor([404])
    before, _ = layer(x, lengths)
    x[:, 200:] *= -3.0  # frame 200 belongs to step 200 / factor
    after, _ = layer(x, lengths)
    first_changed = 200 // factor
    assert torch.equal(before[:, :first_changed], after[:, :first_changed])
    assert not torch.allclose(before[:, first_changed], after[:, first_changed])


@pytest.mark.parametrize("name", ["dw_striding", "striding"])
def test_causal_downsampling_changes_the_output(name):
    x, lengths = mel(64), torch.tensor([64, 64])
    plain, causal = build(name), build(name, causal=True)
    assert causal(x, lengths)[1].tolist() == [9, 9] and plain(x, lengths)[1].tolist() == [8, 8]


@pytest.mark.parametrize("chunking_factor, expected", [(1, 1), (-1, 1), (2, 2), (4, 3)])
def test_convolving_in_pieces_changes_no_number(chunking_factor, expected):
    x, lengths = mel(50, batch=3), torch.tensor([50, 20, 33])
    whole, steps = build("dw_striding")(x, lengths)
    layer = build("dw_striding", chunking_factor=chunking_factor)
    calls = []
    layer.conv.register_forward_hook(lambda *call: calls.append(call))
    pieces, steps_of_pieces = layer(x, lengths)
    assert len(calls) == expected
    same(whole, pieces)
    assert torch.equal(steps, steps_of_pieces)


def test_a_batch_too_large_for_one_tensor_is_convolved_in_pieces():
    layer = build("dw_striding")
    layer.conv_channels = 2**20  # as if: 8 * 2000 * 6 / 4 * 2**20 elements behind the first convolution
    assert layer.pieces(torch.empty(8, 1, 2000, 6)) == 8
    layer.conv_channels = 2**17
    assert layer.pieces(torch.empty(8, 1, 2000, 6)) == 2
    layer.change_subsampling_conv_chunking_factor(-1)
    assert layer.pieces(torch.empty(8, 1, 2000, 6)) == 1


def test_time_stays_in_order():
    layer, x, lengths = build("dw_striding"), mel(160, 1), torch.tensor([160])
    before, _ = layer(x, lengths)
    x[:, 80] *= -3.0
    after, _ = layer(x, lengths)
    changed = (before != after).any(dim=2)[0].nonzero().flatten().tolist()
    assert changed and set(changed) <= {9, 10, 11}


@pytest.mark.parametrize("name", [None, "dw_striding", "stacking"])
def test_without_subsampling_every_frame_is_a_step(name):
    layer = build(name, factor=1)
    x, lengths = layer(mel(7), torch.tensor([7, 3]))
    assert isinstance(layer, FrameProjection) and x.shape == (2, 7, 10) and lengths.tolist() == [7, 3]


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("dw_striding", {"factor": 6}, "encoder.subsampling_factor=6"),
        ("stacking", {"factor": 16}, "encoder.subsampling_factor=16"),
        ("striding_conv1d", {}, "encoder.subsampling='striding_conv1d' is not implemented"),
        ("dw_striding_conv1d", {}, "encoder.subsampling='dw_striding_conv1d' is not implemented"),
        ("dw-striding", {}, "encoder.subsampling='dw-striding' is not one of"),
        ("vggnet", {"causal": True}, "encoder.causal_downsampling=true"),
        ("striding", {"chunking_factor": 3}, "encoder.subsampling_conv_chunking_factor=3"),
        ("striding", {"chunking_factor": 0}, "encoder.subsampling_conv_chunking_factor=0"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(name, options, message):
    with pytest.raises(ValueError) as error:
        build(name, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
