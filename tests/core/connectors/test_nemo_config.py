"""A config in NeMo's words has nothing that NeMo refuses, and comes back as it was."""

import pytest
from omegaconf import OmegaConf

from core.connectors.nemo_config import OWN, OWN_OPTIONS, from_nemo, take_own_options, to_nemo
from core.targets import TARGETS


@pytest.fixture(autouse=True)
def layer(monkeypatch):
    """One class with two paths and an option of ours, `extra`, of which 1 is NeMo's way."""
    for path in ("nemo.collections.x.Layer", "modules.x.Layer"):
        monkeypatch.setitem(TARGETS, path, dict)
    monkeypatch.setitem(OWN_OPTIONS, dict, {"extra": 1})


def config(**options) -> dict:
    return {"size": 4, "encoder": {"_target_": "modules.x.Layer", "width": "${size}", **options}}


@pytest.mark.parametrize(("extra", "told"), [(1, []), (2, ["encoder.extra=2"])])
def test_an_option_of_ours_is_left_out_for_nemo_and_put_back_unless_it_is_nemos_way(extra, told):
    written, said = to_nemo(OmegaConf.create(config(extra=extra)), "nemo.X")
    assert written.encoder == {"_target_": "nemo.collections.x.Layer", "width": 4} and said == told
    assert (written.target, written.nemo_version) == ("nemo.X", "3.0.0") and (OWN in written) == bool(told)
    assert from_nemo(written).encoder.get("extra", 1) == extra


def test_writing_a_config_leaves_it_as_it_was():
    ours = config(extra=2)
    to_nemo(ours, "nemo.X")
    assert ours == config(extra=2)


@pytest.mark.parametrize("own", [{"decoder": {"extra": 2}}, {"encoder": 3}, 3])
def test_options_of_a_section_that_is_not_there_are_refused(own):
    with pytest.raises(ValueError, match=OWN):
        from_nemo(OmegaConf.create(config() | {OWN: own}))


def test_options_of_ours_of_which_a_file_says_nothing_are_the_runs():
    theirs = config()
    take_own_options(theirs, config(extra=5, width=9))
    assert theirs["encoder"]["extra"] == 5 and theirs["encoder"]["width"] == "${size}"
