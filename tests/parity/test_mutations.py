"""Negative controls: each breaks our code in one way that a port can go wrong, and the parity tests must see where."""

from dataclasses import replace

import pytest
from torch import nn

from tests.parity.mutants import (
    SEEN_BY_PARITY,
    attention_to_padding,
    convolution_over_padding,
    lengths_rounded_down,
    reshape_that_scrambles_time,
    subsampling_over_padding,
    tokens_of_bins_stacked_as_frames,
)
from tools.parity.aspects.computation import NAME
from tools.parity.cases import CASES, OURS, SEED, seed_everything, shift_weights
from tools.parity.compare import compare_with
from tools.parity.invariants import INVARIANTS, evaluate, two_utterances
from tools.parity.records import Record, kept


def computed(name: str, aspects: tuple[str, ...] = (NAME,)) -> Record:
    """A kept record, to be compared in these aspects only."""
    record = kept(name)
    return replace(record, job=replace(record.job, aspects=aspects))


@pytest.mark.parametrize("name", sorted({seen.record for seen in SEEN_BY_PARITY}))
def test_what_is_not_mutated_is_blamed_for_nothing(name, tmp_path):
    comparison = compare_with(computed(name), tmp_path)
    assert (comparison.failed, comparison.culprit, comparison.cause) == ([], None, "")


@pytest.mark.parametrize("seen", SEEN_BY_PARITY, ids=lambda seen: f"{seen.mutation.__name__}-{seen.record}")
def test_parity_sees_the_mutation_and_blames_its_module(seen, monkeypatch, tmp_path):
    seen.mutation(monkeypatch)
    comparison = compare_with(computed(seen.record, seen.aspects), tmp_path)
    assert not comparison.passed
    assert (comparison.failed[0].level, comparison.culprit.module) == (seen.level, seen.module)
    assert comparison.cause[: len(seen.cause) or None] == seen.cause


SEEN_BY_INVARIANTS = [
    (reshape_that_scrambles_time, "padding amount"),
    (reshape_that_scrambles_time, "the rest of the batch"),
    (attention_to_padding, "padding amount"),
    (attention_to_padding, "the rest of the batch"),
    (convolution_over_padding, "padding amount"),
    (convolution_over_padding, "the rest of the batch"),
    (subsampling_over_padding, "padding of the features"),
    (tokens_of_bins_stacked_as_frames, "padding amount"),
]


@pytest.mark.parametrize(("mutation", "what"), SEEN_BY_INVARIANTS)
def test_an_invariant_sees(mutation, what, monkeypatch):
    assert INVARIANTS[what](small_model()) < 2e-5
    mutation(monkeypatch)
    assert INVARIANTS[what](small_model()) > 1e-3


def test_reported_lengths_see_rounding_down(monkeypatch):
    assert evaluate(small_model(), *two_utterances()).lengths.tolist() == [15, 11]  # of 117 and 85 frames
    lengths_rounded_down(monkeypatch)
    assert evaluate(small_model(), *two_utterances()).lengths.tolist() == [14, 10]


def small_model() -> nn.Module:
    seed_everything(SEED)
    model = CASES["model_pre_conv_1_book"].build(OURS)
    shift_weights(model, SEED)
    return model.eval()
