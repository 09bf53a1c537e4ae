import numpy as np
import pytest

from parts.preprocessing.audio_file import REASONS
from tools.checkup.report import ADVICE, histogram


@pytest.mark.parametrize("seconds", [[1.0], [0.5] * 9, [1.0, 2.0, 3.0], [6.25e-05, 2.0, 2.1, 2.2, 1800.0]])
def test_a_histogram_counts_every_line_once(seconds):
    bins = histogram(np.array(seconds))
    assert sum(one["lines"] for one in bins) == len(seconds)
    assert all(one["from"] < one["to"] for one in bins)
    assert len(bins) <= 14


def test_there_is_advice_for_every_reason():
    assert ADVICE.keys() == {*REASONS}
