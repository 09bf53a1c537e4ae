import pytest
import torch

from parts.submodules.attention_context import (
    CONTEXT_STYLES,
    chunked_context,
    hidden_keys,
    parse_contexts,
    parse_probs,
    regular_context,
)

CPU = torch.device("cpu")


def seen(style, steps, left, right):
    return [row.nonzero().flatten().tolist() for row in CONTEXT_STYLES[style](steps, left, right, CPU)]


def test_a_step_sees_its_neighbours_on_each_side():
    assert seen("regular", 5, 2, 1) == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4]]
    assert seen("regular", 3, 0, 0) == [[0], [1], [2]]
    assert seen("regular", 3, -1, 0) == [[0], [0, 1], [0, 1, 2]]
    assert regular_context(4, -1, -1, CPU).all()


def test_a_step_sees_its_chunk_and_whole_chunks_before_it():
    assert seen("chunked_limited", 6, 2, 1) == [[0, 1], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3], [2, 3, 4, 5], [2, 3, 4, 5]]
    assert seen("chunked_limited", 5, 0, 2) == [[0, 1, 2]] * 3 + [[3, 4]] * 2
    assert seen("chunked_limited", 4, -1, 1) == [[0, 1], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert torch.equal(chunked_context(5, 2, -1, CPU), regular_context(5, 2, -1, CPU))


@pytest.mark.parametrize("style", CONTEXT_STYLES)
def test_padding_neither_sees_nor_is_seen(style):
    hidden = hidden_keys(torch.tensor([[False, False, True]]), [-1, -1] if style == "regular" else [-1, 5], style)
    assert hidden.tolist() == [[[False, False, True], [False, False, True], [True, True, True]]]


def test_contexts_are_null_a_pair_or_a_list_of_pairs():
    assert parse_contexts(None, "regular") == [[-1, -1]]
    assert parse_contexts((6, 3), "regular") == [[6, 3]]
    assert parse_contexts([(6, 2), [-1, -1]], "chunked_limited") == [[6, 2], [-1, -1]]
    assert parse_probs(None, 4) == [0.25] * 4
    assert parse_probs([0.1, 0.2, 0.7], 3) == [0.1, 0.2, 0.7]


@pytest.mark.parametrize(
    "size, style, message",
    [
        ([6, 3], "chunky", "encoder.att_context_style='chunky'"),
        ([6, 2, 1], "regular", "encoder.att_context_size: [6, 2, 1]"),
        ([[6]], "regular", "encoder.att_context_size: [6]"),
        ([6, -2], "regular", "encoder.att_context_size: [6, -2]"),
        ([6, -1], "chunked_limited", "encoder.att_context_size=[6, -1]: right"),
        ([6, 3], "chunked_limited", "encoder.att_context_size=[6, 3]: left must be a multiple of right + 1 = 4"),
    ],
)
def test_impossible_contexts_are_refused_by_name(size, style, message):
    with pytest.raises(ValueError) as error:
        parse_contexts(size, style)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("probs", [[0.5], [0.5, 0.6], [1.5, -0.5]])
def test_probabilities_must_be_one_per_context_and_sum_to_1(probs):
    with pytest.raises(ValueError, match=r"^encoder\.att_context_probs="):
        parse_probs(probs, 2)
