import io
import typing
from collections import OrderedDict, defaultdict
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from tests.utils.hostile import saved
from utils.checkpoint_files.checkpoint_file import load_checkpoint
from utils.checkpoint_files.safe_globals import SAFE, SAFE_GLOBALS, plain

CONFIG = {"model": {"size": 3, "parts": [1, {"a": None}], "same": "${model.size}"}, "up": "${model}", "missing": "???"}


def again(content: object) -> object:
    return load_checkpoint(io.BytesIO(saved({"x": content})))["x"]


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (OmegaConf.create(CONFIG), OmegaConf.to_container(OmegaConf.create(CONFIG), resolve=True)),
        (OmegaConf.create({"whole": CONFIG}).whole.model.parts, [1, {"a": None}]),  # its parents are in the file too
        (DictConfig(None), None),
        ([OmegaConf.create({"a": 1}), (OmegaConf.create([2]), "b")], [{"a": 1}, ([2], "b")]),
        (defaultdict(dict, {"a": {"b": 1}}), {"a": {"b": 1}}),
        ({"at": Path("/a") / "b"}, {"at": str(Path("/a") / "b")}),
        ({"kind": DictConfig, "any": typing.Any}, {"kind": "omegaconf.dictconfig.DictConfig", "any": "typing.Any"}),
    ],
)
def test_configs_and_paths_become_plain_data(content, read):
    loaded = again(content)
    assert loaded == read and type(loaded) is type(read)


def test_tensors_and_the_kinds_of_dicts_stay(tmp_path):
    state_dict = torch.nn.BatchNorm1d(2).state_dict()
    loaded = again({"state": state_dict, "size": torch.Size([1])})
    assert type(loaded["state"]) is OrderedDict and loaded["state"]._metadata == state_dict._metadata
    assert type(loaded["size"]) is torch.Size


def test_what_occurs_twice_is_still_one_object():
    shared = [OmegaConf.create({"a": 1})]
    loaded = again([shared, shared])
    assert loaded[0] is loaded[1] and loaded[0] == [{"a": 1}]


@pytest.mark.parametrize("stand_in", SAFE_GLOBALS)
def test_a_stand_in_goes_by_the_name_of_what_it_stands_for_and_runs_nothing(stand_in, monkeypatch):
    """Whatever it is called with, and whatever state it gets: nothing of ours or of the original's is called."""
    called = []

    class Hostile:
        def __getattr__(self, name: str):
            called.append(name)
            raise AttributeError(name)

    assert f"{stand_in.__module__}.{stand_in.__qualname__}" in SAFE
    for arguments in ((), (Hostile(),), (len, Hostile()), ("a",), (10**12,)):
        try:
            made = stand_in(*arguments)
        except (TypeError, ValueError):
            continue
        assert isinstance(made, (dict, str, *SAFE_GLOBALS))
    assert set(called) <= {"__fspath__"}  # pathlib asks whether it's a path


def test_a_config_that_claims_another_content_is_data_or_refused():
    for content in (5, "text", [1], {"a": 1}):
        config = OmegaConf.create({"a": 1})
        config.__dict__["_content"] = content
        assert again(config) == content
    config.__dict__["_content"] = "${oc.env:HOME}"
    with pytest.raises(ValueError, match=r"x='\$\{oc.env:HOME\}' asks for more than keys of this config"):
        again(config)


def test_plain_says_where_a_config_asks_for_more():
    config = OmegaConf.create({"a": ["${oc.env:HOME}"]})
    with pytest.raises(ValueError, match=r"hyper_parameters\.cfg\.a\.0="):
        load_checkpoint(io.BytesIO(saved({"hyper_parameters": {"cfg": config}})))
    assert plain({"a": (1, 2)}) == {"a": (1, 2)}
