"""What NeMo builds and then can't run: models that there is nothing to compare with, and what it raises for them."""

from dataclasses import dataclass
from typing import Any

from tools.parity.cases import Case


@dataclass(frozen=True)
class Limit:
    """An option of the encoder, its value, and how the message begins that NeMo raises for it."""

    option: str
    value: Any
    raised: str
    reason: str


KNOWN_LIMITS = (
    Limit(
        "subsampling", "vggnet", "TypeError: 'int' object is not subscriptable",
        "not comparable: NeMo's vggnet subsampling raises in its forward, in 2.6.0 and in 3.0.0",
    ),
)  # fmt: skip


def known_limit(case: Case, raised: str) -> str:
    """Why NeMo can't run the model of a case, where that is known; "" for any other error."""
    encoder = case.config["encoder"] if case.is_model else case.config
    for limit in KNOWN_LIMITS:
        if encoder.get(limit.option) == limit.value and raised.startswith(limit.raised):
            return limit.reason
    return ""
