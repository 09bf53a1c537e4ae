import pytest
import torch
from torch import nn

from modules.ssl_modules.masking import ConvFeatureMaksingWrapper, ConvFeatureMaskingWrapper, RandomBlockMasking

FEATURES = 5
NEST = {"mask_prob": 0.01, "block_size": 40, "allow_overlap": True}
BOTH = pytest.mark.parametrize("allow_overlap", [True, False])


def draw(lengths: list[int], seed: int = 0, **options) -> torch.Tensor:
    """(B, T) bool"""
    masking = RandomBlockMasking(FEATURES, **options)
    torch.manual_seed(seed)
    features = torch.zeros(len(lengths), FEATURES, max(lengths))
    _, masks = masking(input_feats=features, input_lengths=torch.tensor(lengths))
    return masks[:, 0] > 0


def runs(is_masked: torch.Tensor) -> list[int]:
    """Lengths of the masked stretches of a row."""
    edges = torch.nn.functional.pad(is_masked.int(), (1, 1)).diff().nonzero().flatten()
    return (edges[1::2] - edges[::2]).tolist()


@BOTH
def test_masked_frames_are_the_embedding_in_every_feature(allow_overlap):
    masking = RandomBlockMasking(FEATURES, 0.1, 10, allow_overlap=allow_overlap)
    features = torch.randn(3, FEATURES, 100)
    masked, masks = masking(input_feats=features, input_lengths=torch.tensor([100, 60, 30]))
    assert masks.shape == features.shape and masks.dtype == features.dtype
    assert torch.equal(masks, masks[:, :1].expand_as(masks))
    assert masks.any() and not masks.all()
    assert torch.equal(masked, torch.where(masks > 0, masking.mask_embedding.view(1, -1, 1), features))


@BOTH
def test_features_keep_their_dtype(allow_overlap):
    masking = RandomBlockMasking(FEATURES, 0.1, 10, allow_overlap=allow_overlap)
    masked, masks = masking(
        input_feats=torch.randn(1, FEATURES, 50, dtype=torch.bfloat16), input_lengths=torch.tensor([50])
    )
    assert masked.dtype == masks.dtype == torch.bfloat16


@BOTH
@pytest.mark.parametrize("min_masks", [0, 2])
@pytest.mark.parametrize("mask_prob", [0.01, 0.3, 1.0])
def test_no_mask_lies_beyond_the_length(allow_overlap, mask_prob, min_masks):
    lengths = torch.tensor([200, 57, 40, 39, 3, 1, 0])
    options = {"mask_prob": mask_prob, "block_size": 40, "allow_overlap": allow_overlap, "min_masks": min_masks}
    for seed in range(20):
        is_masked = draw(lengths.tolist(), seed, **options)
        assert not is_masked[torch.arange(200) >= lengths.unsqueeze(1)].any()


def test_with_overlap_only_whole_blocks_are_masked():
    is_masked = draw([100, 40, 39, 3], mask_prob=1.0, block_size=40, allow_overlap=True)
    assert is_masked.sum(1).tolist() == [100, 40, 0, 0]


def test_with_overlap_every_frame_with_room_starts_a_block_with_the_given_probability():
    lengths, draws = [100] * 500, 20
    share = torch.stack([draw(lengths, seed, **NEST) for seed in range(draws)]).float().mean((0, 1))
    starts = torch.arange(61)  # 0 .. 60
    covering = torch.tensor([((starts <= t) & (starts > t - 40)).sum() for t in range(100)])
    expected = 1 - 0.99**covering
    assert (share - expected).abs().max() < 5 * (0.25 / (500 * draws)) ** 0.5


def test_without_overlap_blocks_are_as_many_as_asked_and_lie_on_a_grid():
    for seed in range(20):
        is_masked = draw([400], seed, mask_prob=0.3, block_size=20, allow_overlap=False)[0]
        assert is_masked.sum() == 6 * 20  # ceil(400 * 0.3 / 20) blocks
        assert all(run % 20 == 0 for run in runs(is_masked))
    firsts = {int(draw([400], seed, mask_prob=0.3, block_size=20)[0].nonzero()[0]) % 20 for seed in range(200)}
    assert len(firsts) == 20  # any offset


