"""Kinds and axes of tensors."""

import pytest
import torch

from core import neural_types
from core.neural_types import (
    AcousticEncodedRepresentation,
    AudioSignal,
    ElementType,
    LabelsType,
    MelSpectrogramType,
    NeuralType,
    SpectrogramType,
    VoidType,
    mismatch,
)

KINDS = [kind for kind in vars(neural_types).values() if isinstance(kind, type) and issubclass(kind, ElementType)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_accepts_itself_and_void_and_is_accepted_by_void(kind):
    assert kind().accepts(kind())
    assert kind().accepts(VoidType())
    assert VoidType().accepts(kind())


def test_a_special_kind_passes_for_its_general_one_but_not_the_other_way():
    assert SpectrogramType().accepts(MelSpectrogramType())
    assert not MelSpectrogramType().accepts(SpectrogramType())
    assert not SpectrogramType().accepts(AcousticEncodedRepresentation())


def test_two_known_sample_rates_must_agree():
    assert AudioSignal(16000).accepts(AudioSignal(16000))
    assert AudioSignal(16000).accepts(AudioSignal())
    assert not AudioSignal(16000).accepts(AudioSignal(8000))


def test_a_kind_may_be_given_as_class_or_instance():
    assert NeuralType(("B",), LabelsType).kind == NeuralType(("B",), LabelsType()).kind


def test_rank_is_checked_unless_axes_are_none():
    assert mismatch(torch.zeros(2, 3), NeuralType(("B", "T"))) is None
    assert mismatch(torch.zeros(2, 3), NeuralType(None)) is None
    assert mismatch(torch.zeros(2, 3), NeuralType(("B",))) == "has shape (2, 3), 2 axes"
    assert mismatch([1, 2], NeuralType(("B",))) is None


def test_only_a_tagged_value_has_a_kind_to_check():
    tagged = torch.zeros(2)
    tagged.neural_type = NeuralType(("B",), LabelsType)
    assert mismatch(torch.zeros(2), NeuralType(("B",), SpectrogramType)) is None
    assert mismatch(tagged, NeuralType(("B",), SpectrogramType)) == "is LabelsType (B)"
