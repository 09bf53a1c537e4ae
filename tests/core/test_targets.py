"""What a config may build is what somebody has registered, and nothing else."""

import pytest

from core.targets import TARGETS, find_target, register_targets


@pytest.fixture(autouse=True)
def table_as_before():
    before = dict(TARGETS)
    yield
    TARGETS.clear()
    TARGETS.update(before)


def test_a_registered_path_is_found_and_may_be_registered_again():
    for _ in range(2):
        register_targets({"a.Encoder": dict})
    assert find_target("a.Encoder", "model.encoder") is dict


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "a.Encodr"])
def test_any_other_path_is_refused_under_its_key(target):
    register_targets({"a.Encoder": dict})
    with pytest.raises(ValueError, match=rf"^model\.encoder\._target_='{target}' is not a class that configs may name"):
        find_target(target, "model.encoder")


def test_one_path_is_not_two_classes():
    register_targets({"a.Encoder": dict})
    with pytest.raises(ValueError, match=r"'a\.Encoder' is registered already"):
        register_targets({"a.Encoder": list})