def test_without_overlap_rounding_follows_nemo_but_not_under_seeds():
    options = {"mask_prob": 0.3, "block_size": 1, "allow_overlap": False}  # 100 * 0.3 is 30, in float32 a bit more
    assert draw([100, 100], **options).sum(1).tolist() == [30, 30]
    assert draw([100, 200], **options).sum(1).tolist() == [31, 60]
    masking, lengths = RandomBlockMasking(FEATURES, **options), torch.tensor([100])
    with masking.seeded(torch.tensor([1])):
        narrow, wide = (masking(input_feats=torch.zeros(1, FEATURES, n), input_lengths=lengths)[1] for n in (100, 200))
    assert torch.equal(wide[..., :100], narrow)


def test_without_overlap_blocks_shrink_in_short_utterances():
    is_masked = draw([50], mask_prob=0.5, block_size=48, allow_overlap=False)[0]
    assert is_masked.sum() == 25  # one block of 50 // 2, so that there is room to move it


def test_block_size_and_probability_change_the_mask():
    options = {"mask_prob": 0.02, "block_size": 10, "allow_overlap": True}
    more, plain, less = (
        draw([1000] * 20, **{**options, **change}).float().mean()
        for change in ({"mask_prob": 0.04}, {}, {"block_size": 5})
    )
    assert more > plain > less
    assert min(runs(draw([1000], **options)[0])) >= 10


def test_embedding_is_normal_or_the_given_value_and_trained_only_if_asked():
    torch.manual_seed(0)
    random = RandomBlockMasking(4000).mask_embedding
    assert random.std().item() == pytest.approx(0.1, rel=0.05) and not random.requires_grad
    assert RandomBlockMasking(4, freeze=False).mask_embedding.requires_grad
    fixed = RandomBlockMasking(4, mask_value=-3, freeze=False).mask_embedding
    assert fixed.tolist() == [-3.0] * 4 and not fixed.requires_grad
    assert list(RandomBlockMasking(4).state_dict()) == ["mask_embedding"]


def test_a_trained_embedding_gets_its_gradient():
    masking = RandomBlockMasking(FEATURES, 0.5, 4, freeze=False)
    masked, masks = masking(input_feats=torch.zeros(1, FEATURES, 50), input_lengths=torch.tensor([50]))
    masked.sum().backward()
    assert torch.equal(masking.mask_embedding.grad, masks[0].sum(-1))


@BOTH
@pytest.mark.parametrize("min_masks", [1, 3])
def test_min_masks_gives_every_utterance_that_many_blocks(allow_overlap, min_masks):
    options = {"mask_prob": 1e-6, "block_size": 10, "allow_overlap": allow_overlap}
    is_masked = draw([500] * 50, min_masks=min_masks, **options)
    sizes = is_masked.sum(1)
    assert sizes.max() == min_masks * 10
    assert (sizes == min_masks * 10).float().mean() > 0.8  # random blocks seldom overlap here
    assert sizes.min() >= 10


def test_min_masks_adds_nothing_where_there_are_enough_blocks():
    options = {"mask_prob": 0.2, "block_size": 5, "allow_overlap": True}
    assert torch.equal(draw([300] * 4, **options), draw([300] * 4, min_masks=2, **options))
    assert draw([100] * 50, **NEST).any(1).float().mean() < 0.7  # NeMo: about half of the one-second utterances
    assert draw([100] * 50, min_masks=1, **NEST).any(1).all()


@BOTH
def test_min_masks_masks_something_even_in_utterances_shorter_than_a_block(allow_overlap):
    is_masked = draw([30, 8, 2], min_masks=1, mask_prob=0.01, block_size=40, allow_overlap=allow_overlap)
    assert is_masked.any(1).all()


@BOTH
def test_max_mask_ratio_masks_the_first_frames_of_short_utterances_only(allow_overlap):
    options = {"mask_prob": 0.1, "block_size": 40, "allow_overlap": allow_overlap}
    lengths = [400, 51, 50, 20, 5]  # 40 / 0.8 = 50 is short
    ruled, plain = draw(lengths, max_mask_ratio=0.8, **options), draw(lengths, **options)
    assert torch.equal(ruled[:2], plain[:2])
    for row, length in zip(ruled[2:], lengths[2:], strict=True):
        assert row.nonzero().flatten().tolist() == list(range(min(8, length)))


