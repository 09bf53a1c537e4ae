from dataclasses import replace

import pytest

from tools.parity.cases import CASES
from tools.parity.known_versions import KNOWN_VERSIONS, MaskRule, for_version, is_known, known_version, series
from tools.parity.records import Job


def job(name: str = "model_pre_conv_1_book", **own_options) -> Job:
    return Job(name, CASES[name], ("masks",), own_options=own_options)


@pytest.mark.parametrize(("version", "expected"), [("2.6.0", "2.6"), ("3.0.0rc1", "3.0"), ("2.6", "2.6"), ("4", "4")])
def test_a_version_belongs_to_a_series(version, expected):
    assert series(version) == expected


def test_a_version_that_is_not_known_is_taken_for_3_0():
    assert is_known("2.6.1") and is_known("3.0.0") and not is_known("2.7.0")
    assert known_version("2.7.0") is KNOWN_VERSIONS["3.0"]


def test_our_side_masks_short_utterances_as_nemo_26_does_unless_the_config_says_how():
    assert for_version(job(), "2.6.0").own_options == {"masking.max_mask_ratio": 0.8}
    assert for_version(job(), "2.6.0").case is job().case  # NeMo's side is asked the same
    own = job(**{"masking.max_mask_ratio": 0.5, "masking.min_masks": 1})
    assert for_version(own, "2.6.0") is own
    config = CASES["model_pre_conv_1_book"].config
    said = config | {"masking": config["masking"] | {"max_mask_ratio": 0.5}}
    assert for_version(replace(job(), case=replace(job().case, config=said)), "2.6.0").own_options == {}


def test_nothing_changes_for_3_0_or_an_encoder():
    assert for_version(job(), "3.0.0") == job()
    assert for_version(job("encoder_default"), "2.6.0") == job("encoder_default")


def test_short_utterances_are_those_of_at_most_a_block_by_the_ratio():
    rule = KNOWN_VERSIONS["2.6"].masks
    assert [rule.is_short(length, 40) for length in (8, 50, 51)] == [True, True, False]
    assert not MaskRule().is_short(8, 40)


def test_blocks_shrink_where_one_more_would_not_fit():
    rule = KNOWN_VERSIONS["2.6"].masks
    assert [rule.shifts_shrunk(length, 40, 0.01) for length in (50, 51, 79, 80, 2000)] == [0, 1, 1, 0, 0]
    assert not MaskRule().shifts_shrunk(60, 40, 0.01)
