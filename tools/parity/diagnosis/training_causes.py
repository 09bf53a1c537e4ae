"""Mistakes in targets, loss and schedule."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.parity.diagnosis.evidence import Evidence, close


def schedule_off(evidence: Evidence) -> str | None:
    """Rates that are NeMo's of the step before or after."""
    ours, nemo = (levels.get("learning_rate/rates") for levels in evidence.levels)
    if ours is None or nemo is None or ours.shape != nemo.shape or len(nemo) < 3 or close(ours, nemo, 1e-9):
        return None
    if close(ours[1:], nemo[:-1], 1e-9):
        return "schedule off by one: each rate is NeMo's of the step before"
    if close(ours[:-1], nemo[1:], 1e-9):
        return "schedule off by one: each rate is NeMo's of the step after"
    ratio = ours / nemo
    if nemo.all() and close(ratio, ratio[:1].expand_as(ratio), 1e-9):
        return f"constant factor: each rate is NeMo's times {in_digits(ratio[0].item())}"
    return None


def in_digits(ratio: float) -> str:
    """Enough of them to see how it differs from 1."""
    return f"{ratio:.6g}" if abs(ratio - 1) > 1e-5 else f"1 {'+' if ratio > 1 else '-'} {abs(ratio - 1):.2g}"


def scored_steps(evidence: Evidence) -> str | None:
    """A mean over other steps than those that are mostly masked."""
    ours, nemo = (levels.get("loss/loss") for levels in evidence.levels)
    call = evidence.nemo_call("loss")
    if call is None or ours is None or nemo is None or close(ours, nemo):
        return None
    log_probs, targets, masks = (evidence.pair.nemo.input(call, p) for p in ("decoder_outputs", "targets", "masks"))
    losses = step_losses(log_probs, targets)  # (B, S, Q)
    share = masks[:, 0].unflatten(1, (losses.shape[1], -1)).double().mean(2)  # (B, S)
    threshold = evidence.config["loss"]["mask_threshold"]
    lengths = evidence.pair.nemo.output(evidence.nemo_call("encoder"), 1)
    is_real = torch.arange(share.shape[1]) < lengths[:, None]
    known = {
        "loss over all steps: it is NeMo's mean over every step, masked or not, padding too": share >= 0,
        "loss over all steps: it is NeMo's mean over every real step, masked or not": is_real,
        "loss over the wrong steps: over those that aren't masked": (share <= threshold) & is_real,
        f"threshold: steps of which just {threshold:.0%} are masked are scored, too": share >= threshold,
        "threshold: every step with a masked frame is scored": share > 0,
    }
    for sentence, is_scored in known.items():
        if is_scored.any() and close(losses[is_scored].mean(), ours) and not close(losses[is_scored].mean(), nemo):
            return sentence
    scored = losses[share > threshold]
    if close(scored.sum(), ours):
        return "loss summed: it is the sum over steps and books instead of the mean"
    return None


def step_losses(log_probs: Tensor, targets: Tensor) -> Tensor:
    """log_probs (B, S, V, Q) or (B, S, V), targets (B, S, Q) or (B, S) -> (B, S, Q) negative log-likelihoods."""
    if log_probs.dim() == 3:
        log_probs, targets = log_probs.unsqueeze(3), targets.unsqueeze(2)
    return F.nll_loss(log_probs.double().transpose(1, 2), targets, reduction="none")


def wrong_targets(evidence: Evidence) -> str | None:
    """The quantizer reads other features than the clean ones."""
    ours, nemo = (trace.find("evaluation", "quantizer") for trace in (evidence.pair.ours, evidence.pair.nemo))
    if ours is None or nemo is None:
        return None
    got, expected = evidence.pair.ours.input(ours, "x"), evidence.pair.nemo.input(nemo, "x")
    if close(got, expected, 1e-3):
        return None
    masking = evidence.nemo_call("mask_processor")
    noisy = None if masking is None else evidence.pair.nemo.input(masking, "x")
    if noisy is not None and close(got, noisy, 1e-3) and not close(expected, noisy, 1e-3):
        return "targets from the noisy speech: the quantizer reads the noisy features instead of the clean ones"
    masked = None if masking is None else evidence.pair.nemo.output(masking)
    if masked is not None and close(got, masked, 1e-3):
        return "targets from masked features: the quantizer reads what the encoder reads"
    return None


