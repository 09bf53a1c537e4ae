"""Targets of masked prediction: codes of speech from a frozen random projection and frozen random codebooks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.classes import NeuralModule, typecheck
from core.neural_types import LabelsType, NeuralType, SpectrogramType

MAX_SCORES = 2**20  # numbers in one chunk of scores (8 MiB in float64): the memory bound, and the fastest on CPU
WITHOUT_FLOAT64 = frozenset({"mps"})


def no_offset(codebooks: Tensor) -> Tensor:
    """Cosine to unit codes is the product itself. (Q, V, C) -> (Q, V)."""
    return torch.zeros_like(codebooks[..., 0])


def half_squared_norm(codebooks: Tensor) -> Tensor:
    """|x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2): nearest is largest product minus this. (Q, V, C) -> (Q, V)."""
    return 0.5 * codebooks.square().sum(-1)


SCORE_OFFSETS = {"l2": half_squared_norm, "cosine": no_offset}  # a code's score is x.c minus its offset


class RandomProjectionVectorQuantizer(NeuralModule):
    """Stack frames, project, L2-normalise, take the index of the best code of each of Q codebooks.

    feat_in: F, features per frame.  code_dim: C.  num_classes: V, codes per book.  num_books: Q.
    dist_fn: "l2" (nearest code) or "cosine" (largest product; the same for unit codes).
    time_ahead: input and `xq` have time before features, (B, T, F), instead of (B, F, T).
    freeze: train neither projection nor codebooks.
    squeeze_single: drop the axis of books from the outputs when there is one book.
    combine_time_steps: c, frames stacked into one step.

    Parameters, as in NeMo: `proj.weight` (Q*C, F*c) float32, Xavier-normal; `codebooks` (Q, V, C) float64, unit
    vectors in random directions.

    Where this differs from NeMo 3.0.0, on purpose:
    - Scores are products, made in chunks of at most MAX_SCORES numbers (NeMo holds (B, T, Q, C, V) float64).
    - Projection and scores are float64 whatever the features are, also under autocast, so that neither rounding
      nor the other items of a batch move a token; on devices without float64, float32. Features and projection of a
      model that is cast as a whole (`trainer.precision: bf16-true`) come in half precision, which does move tokens.
    - `codebooks` stays float64 through `.half()`, `.bfloat16()` and `.float()`, so every checkpoint holds it exactly.
    - `xq` of several books is book by book; NeMo mixes codes of different steps and books.
    - "cosine" works without casting the module (NeMo multiplies float32 with float64, which raises).

    Source: BEST-RQ, arXiv:2202.01855; multiple codebooks as in NEST, arXiv:2408.13106.
    """

    def __init__(
        self,
        feat_in: int,
        code_dim: int,
        num_classes: int,
        num_books: int,
        dist_fn: str = "cosine",
        time_ahead: bool = False,
        freeze: bool = True,
        squeeze_single: bool = False,
        combine_time_steps: int = 1,
    ):
        super().__init__()
        if dist_fn not in SCORE_OFFSETS:
            raise ValueError(f"quantizer.dist_fn={dist_fn!r} is not one of {sorted(SCORE_OFFSETS)}")
        for name, size in {
            "feat_in": feat_in,
            "code_dim": code_dim,
            "num_classes": num_classes,
            "num_books": num_books,
            "combine_time_steps": combine_time_steps,
        }.items():
            if size < 1:
                raise ValueError(f"quantizer.{name}={size} must be at least 1")
        self.dist_fn = dist_fn
        self.time_ahead = time_ahead
        self.squeeze_books = squeeze_single and num_books == 1
        self.num_books = num_books
        self.num_classes = num_classes
        self.code_dim = code_dim
        self.combine_time_steps = combine_time_steps

        self.proj = nn.Linear(feat_in * combine_time_steps, num_books * code_dim, bias=False)
        nn.init.xavier_normal_(self.proj.weight)
        codes = torch.randn(num_books, num_classes, code_dim, dtype=torch.float64)
        self.codebooks = nn.Parameter(F.normalize(codes, dim=-1))
        if freeze:
            self.freeze()

    @property
    def input_types(self) -> dict[str, NeuralType]:
        axes = ("B", "T", "F") if self.time_ahead else ("B", "F", "T")
        return {"input_signal": NeuralType(axes, SpectrogramType())}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        books = () if self.squeeze_books else ("Q",)
        axes = ("B", "S", "C") if self.time_ahead else ("B", "C", "S")
        return {
            "xq": NeuralType((*axes, *books), SpectrogramType()),
            "xid": NeuralType(("B", "S", *books), LabelsType()),
        }

    @typecheck()
    def forward(self, input_signal: Tensor) -> tuple[Tensor, Tensor]:
        """
        input_signal: (B, F, T), or (B, T, F) with `time_ahead`; T a multiple of `combine_time_steps`.
        Returns the codes `xq`, (B, C, S, Q) or (B, S, C, Q) with `time_ahead`, in the precision of the codebooks,
        and their indices `xid`, (B, S, Q) int64; without the axis Q if it is squeezed. S = T / combine_time_steps.
        Raises ValueError when T is not a multiple of `combine_time_steps`.
        """
        frames = input_signal if self.time_ahead else input_signal.transpose(1, 2)
        steps = self._stack(frames)  # (B, S, c*F)
        precision = torch.float32 if steps.device.type in WITHOUT_FLOAT64 else torch.float64
        codebooks = self.codebooks.to(steps.device, precision)

        # autocast would leave float64 alone, but not the float32 of devices without it
        with torch.no_grad(), torch.autocast(steps.device.type, enabled=False):
            xid = best_codes(
                steps.flatten(0, 1), self.proj.weight.to(precision), codebooks, SCORE_OFFSETS[self.dist_fn](codebooks)
            ).unflatten(0, steps.shape[:2])  # (B, S, Q)
        books = torch.arange(self.num_books, device=xid.device)
        xq = codebooks[books, xid].transpose(2, 3)  # (B, S, C, Q)
        if not self.time_ahead:
            xq = xq.transpose(1, 2)
        if self.squeeze_books:
            return xq.squeeze(-1), xid.squeeze(-1)
        return xq, xid

    def _stack(self, frames: Tensor) -> Tensor:
        """(B, T, F) -> (B, S, c*F), neighbouring frames side by side."""
        if frames.shape[1] % self.combine_time_steps:
            raise ValueError(
                f"{frames.shape[1]} frames are no multiple of quantizer.combine_time_steps={self.combine_time_steps}: "
                f"set preprocessor.pad_to to a multiple of it"
            )
        return frames.unflatten(1, (-1, self.combine_time_steps)).flatten(2)

    def _apply(self, fn, recurse=True):
        """Every move or cast of a module comes through here: the codebooks move, but keep their precision."""

        def keep_float64(tensor: Tensor) -> Tensor:
            if tensor.dtype != torch.float64:
                return fn(tensor)
            device = fn(tensor.new_empty(0, dtype=torch.float32)).device
            return tensor if device.type in WITHOUT_FLOAT64 else tensor.to(device)

        return super()._apply(keep_float64, recurse)


def best_codes(steps: Tensor, projection: Tensor, codebooks: Tensor, offsets: Tensor) -> Tensor:
    """Index of each step's best code in each book, in the precision of `codebooks`, a chunk of steps at a time.

    steps: (B*S, c*F); projection: (Q*C, c*F); codebooks: (Q, V, C); offsets: (Q, V).
    Returns (B*S, Q) int64: argmax over V of normalised(projection @ step) . code - offset.
    """
    num_books, num_classes, code_dim = codebooks.shape
    chunk_steps = max(1, MAX_SCORES // max(num_books * num_classes, projection.shape[1]))
    chunks = []
    for chunk in steps.split(chunk_steps):
        x = F.linear(chunk.to(projection.dtype), projection).unflatten(1, (num_books, code_dim))
        x = F.normalize(x, dim=-1).transpose(0, 1)  # (Q, n, C)
        scores = torch.baddbmm(offsets.unsqueeze(1), x, codebooks.transpose(1, 2), beta=-1)  # (Q, n, V)
        chunks.append(scores.argmax(-1).T)
    return torch.cat(chunks)
