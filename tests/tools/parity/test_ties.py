"""A token may differ where the scores of both codes are a tie, nowhere else; what follows from one isn't compared."""

from dataclasses import replace

import pytest
import torch

from tools.parity.aspects.computation import levels_of, trace_of
from tools.parity.comparison import compare_levels
from tools.parity.records import Record, kept
from tools.parity.rows import FAILED, NOT_RUN, PASSED, Row
from tools.parity.ties import find_ties, settle_ties

RECORDS = ("model_pre_conv_1_book", "model_pre_conv_2_books", "model_pre_conv_squeezed", "model_post_conv_1_book")


def with_twin_codes(record: Record, code: int, twin: int) -> Record:
    """The record of a quantizer in whose first book two codes are one."""
    codebooks = record.job.start["quantizer.codebooks"].clone()
    codebooks[0, twin] = codebooks[0, code]
    return replace(record, job=replace(record.job, start=record.job.start | {"quantizer.codebooks": codebooks}))


def other_code(record: Record) -> tuple[dict, int, int]:
    """Levels with another code in the first book at one real step, NeMo's code there, and the other one."""
    levels = levels_of(record)
    tokens = levels["token/tokens"].clone()
    first_book = tokens.view(*tokens.shape[:2], -1)[:, :, 0]
    code = int(first_book[0, 3])
    first_book[0, 3] = other = (code + 1) % 32
    return levels | {"token/tokens": tokens}, code, other


def rows_of(record: Record, got: dict) -> list[Row]:
    expected = levels_of(record)
    return list(settle_ties(compare_levels(got, expected), got, expected, record.job, trace_of(record)))


def row_of(rows: list[Row], level: str) -> Row:
    return next(row for row in rows if row.level == level)


@pytest.mark.parametrize("name", RECORDS)
def test_a_tie_may_fall_either_way(name):
    got, code, other = other_code(kept(name))
    row = row_of(rows_of(with_twin_codes(kept(name), code, other), got), "token")
    assert (row.status, row.error) == (PASSED, 0.0)
    assert row.detail.startswith(f"[0, 3, 0]: {other} instead of {code}")


@pytest.mark.parametrize("name", RECORDS)
def test_a_code_that_is_farther_away_fails_with_its_gap(name):
    got, code, other = other_code(kept(name))
    row = row_of(rows_of(kept(name), got), "token")
    assert row.status == FAILED
    assert row.error > 1e-2
    assert row.detail.startswith(f"[0, 3, 0]: {other} instead of {code}")


@pytest.mark.parametrize("beyond", [-1, 10**6])
def test_a_code_that_is_none_fails(beyond):
    record = kept("model_pre_conv_1_book")
    got = levels_of(record) | {"token/tokens": torch.full_like(levels_of(record)["token/tokens"], beyond)}
    assert row_of(rows_of(record, got), "token").status == FAILED


def test_after_a_tie_a_loss_of_other_targets_is_not_run():
    got, code, other = other_code(kept("model_pre_conv_1_book"))
    got["loss/loss"] = got["loss/loss"] * 1.01
    record = with_twin_codes(kept("model_pre_conv_1_book"), code, other)
    assert row_of(rows_of(record, got), "loss").status == NOT_RUN
    assert row_of(rows_of(kept("model_pre_conv_1_book"), got), "loss").status == FAILED  # where it is no tie


def test_after_a_tie_a_layer_that_differs_fails():
    got, code, other = other_code(kept("model_pre_conv_1_book"))
    got["layer/0"] = got["layer/0"] * 1.01
    record = with_twin_codes(kept("model_pre_conv_1_book"), code, other)
    assert row_of(rows_of(record, got), "layer").status == FAILED


def test_codes_differ_only_where_tokens_are_ties():
    record = kept("model_pre_conv_1_book")
    got, code, other = other_code(record)
    record = with_twin_codes(record, code, other)
    codes = got["code/codes"].clone()
    codes[0, :, 3] += 1.0
    assert row_of(rows_of(record, got | {"code/codes": codes}), "code").status == PASSED
    codes[0, :, 4] += 1.0
    assert row_of(rows_of(record, got | {"code/codes": codes}), "code").status == FAILED


def test_equal_tokens_have_no_ties():
    record = kept("model_pre_conv_1_book")
    assert find_ties(levels_of(record), levels_of(record), record.job, trace_of(record)) is None
