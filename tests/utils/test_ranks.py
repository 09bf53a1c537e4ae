from utils import ranks
from utils.ranks import from_all_ranks


def test_a_process_alone_has_only_its_own():
    assert from_all_ranks({"a": 1}) == [{"a": 1}]


def test_all_ranks_are_asked_once_they_are_connected(monkeypatch):
    def gather(found, mine):
        found[:] = [mine, "theirs"]

    monkeypatch.setattr(ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(ranks.dist, "all_gather_object", gather)
    assert from_all_ranks("mine") == ["mine", "theirs"]
