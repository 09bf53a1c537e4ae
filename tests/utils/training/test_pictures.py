import numpy as np
import pytest

from utils.training.pictures import _runs, save_prediction_picture

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([0, 1, 1, 0, 1], [(1, 3), (4, 5)]), ([1, 1], [(0, 2)]), ([0, 0], []), ([], [])],
)
def test_runs_are_the_stretches_of_true(flags, expected):
    assert _runs(np.array(flags, dtype=bool)) == expected


def test_the_picture_depends_on_what_is_guessed(tmp_path):
    rng = np.random.default_rng(0)
    clean, noisy = rng.standard_normal((2, 80, 160))
    true_codes = rng.integers(0, 64, 20)
    guessed = true_codes.copy()
    guessed[5] += 1
    pictures = []
    for name, guess in (("right", true_codes), ("wrong", guessed)):
        save_prediction_picture(
            tmp_path / "new folder" / f"{name}.png",
            clean=clean,
            noisy=noisy,
            is_masked=np.arange(160) // 40 % 2 == 1,
            true_codes=true_codes,
            guessed_codes=guess,
            is_scored=np.arange(20) // 5 % 2 == 1,
        )
        pictures.append((tmp_path / "new folder" / f"{name}.png").read_bytes())
    assert pictures[0][:8] == pictures[1][:8] == PNG
    assert pictures[0] != pictures[1]
