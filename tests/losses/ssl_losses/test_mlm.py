import math

import pytest
import torch

from losses.ssl_losses import MLMLoss, MultiMLMLoss, masked_prediction_loss

BATCH, STEPS, CODES, BOOKS, FACTOR = 2, 6, 7, 3, 4


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(BATCH, STEPS, CODES, BOOKS, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.randint(CODES, (BATCH, STEPS, BOOKS), generator=torch.Generator().manual_seed(1))


def masks(*spans: tuple[int, int, int]) -> torch.Tensor:
    """(B, F, T) with (item, first, end) frames masked."""
    is_masked = torch.zeros(BATCH, 5, STEPS * FACTOR)
    for item, first, end in spans:
        is_masked[item, :, first:end] = 1.0
    return is_masked


MASKS = masks((0, 4, 12), (1, 13, 24))  # scored at threshold 0.8: steps 1 and 2 of item 0, 4 and 5 of item 1


def by_hand(logits: torch.Tensor, targets: torch.Tensor, scored: list[tuple[int, int]]) -> float:
    log_probs = logits.detach().double().log_softmax(2)
    picked = [log_probs[b, s, targets[b, s, q], q].item() for b, s in scored for q in range(targets.shape[2])]
    return -sum(picked) / len(picked)


@pytest.mark.parametrize(
    "threshold, scored",
    [(0.8, [(0, 1), (0, 2), (1, 4), (1, 5)]), (0.7, [(0, 1), (0, 2), (1, 3), (1, 4), (1, 5)])],
)
def test_the_loss_is_the_mean_over_mostly_masked_steps_and_books(logits, targets, threshold, scored):
    loss = MultiMLMLoss(FACTOR, threshold, BOOKS)(masks=MASKS, decoder_outputs=logits.log_softmax(2), targets=targets)
    assert loss.item() == pytest.approx(by_hand(logits, targets, scored), rel=1e-6)


def test_combine_time_steps_says_how_many_frames_a_step_has(logits, targets):
    loss = MultiMLMLoss(2, 0.8, BOOKS)(
        masks=MASKS[:, :, : 2 * STEPS], decoder_outputs=logits.log_softmax(2), targets=targets
    )
    assert loss.item() == pytest.approx(by_hand(logits, targets, [(0, s) for s in range(2, 6)]), rel=1e-6)


def test_one_book_gives_the_same_loss_squeezed_or_not(logits, targets):
    log_probs = logits.log_softmax(2)
    inputs = {"decoder_outputs": log_probs[..., 0], "targets": targets[..., 0]}
    single = MLMLoss(FACTOR)(spec_masks=MASKS, **inputs)
    assert single == MLMLoss(FACTOR)(masks=MASKS, **inputs)
    assert single == MultiMLMLoss(FACTOR, squeeze_single=True)(masks=MASKS, **inputs)
    inputs = {"decoder_outputs": log_probs[..., :1], "targets": targets[..., :1]}
    assert single == MultiMLMLoss(FACTOR)(masks=MASKS, **inputs)


def test_selected_steps_alone_give_the_same_loss_and_gradient(logits, targets):
    objective = MultiMLMLoss(FACTOR, num_decoders=BOOKS)
    loss = objective(masks=MASKS, decoder_outputs=logits.log_softmax(2), targets=targets)
    (expected,) = torch.autograd.grad(loss, logits)
    is_scored = objective.is_scored(MASKS[:, 0])
    short = masked_prediction_loss(logits[is_scored].log_softmax(1), targets[is_scored])
    (gradient,) = torch.autograd.grad(short, logits)
    assert torch.equal(short, loss)
    assert torch.allclose(gradient, expected, atol=1e-8)


def test_the_loss_of_one_book_says_which_steps_it_scores(logits, targets):
    objective = MLMLoss(FACTOR, mask_threshold=0.7)
    loss = objective(masks=MASKS, decoder_outputs=logits[..., 0].log_softmax(2), targets=targets[..., 0])
    is_scored = objective.is_scored(MASKS)
    assert is_scored.nonzero().tolist() == [[0, 1], [0, 2], [1, 3], [1, 4], [1, 5]]
    short = masked_prediction_loss(logits[is_scored][..., :1].log_softmax(1), targets[is_scored][:, :1])
    assert torch.equal(short, loss)


def test_nothing_masked_is_zero_with_a_graph(logits, targets):
    nothing = masks((0, 1, 4))  # three of four frames: the step isn't scored
    loss = MultiMLMLoss(FACTOR, num_decoders=BOOKS)(
        masks=nothing, decoder_outputs=logits.log_softmax(2), targets=targets
    )
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_uniform_predictions_cost_the_logarithm_of_the_number_of_codes(targets):
    uniform = torch.zeros(BATCH, STEPS, CODES, BOOKS).log_softmax(2)
    loss = MultiMLMLoss(FACTOR, num_decoders=BOOKS)(masks=MASKS, decoder_outputs=uniform, targets=targets)
    assert loss.item() == pytest.approx(math.log(CODES))


@pytest.mark.parametrize("autocast", [True, False])
def test_the_loss_of_bfloat16_predictions_is_float32(logits, targets, autocast):
    log_probs = logits.log_softmax(2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = MultiMLMLoss(FACTOR, num_decoders=BOOKS)(masks=MASKS, decoder_outputs=log_probs, targets=targets)
    assert loss.dtype == torch.float32


def test_different_numbers_of_steps_are_refused(logits, targets):
    with pytest.raises(ValueError, match=r"mask has 6 steps, the predictions 6, the targets 5: .*combine_time_steps"):
        MultiMLMLoss(FACTOR, num_decoders=BOOKS)(
            masks=MASKS, decoder_outputs=logits.log_softmax(2), targets=targets[:, :5]
        )


def test_a_wrong_number_of_books_is_refused(logits, targets):
    with pytest.raises(ValueError, match=r"^loss\.num_decoders=2, .* 3 books .* 3: model\.num_books"):
        MultiMLMLoss(FACTOR, num_decoders=2)(masks=MASKS, decoder_outputs=logits.log_softmax(2), targets=targets)


def test_a_loss_without_a_mask_is_refused(logits, targets):
    with pytest.raises(ValueError, match="MLMLoss needs masks or spec_masks"):
        MLMLoss()(decoder_outputs=logits[..., 0].log_softmax(2), targets=targets[..., 0])


@pytest.mark.parametrize("wrong", [{"combine_time_steps": 0}, {"mask_threshold": 1.0}, {"mask_threshold": -0.1}])
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=rf"^loss\.{next(iter(wrong))}="):
        MultiMLMLoss(**wrong)
