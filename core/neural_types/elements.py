"""What the numbers of a tensor mean. A subclass is accepted wherever its parent is expected."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ElementType:
    """Root of all kinds."""

    def accepts(self, other: "ElementType") -> bool:
        """True when a value of kind `other` may be given where this kind is expected."""
        return isinstance(other, (type(self), VoidType))

    def __str__(self) -> str:
        return type(self).__name__


class VoidType(ElementType):
    """No meaning declared: accepts everything and is accepted everywhere."""

    def accepts(self, other: ElementType) -> bool:
        return True


@dataclass(frozen=True)
class AudioSignal(ElementType):
    """Waveform samples. `freq` is the sample rate in Hz; two known rates must agree."""

    freq: int | None = None

    def accepts(self, other: ElementType) -> bool:
        if isinstance(other, AudioSignal) and None not in (self.freq, other.freq):
            return self.freq == other.freq
        return super().accepts(other)

    def __str__(self) -> str:
        return "AudioSignal" if self.freq is None else f"AudioSignal at {self.freq} Hz"


class ChannelType(ElementType):
    """Activations with a channel axis."""


class SpectrogramType(ChannelType):
    """Any time-frequency picture."""


class MelSpectrogramType(SpectrogramType):
    """Spectrogram on the mel scale."""


class MFCCSpectrogramType(SpectrogramType):
    """Mel-frequency cepstral coefficients."""


class EncodedRepresentation(ChannelType):
    """Output of an encoder."""


class AcousticEncodedRepresentation(EncodedRepresentation):
    """Output of an acoustic encoder."""


class LengthsType(ElementType):
    """Count of valid items per row."""


class LabelsType(ElementType):
    """Class ids."""


class MaskType(ElementType):
    """True (or 1) where something applies."""


class LogitsType(ElementType):
    """Scores before the softmax."""


class LogprobsType(ElementType):
    """Natural logarithms of probabilities."""


class ProbsType(ElementType):
    """Probabilities."""


class LossType(ElementType):
    """A scalar to minimise."""


class BoolType(ElementType):
    """A flag."""


class IntType(ElementType):
    """An integer."""


class FloatType(ElementType):
    """A real number."""
