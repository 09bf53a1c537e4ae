import numpy as np
import pytest

from data.kept_audio import KeptAudio


def test_an_array_is_made_once_until_others_need_its_place():
    kept, made = KeptAudio(max_bytes=240), []

    def get(key):
        return kept.get(key, lambda: made.append(key) or np.full(10, key))  # 80 bytes

    assert [get(key)[0] for key in (1, 2, 3, 1, 4, 1, 2)] == [1, 2, 3, 1, 4, 1, 2]
    assert made == [1, 2, 3, 4, 2]  # 4 took the place of 2, which was not asked for the longest
    assert kept.nbytes == 240


def test_an_array_beyond_the_bound_is_given_and_not_kept():
    kept = KeptAudio(max_bytes=8)
    assert kept.get("a", lambda: np.ones(2)).sum() == 2 and kept.nbytes == 0


def test_what_is_kept_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        KeptAudio(max_bytes=99).get("a", lambda: np.ones(2))[0] = 5
