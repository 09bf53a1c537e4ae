"""What many masks of one length look like, and whether two samples of masks can come from one distribution."""

from dataclasses import dataclass
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

RUNS = (  # kinds of masked stretches
    "below half a block",
    "below a block",
    "of a block",
    "below 1.5 blocks",
    "below 2 blocks",
    "below 4 blocks",
    "of 4 blocks or more",
)
TENTHS = 10
QUANTITIES = (
    "share of frames masked",
    "variance of the share masked",
    "share of utterances with nothing masked",
    "runs per utterance",
    "first frame masked",
    "last frame masked",
    *(f"share masked in tenth {i + 1}" for i in range(TENTHS)),
    *(f"runs {kind}" for kind in RUNS),
)
SIGMA = 5.0  # of the whole comparison: one correct implementation in 1.7 million would be held for wrong


@dataclass(frozen=True)
class Difference:
    """The quantity in which two samples differ most.  z: in standard errors.  got, expected: its means."""

    quantity: str
    z: float
    got: float
    expected: float


def statistics_of(is_masked: Tensor, length: int, block_size: int) -> Tensor:
    """is_masked: (N, T) bool of N utterances of `length` frames.

    Returns (2, K) float64: mean and variance of each of QUANTITIES.
    """
    values = quantities(is_masked[:, :length], block_size)  # (N, K)
    return torch.stack([values.mean(0), values.var(0)])


def quantities(is_masked: Tensor, block_size: int) -> Tensor:
    """(N, T) bool -> (N, K) float64: QUANTITIES of each utterance."""
    frames = is_masked.double()
    share = frames.mean(1, keepdim=True)
    runs = runs_by_length(is_masked, block_size)
    return torch.cat([
        share,
        (share - share.mean()) ** 2,
        (share == 0).double(),
        runs.sum(1, keepdim=True),
        frames[:, :1],
        frames[:, -1:],
        shares_in_parts(frames, TENTHS),
        runs,
    ], dim=1)  # fmt: skip


def shares_in_parts(frames: Tensor, parts: int) -> Tensor:
    """(N, T) -> (N, parts): mean of each part of the time axis; 0 where a part holds no frame."""
    edges = torch.arange(parts + 1) * frames.shape[1] // parts
    sums = F.pad(frames.cumsum(1), (1, 0))[:, edges].diff(dim=1)
    return sums / edges.diff().clamp(min=1)


def runs_by_length(is_masked: Tensor, block_size: int) -> Tensor:
    """(N, T) bool -> (N, 7) float64: masked stretches of each row, counted by their lengths as RUNS says."""
    edges = F.pad(is_masked.int(), (1, 1)).diff(dim=1)
    rows, starts = (edges == 1).nonzero(as_tuple=True)
    ends = (edges == -1).nonzero(as_tuple=True)[1]  # in the order of the starts
    above = torch.tensor([0.5, 1, 1 + 0.5 / block_size, 1.5, 2, 4]) * block_size  # as RUNS
    counts = torch.zeros(len(is_masked), len(RUNS), dtype=torch.float64)
    kinds = torch.bucketize((ends - starts).float(), above, right=True)
    return counts.index_put_((rows, kinds), torch.ones((), dtype=torch.float64), accumulate=True)


def largest_difference(got: Tensor, expected: Tensor, draws: int) -> Difference:
    """got, expected: (2, K) means and variances of two independent samples of `draws` utterances each."""
    difference = got[0] - expected[0]
    error = ((got[1] + expected[1]) / draws).sqrt()
    z = difference / error  # 1 / 0 is infinite
    z = torch.where(difference.abs() < 1e-12, 0.0, z)
    worst = int(z.abs().argmax())
    return Difference(QUANTITIES[worst], z[worst].item(), got[0, worst].item(), expected[0, worst].item())


def limit(tests: int) -> float:
    """Standard errors that the largest of so many differences stays below as surely as one stays below SIGMA."""
    tail = NormalDist().cdf(-SIGMA) / (tests * len(QUANTITIES))
    return -NormalDist().inv_cdf(tail)


def lengths_to_draw(block_size: int, per_second: float) -> list[int]:
    """Frames: around a block, around what NeMo 2.6 held for short, and 1 to 20 seconds."""
    around = [block_size // 2, block_size - 1, block_size, block_size + 1, 5 * block_size // 4, 5 * block_size // 4 + 1]
    seconds = [round(per_second * s) for s in (1, 3, 10, 20)]
    return sorted({length for length in [*around, 2 * block_size - 1, *seconds] if length > 0})


def draws_for(length: int, frames: int = 1_000_000, most: int = 4000, least: int = 200) -> int:
    """Utterances to draw of a length, so that long ones take no more time than short ones."""
    return min(most, max(least, frames // length))
