"""Tokens that differ because two codes are equally near: rounding decides between them, and neither side is wrong."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.parity.cases import Levels
from tools.parity.records import Job
from tools.parity.rows import FAILED, NOT_RUN, PASSED, Row
from tools.parity.trace import EVALUATION, Trace

LARGEST_GAP = 2e-6  # between the scores of two codes, in float64, of unit vectors
OF_SCORES = "tokens are equal, or the scores of both codes for NeMo's features, in float64, are a tie"
OTHER_TARGETS = "a target is a tie that fell the other way here, so this is of other targets: choose other audio"
OF_TARGETS = ("loss", "training_loss", "gradient", "step_loss", "parameter")


@dataclass(frozen=True)
class Ties:
    """differs: (B, S, Q) bool.  gaps: (B, S, Q), how far apart the scores of both sides' codes are."""

    differs: Tensor
    gaps: Tensor

    @property
    def all_of_them(self) -> bool:
        return bool((self.gaps[self.differs] <= LARGEST_GAP).all())  # not so for NaN


def settle_ties(rows: Iterable[Row], got: Levels, expected: Levels, job: Job, nemo: Trace) -> Iterator[Row]:
    """The rows, those of tokens and codes with the gap of scores as their error where tokens differ.

    Where all tokens that differ are ties, what follows from them and differs then is a row that isn't run.
    """
    ties = find_ties(got, expected, job, nemo)
    for row in rows:
        if ties is None or row.status != FAILED:
            yield row
        elif row.level == "token":
            yield of_tokens(row, ties, got["token/tokens"], expected["token/tokens"])
        elif ties.all_of_them and row.level == "code" and same_but_for(ties, got, expected):
            yield replace(row, status=PASSED, error=0.0, detail="but for ties")
        elif ties.all_of_them and row.level in OF_TARGETS:
            yield replace(row, status=NOT_RUN, reason=OTHER_TARGETS)
        else:
            yield row


def find_ties(got: Levels, expected: Levels, job: Job, nemo: Trace) -> Ties | None:
    """None where no token differs, or where it can't be told."""
    ours, theirs = got.get("token/tokens"), expected.get("token/tokens")
    call = nemo.find(EVALUATION, "quantizer")
    frames = None if call is None else nemo.input(call, "x")
    if ours is None or theirs is None or frames is None or ours.shape != theirs.shape or torch.equal(ours, theirs):
        return None
    codebooks = job.start["quantizer.codebooks"].double()  # (Q, V, C)
    if min(ours.min(), theirs.min()) < 0 or max(ours.max(), theirs.max()) >= codebooks.shape[1]:
        return None
    steps = projected(frames, job.start["quantizer.proj.weight"].double(), codebooks)  # (B, S, Q, C)
    offset = 0.5 * (job.case.config["quantizer"].get("dist_fn", "cosine") == "l2")
    ours, theirs = (tokens.reshape(steps.shape[:3]) for tokens in (ours, theirs))
    gaps = scores(steps, codebooks, ours, offset) - scores(steps, codebooks, theirs, offset)
    return Ties(ours != theirs, gaps.abs())


def projected(frames: Tensor, projection: Tensor, codebooks: Tensor) -> Tensor:
    """Unit vectors (B, S, Q, C) of frames (B, F, T)."""
    combined = projection.shape[1] // frames.shape[1]
    stacked = frames.double().transpose(1, 2).unflatten(1, (-1, combined)).flatten(2)  # (B, S, c*F)
    return F.normalize((stacked @ projection.T).unflatten(2, (len(codebooks), -1)), dim=-1)


def scores(steps: Tensor, codebooks: Tensor, tokens: Tensor, offset: float) -> Tensor:
    """(B, S, Q): the highest is of the nearest code."""
    chosen = codebooks[torch.arange(len(codebooks)), tokens]  # (B, S, Q, C)
    return (steps * chosen).sum(-1) - offset * chosen.square().sum(-1)


def of_tokens(row: Row, ties: Ties, ours: Tensor, theirs: Tensor) -> Row:
    """The row of the tokens, with the largest gap of their scores."""
    gaps = torch.where(ties.differs, ties.gaps, -1.0)
    index = tuple(int(i) for i in torch.unravel_index(gaps.argmax(), gaps.shape))
    ours, theirs = (tokens.reshape(gaps.shape)[index].item() for tokens in (ours, theirs))
    where = f"[{', '.join(map(str, index))}]: {ours} instead of {theirs}, whose score is {gaps[index].item():.1e} away"
    how_many = f"{int(ties.differs.sum())} of {ties.differs.numel()} tokens differ"
    return replace(
        row,
        status=PASSED if ties.all_of_them else FAILED,
        error=gaps[index].item(),
        limit=LARGEST_GAP,
        reason=OF_SCORES,
        detail=f"{where}; {how_many}",
    )


def same_but_for(ties: Ties, got: Levels, expected: Levels) -> bool:
    """Codes (B, C, S, 1) of one book are equal wherever the tokens are."""
    same = (got["code/codes"] == expected["code/codes"]).all(dim=1)  # (B, S, 1) or squeezed
    return bool((same.reshape(ties.differs.shape) | ties.differs).all())