@BOTH
@pytest.mark.parametrize("min_masks", [0, 2])
def test_seeded_masks_depend_on_seed_and_length_alone(allow_overlap, min_masks):
    masking = RandomBlockMasking(FEATURES, 0.03, 20, allow_overlap=allow_overlap, min_masks=min_masks)

    def seeded(seeds: list[int], lengths: list[int], width: int) -> torch.Tensor:
        with masking.seeded(torch.tensor(seeds)):
            return masking(
                input_feats=torch.zeros(len(seeds), FEATURES, width), input_lengths=torch.tensor(lengths)
            )[1][:, 0]

    torch.manual_seed(0)
    alone = seeded([11], [300], 300)
    torch.manual_seed(1)
    together = seeded([5, 11, 6, 11], [400, 300, 300, 300], 400)
    assert torch.equal(together[1, :300], alone[0]) and torch.equal(together[3], together[1])
    assert not torch.equal(together[2], together[1])
    assert not together[1, 300:].any()


def test_seeds_are_forgotten_behind_the_with_block_and_none_means_global():
    masking = RandomBlockMasking(FEATURES, **NEST)
    inputs = {"input_feats": torch.zeros(2, FEATURES, 300), "input_lengths": torch.tensor([300, 300])}

    def three(seeds: torch.Tensor | None) -> list[torch.Tensor]:
        with masking.seeded(seeds):
            return [masking(**inputs)[1] for _ in range(3)]

    first, *others = three(torch.tensor([1, 2]))
    assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(masking(**inputs)[1], masking(**inputs)[1])
    assert not torch.equal(*three(None)[:2])


def test_seeded_masks_have_the_same_distribution():
    masking = RandomBlockMasking(FEATURES, **NEST)
    inputs = {"input_feats": torch.zeros(4000, FEATURES, 300), "input_lengths": torch.full((4000,), 300)}
    with masking.seeded(torch.arange(4000)):
        share = masking(**inputs)[1][:, 0].mean(0)
    expected = torch.tensor([1 - 0.99 ** len(range(max(0, t - 39), min(t, 260) + 1)) for t in range(300)])
    assert (share - expected).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_wrong_number_of_seeds_is_refused():
    masking = RandomBlockMasking(FEATURES)
    with masking.seeded(torch.tensor([1, 2, 3])), pytest.raises(ValueError, match="3 seeds for a batch of 1"):
        masking(input_feats=torch.zeros(1, FEATURES, 90), input_lengths=torch.tensor([90]))


@pytest.mark.parametrize(
    "wrong", [{"mask_prob": 1.5}, {"mask_prob": -0.1}, {"block_size": 0}, {"max_mask_ratio": 0}, {"min_masks": -1}]
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=rf"^masking\.{next(iter(wrong))}="):
        RandomBlockMasking(FEATURES, **wrong)


class Halving(nn.Module):
    """Stands for a subsampling: (B, T, F) -> (B, T / 2, D)."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2 * FEATURES, 3)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(x.unflatten(1, (-1, 2)).flatten(2)), lengths // 2


def wrapped(**options) -> ConvFeatureMaskingWrapper:
    torch.manual_seed(0)
    return ConvFeatureMaskingWrapper(Halving(), RandomBlockMasking(3, 0.3, 4, **options))


def test_the_wrapper_masks_what_comes_out_of_the_subsampling():
    wrapper = wrapped()
    x, lengths = torch.randn(2, 60, FEATURES), torch.tensor([60, 40])
    plain, steps = wrapper(x, lengths)
    assert not wrapper.get_current_mask().any() and wrapper.get_current_mask().shape == (2, 3, 30)
    wrapper.set_masking_enabled(apply_mask=True)
    masked, _ = wrapper(x, lengths)
    is_masked = wrapper.get_current_mask().transpose(1, 2) > 0  # (B, S, D)
    assert steps.tolist() == [30, 20] and is_masked.any() and not is_masked[1, 20:].any()
    assert torch.equal(masked, torch.where(is_masked, wrapper.masking.mask_embedding, plain))
    assert torch.equal(wrapper.get_current_feat(), plain) and not wrapper.get_current_feat().requires_grad


@pytest.mark.parametrize("detach", [True, False])
def test_detach_decides_whether_the_subsampling_is_trained(detach):
    wrapper = wrapped(detach=detach)
    wrapper.set_masking_enabled(True)
    masked, _ = wrapper(torch.randn(2, 60, FEATURES), torch.tensor([60, 40]))
    assert masked.requires_grad == (not detach)
    wrapper.set_masking_enabled(False)
    assert wrapper(torch.randn(2, 60, FEATURES), torch.tensor([60, 40]))[0].requires_grad


def test_the_wrapper_has_nemos_children_and_name():
    assert ConvFeatureMaksingWrapper is ConvFeatureMaskingWrapper
    assert [name for name, _ in wrapped().named_children()] == ["pre_encode", "masking"]
