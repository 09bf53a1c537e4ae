import pytest

from tests.two_ranks import two_ranks
from utils.ranks import from_all_ranks


def test_a_process_alone_has_only_its_own():
    assert from_all_ranks({"a": 1}) == [{"a": 1}]


def exchange(rank: int) -> list[dict]:
    return from_all_ranks({"rank": rank})


@pytest.mark.slow
def test_each_rank_gets_what_all_passed_in_their_order():
    assert two_ranks(exchange) == [[{"rank": 0}, {"rank": 1}]] * 2
