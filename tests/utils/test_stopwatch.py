import time

import pytest

from utils.stopwatch import stage, take_seconds


@pytest.fixture(autouse=True)
def no_seconds_from_before():
    take_seconds()


def test_seconds_add_up_per_stage_until_they_are_taken():
    for _ in range(2):
        with stage("decode"):
            time.sleep(0.005)
    with stage("mix"):
        pass
    taken = take_seconds()
    assert set(taken) == {"decode", "mix"} and taken["decode"] >= 0.01 > taken["mix"]
    assert take_seconds() == {}


def test_a_stage_inside_another_counts_for_the_outer_one_only():
    with stage("noise"), stage("decode"):
        time.sleep(0.005)
    with stage("decode"):
        pass
    taken = take_seconds()
    assert taken["noise"] >= 0.005 > taken["decode"]


def test_a_stage_that_raises_is_timed_and_over():
    with pytest.raises(OSError), stage("noise"):
        raise OSError
    with stage("decode"):
        pass
    assert set(take_seconds()) == {"noise", "decode"}
