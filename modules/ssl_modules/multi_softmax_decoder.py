"""Encoder states -> log-probabilities of the codes."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.classes import NeuralModule, typecheck
from core.neural_types import AcousticEncodedRepresentation, LogprobsType, NeuralType


def tds_uniform_(weight: Tensor) -> Tensor:
    """Variance 4 / (3 fan_in), uniform. Source: time-depth separable convolutions, arXiv:1904.02619."""
    bound = 2.0 / nn.init._calculate_correct_fan(weight, "fan_in") ** 0.5
    return nn.init.uniform_(weight, -bound, bound)


def tds_normal_(weight: Tensor) -> Tensor:
    """Variance 4 / fan_in, normal. Source: as `tds_uniform_`."""
    return nn.init.normal_(weight, std=2.0 / nn.init._calculate_correct_fan(weight, "fan_in") ** 0.5)


WEIGHT_INITS = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "kaiming_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "tds_uniform": tds_uniform_,
    "tds_normal": tds_normal_,
    None: nn.Identity(),  # leave torch's own initialisation of Conv1d
}


class MultiSoftmaxDecoder(NeuralModule):
    """One linear layer and a softmax for each of Q codebooks.

    feat_in: D.  num_classes: V, codes per book.  num_decoders: Q, books.
    init_mode: a name of WEIGHT_INITS.
    squeeze_single: drop the axis of books from the output of `forward` when there is one book.

    Parameters, as in NeMo: `decoder_layers.0.weight` (V*Q, D, 1), output channel v * Q + q, and `.bias` (V*Q,).
    Differs from NeMo 3.0.0: log-probabilities are never less precise than float32, so that the loss of a
    bfloat16 model is not.
    """

    def __init__(
        self,
        feat_in: int,
        num_classes: int,
        num_decoders: int = 1,
        init_mode: str | None = "xavier_uniform",
        use_bias: bool = False,
        squeeze_single: bool = False,
    ):
        super().__init__()
        if init_mode not in WEIGHT_INITS:
            names = ", ".join(map(str, WEIGHT_INITS))
            raise ValueError(f"decoder.init_mode={init_mode!r} is not one of {names}")
        self.num_classes = num_classes
        self.num_decoders = num_decoders
        self.squeeze_books = squeeze_single and num_decoders == 1
        self.decoder_layers = nn.Sequential(nn.Conv1d(feat_in, num_classes * num_decoders, 1, bias=use_bias))
        WEIGHT_INITS[init_mode](self.decoder_layers[0].weight)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {"encoder_output": NeuralType(("B", "D", "S"), AcousticEncodedRepresentation())}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        axes = ("B", "S", "V") if self.squeeze_books else ("B", "S", "V", "Q")
        return {"logprobs": NeuralType(axes, LogprobsType())}

    @typecheck()
    def forward(self, encoder_output: Tensor) -> Tensor:
        """(B, D, S) -> (B, S, V, Q) log-probabilities over V, or (B, S, V) if the books are squeezed."""
        log_probs = self.log_probs(encoder_output.transpose(1, 2))
        return log_probs.squeeze(-1) if self.squeeze_books else log_probs

    def log_probs(self, states: Tensor) -> Tensor:
        """Log-probabilities of the states that are given, e.g. only the scored ones.

        states: (..., D). Returns (..., V, Q) in float32 or better.
        """
        layer = self.decoder_layers[0]
        logits = F.linear(states, layer.weight.squeeze(-1), layer.bias).unflatten(
            -1, (self.num_classes, self.num_decoders)
        )
        return logits.log_softmax(-2, dtype=torch.promote_types(logits.dtype, torch.float32))