def wrong_codes(evidence: Evidence) -> str | None:
    """Codes of NeMo's codebooks, by another rule."""
    call = evidence.nemo_call("quantizer") if evidence.culprit and evidence.culprit.module == "quantizer" else None
    if call is None or not evidence.is_call:
        return None
    ours = evidence.pair.ours.find("evaluation", "quantizer")
    got, expected = evidence.pair.ours.output(ours, 1), evidence.pair.nemo.output(call, 1)
    x, start = evidence.pair.nemo.input(call, "x"), evidence.ours.job.start
    projection, books = start["quantizer.proj.weight"].double(), start["quantizer.codebooks"].double()
    options = evidence.config["quantizer"]
    stack = options.get("combine_time_steps", 1)
    if x.shape[2] % stack or got.shape != expected.shape:
        return None
    frames = x.double().transpose(1, 2)
    steps = {
        "": frames.unflatten(1, (-1, stack)).flatten(2),
        "stacking order: frames are stacked bin by bin": frames.unflatten(1, (-1, stack)).transpose(2, 3).flatten(2),
        "scrambled axes: bins are stacked as if they were frames": x.double().reshape(frames.shape)
        .unflatten(1, (-1, stack)).flatten(2),
    }  # fmt: skip
    lengths = evidence.pair.axes.lengths("evaluation", expected.shape[1])
    for sentence, tokens in candidates(steps, projection, books):
        tokens = tokens.reshape(expected.shape)
        if same_tokens(tokens, got, lengths) and not same_tokens(tokens, expected, lengths):
            return sentence
    return None


def candidates(steps: dict[str, Tensor], projection: Tensor, books: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Sentence and tokens (B, S, Q) of each known mistake. books: (Q, V, C)."""

    def project(x: Tensor) -> Tensor:
        return (x @ projection.T).unflatten(2, (len(books), -1))  # (B, S, Q, C)

    half_norms = 0.5 * books.square().sum(-1)  # (Q, V)

    def scores(x: Tensor, codes: Tensor, offsets: Tensor = half_norms) -> Tensor:
        return (x[..., None, :] * codes).sum(-1) - offsets  # (B, S, Q, V)

    x = project(steps[""])
    unit = F.normalize(x, dim=-1)
    for sentence, other in steps.items():
        if sentence:
            yield sentence, scores(F.normalize(project(other), dim=-1), books).argmax(-1)
    yield "un-normalised codes: the projection isn't brought to length 1", scores(x, books).argmax(-1)
    yield "codes brought to length 1 once more", scores(unit, F.normalize(books, dim=-1), half_norms * 0).argmax(-1)
    yield "largest product instead of nearest code", scores(unit, books, half_norms * 0).argmax(-1)
    across = books.transpose(1, 2)
    for transposed in (across.reshape(books.shape), books.reshape(across.shape).transpose(1, 2)):
        for offsets in (half_norms, 0.5 * transposed.square().sum(-1)):
            yield "transposed codebook: codes are read across NeMo's", scores(unit, transposed, offsets).argmax(-1)
    yield "furthest code instead of the nearest", scores(unit, books).argmin(-1)


def same_tokens(one: Tensor, other: Tensor, lengths: Tensor | None) -> bool:
    if lengths is None:
        return torch.equal(one, other)
    real = torch.arange(one.shape[1]) < lengths[:, None]
    return torch.equal(one[real], other[real])


TRAINING_CAUSES = {
    "schedule off by one": schedule_off,
    "targets from the noisy speech": wrong_targets,
    "codes": wrong_codes,
    "loss over all steps": scored_steps,
}
