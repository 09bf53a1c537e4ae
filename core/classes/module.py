"""`NeuralModule`: a torch module with neural types and a config."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from core.classes.serialization import Serialization
from core.classes.typecheck import Typing


class NeuralModule(nn.Module, Typing, Serialization):
    """Base of encoders, preprocessors, decoders and models.

    A subclass declares `input_types` and `output_types` and decorates `forward` with `typecheck()`.
    """

    @property
    def num_weights(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def freeze(self) -> None:
        """Stop training: no gradients, evaluation mode. `unfreeze(partial=True)` restores what was trainable."""
        trained = {name: p.requires_grad for name, p in self.named_parameters()}
        self._frozen_grad_map = getattr(self, "_frozen_grad_map", trained)  # the first freeze knows what was trained
        self.requires_grad_(False)
        self.eval()

    def unfreeze(self, partial: bool = False) -> None:
        """Train again, in training mode.

        partial: give gradients only to what had them before `freeze()`; else to every parameter, also those
        that a module froze by itself at construction (random projections, codebooks), as NeMo does.
        """
        if partial and not hasattr(self, "_frozen_grad_map"):
            raise ValueError("unfreeze(partial=True) restores what freeze() stored: call freeze() first")
        for name, parameter in self.named_parameters():
            parameter.requires_grad = self._frozen_grad_map.get(name, True) if partial else True
        self.__dict__.pop("_frozen_grad_map", None)
        self.train()

    @contextmanager
    def as_frozen(self) -> Iterator[None]:
        """Frozen inside the `with` block; after it gradients and modes are exactly as before.

        NeMo 3.0.0 restores one mode for the whole tree and forgets an earlier `freeze()`; this doesn't.
        """
        gradients = {p: p.requires_grad for p in self.parameters()}
        modes = {m: m.training for m in self.modules()}
        self.requires_grad_(False)
        self.eval()
        try:
            yield
        finally:
            for parameter, requires_grad in gradients.items():
                parameter.requires_grad = requires_grad
            for module, training in modes.items():
                module.training = training
