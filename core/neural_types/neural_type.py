"""`NeuralType`: the axes and the kind of one input or output of a module."""

from core.neural_types.elements import ElementType, VoidType


class NeuralType:
    """Axes and kind of a tensor, written in a module's `input_types` and `output_types`.

    axes: one name per dimension, e.g. ("B", "D", "T"); None: any rank. Names are for the reader, rank is checked.
    kind: an `ElementType`, class or instance.
    optional: the value may be left out or None.
    """

    __slots__ = ("axes", "kind", "optional")

    def __init__(
        self,
        axes: tuple[str, ...] | None = None,
        kind: ElementType | type[ElementType] = VoidType,
        optional: bool = False,
    ):
        self.axes = None if axes is None else tuple(axes)
        self.kind = kind() if isinstance(kind, type) else kind
        self.optional = optional

    def __repr__(self) -> str:
        axes = "any rank" if self.axes is None else f"({', '.join(self.axes)})"
        return f"{self.kind} {axes}"


def mismatch(value: object, expected: NeuralType) -> str | None:
    """Say what is wrong with `value` where `expected` is declared; None when nothing is.

    Only tensors have a rank, and only outputs of typed modules carry a kind (`Tensor.neural_type`): other values pass.
    """
    shape = getattr(value, "shape", None)
    if shape is not None and expected.axes is not None and len(shape) != len(expected.axes):
        return f"has shape {tuple(shape)}, {len(shape)} axes"
    actual = getattr(value, "neural_type", None)
    if actual is not None and not expected.kind.accepts(actual.kind):
        return f"is {actual}"
    return None
