"""How encoder steps attend to each other: the options that positions, attention layers and masks share."""

from collections.abc import Sequence
from dataclasses import dataclass

LOCAL = "rel_pos_local_attn"


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """Options of self-attention under the names they have in `encoder`, checked against each other."""

    self_attention_model: str
    d_model: int
    n_heads: int = 4
    att_context_sizes: Sequence[Sequence[int]] = ((-1, -1),)  # pairs of steps to the left and right, -1: all
    att_context_style: str = "regular"
    xscaling: bool = True
    untie_biases: bool = True
    use_bias: bool = True
    dropout_pre_encoder: float = 0.0
    dropout_emb: float = 0.0
    dropout_att: float = 0.0
    global_tokens: int = 0
    global_tokens_spacing: int = 1
    global_attn_separate: bool = False
    use_pytorch_sdpa: bool = False
    use_pytorch_sdpa_backends: Sequence[str] = ()

    def __post_init__(self):
        if self.n_heads < 1:
            raise ValueError(f"encoder.n_heads={self.n_heads} must be at least 1")
        if self.d_model % self.n_heads:
            nearest = min(divisors(self.d_model), key=lambda n: (abs(n - self.n_heads), n))
            raise ValueError(
                f"encoder.n_heads={self.n_heads} does not divide encoder.d_model={self.d_model}; "
                f"the nearest that does is {nearest}"
            )
        if self.d_model % 2:
            raise ValueError(f"encoder.d_model={self.d_model} must be even: positions are pairs of sine and cosine")
        if self.use_pytorch_sdpa_backends and not self.use_pytorch_sdpa:
            raise ValueError("encoder.use_pytorch_sdpa_backends has no effect without encoder.use_pytorch_sdpa=true")
        if not self.untie_biases and self.self_attention_model != "rel_pos":
            raise ValueError(f"encoder.untie_biases=false needs self_attention_model='rel_pos', {self.has_another}")
        (self._check_local if self.self_attention_model == LOCAL else self._check_full)()

    @property
    def has_another(self) -> str:
        return f"not {self.self_attention_model!r}"

    def _check_local(self) -> None:
        contexts = [list(context) for context in self.att_context_sizes]
        if len(contexts) > 1 or min(contexts[0]) < 0 or max(contexts[0]) == 0:
            raise ValueError(
                f"encoder.att_context_size={contexts[0] if len(contexts) == 1 else contexts} must be one pair of "
                f"numbers of steps, one above 0 and none below, with self_attention_model={LOCAL!r}"
            )
        for name, needed in (("att_context_style", "regular"), ("use_pytorch_sdpa", False)):
            if getattr(self, name) != needed:
                raise ValueError(
                    f"encoder.{name}={getattr(self, name)!r} must be {needed!r} with self_attention_model={LOCAL!r}"
                )
        if self.global_tokens < 0 or self.global_tokens_spacing < 1:
            raise ValueError(
                f"encoder.global_tokens={self.global_tokens} must be at least 0 and "
                f"global_tokens_spacing={self.global_tokens_spacing} at least 1"
            )
        if not self.global_tokens and (self.global_attn_separate or self.global_tokens_spacing != 1):
            raise ValueError(
                "encoder.global_attn_separate and global_tokens_spacing have no effect with encoder.global_tokens=0"
            )

    def _check_full(self) -> None:
        for name, neutral in (("global_tokens", 0), ("global_tokens_spacing", 1), ("global_attn_separate", False)):
            if getattr(self, name) != neutral:
                raise ValueError(
                    f"encoder.{name}={getattr(self, name)} needs self_attention_model={LOCAL!r}, {self.has_another}"
                )

    @property
    def window(self) -> tuple[int, int]:
        """Steps to the left and to the right that local attention sees."""
        left, right = self.att_context_sizes[0]
        return left, right

    @property
    def d_head(self) -> int:
        """Channels of one head."""
        return self.d_model // self.n_heads

    @property
    def input_scale(self) -> float:
        """Factor on the encoder's input: sqrt(d_model) with `xscaling`."""
        return self.d_model**0.5 if self.xscaling else 1.0


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
