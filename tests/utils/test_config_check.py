import pytest

from utils.config_check import nearest, refuse_unknown_keys


def test_the_nearest_name_is_offered():
    assert nearest("nlayers", ["n_layers", "d_model"]) == "; did you mean 'n_layers'?"


def test_without_a_near_name_a_short_list_is_shown_whole():
    assert nearest("zzz", ["b", "a"]) == "; known are a, b"
    assert nearest("zzz", [f"name{i}" for i in range(100)]) == ""


@pytest.mark.parametrize(("path", "full"), [("trainer", "trainer.devics"), ("", "devics")])
def test_an_unknown_key_is_refused_under_its_full_name(path, full):
    with pytest.raises(ValueError, match=f"^{full} is not a known config key; did you mean 'devices'"):
        refuse_unknown_keys({"devics": 1}, ["devices"], path)


def test_known_keys_pass():
    refuse_unknown_keys({"devices": 1}, ["devices", "strategy"], "trainer")
