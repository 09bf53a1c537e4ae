import pytest
import torch

from parts.masks import frames_to_steps


def frames(pattern: str) -> torch.Tensor:
    return torch.tensor([[c == "#" for c in pattern.replace(" ", "")]])


@pytest.mark.parametrize(
    "threshold, expected", [(0.8, [0, 0, 1]), (0.75, [0, 0, 1]), (0.5, [0, 1, 1]), (0.0, [1, 1, 1])]
)
def test_a_step_is_marked_when_more_than_the_threshold_is_masked(threshold, expected):
    steps = frames_to_steps(frames("#... ###. ####"), factor=4, threshold=threshold)
    assert steps.dtype == torch.bool
    assert steps.tolist() == [[bool(x) for x in expected]]


def test_exactly_the_threshold_is_not_enough():
    assert not frames_to_steps(frames("####."), factor=5, threshold=0.8).item()  # 4 / 5 in float32, as NeMo compares


def test_features_of_a_frame_may_differ():
    is_masked = torch.zeros(1, 10, 8)
    is_masked[:, :9, :4] = 1.0  # nine of ten features in the first step
    is_masked[:, :8, 4:] = 1.0  # eight in the second
    assert frames_to_steps(is_masked, factor=4, threshold=0.8).tolist() == [[True, False]]


def test_features_that_agree_count_as_one():
    is_masked = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) < 0.8
    over_features = is_masked.float().unsqueeze(1).expand(3, 7, 40)
    assert torch.equal(frames_to_steps(over_features, factor=8), frames_to_steps(is_masked, factor=8))


def test_frames_that_fill_no_step_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"^9 frames .*combine_time_steps=4: set preprocessor\.pad_to"):
        frames_to_steps(torch.ones(1, 9), factor=4)
