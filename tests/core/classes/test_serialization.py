"""Objects from configs, through the table of what may be built."""

import pytest
from omegaconf import OmegaConf

from core import targets as table
from core.classes import NeuralModule
from core.classes.serialization import from_config_dict
from core.targets import register_targets


class Layer(NeuralModule):
    def __init__(self, d_model: int, n_heads: int = 4, inner: object = None):
        super().__init__()
        self.d_model, self.n_heads, self.inner = d_model, n_heads, inner


class Model(NeuralModule):
    def __init__(self, cfg, trainer=None):
        super().__init__()
        self.cfg, self.trainer = cfg, trainer


@pytest.fixture(autouse=True)
def targets(monkeypatch):
    monkeypatch.setattr(table, "TARGETS", {})
    register_targets({"nemo.layers.Layer": Layer, "layers.Layer": Layer})


@pytest.mark.parametrize("target", ["nemo.layers.Layer", "layers.Layer"])
def test_a_class_is_built_under_each_of_its_paths(target):
    layer = from_config_dict({"_target_": target, "d_model": 8, "n_heads": 2})
    assert (type(layer), layer.d_model, layer.n_heads) == (Layer, 8, 2)


def test_references_reach_beyond_the_section():
    config = OmegaConf.create({"width": 6, "model": {"layer": {"_target_": "layers.Layer", "d_model": "${width}"}}})
    assert from_config_dict(config.model.layer).d_model == 6


def test_sections_inside_are_built_first():
    inner = {"_target_": "layers.Layer", "d_model": 1}
    assert from_config_dict({"_target_": "layers.Layer", "d_model": 8, "inner": inner}).inner.d_model == 1


def test_extra_arguments_win_over_the_configs():
    assert from_config_dict({"_target_": "layers.Layer", "d_model": 8}, d_model=9).d_model == 9


def test_a_config_is_left_as_it_was():
    config = {"_target_": "layers.Layer", "d_model": 8}
    from_config_dict(config)
    assert config == {"_target_": "layers.Layer", "d_model": 8}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "os.system", "command": "true"}, "model.enc._target_='os.system' is not a class that configs"),
        ({"_target_": "layers.Layr"}, "'layers.Layr' is not a class .* did you mean 'layers.Layer'?"),
        ({"d_model": 8}, "model.enc has no _target_: give the path"),
        ({"_target_": "layers.Layer", "d_modl": 8}, "enc.d_modl is not an option of Layer; did you mean 'd_model'"),
        ({"_target_": "layers.Layer"}, "model.enc.d_model is missing: Layer needs it"),
        ({"_target_": "layers.Layer", "d_model": "???"}, "model.enc: Missing mandatory value: d_model"),
        ({"_target_": "layers.Layer", "d_model": "${nowhere}"}, "model.enc: Interpolation key 'nowhere' not found"),
        ({"_target_": "layers.Layer", "d_model": 8, "inner": {"_target_": "x"}}, "model.enc.inner._target_='x' is not"),
        (["layers.Layer"], "model.enc must be a mapping of options, not"),
    ],
)
def test_a_wrong_config_is_one_line_with_its_path(config, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_config_dict(OmegaConf.create(config) if isinstance(config, dict) else config, path="model.enc")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("abc", "model.layer: Sized can't be built with these values: .*to str"),
        (0, "model.layer: Sized can't be built with these values: division by zero"),
        (-1, "size=-1 is negative"),
    ],
)
def test_a_value_that_a_constructor_cannot_use_is_one_line(size, message):
    class Sized:
        def __init__(self, size: int):
            if size + 0 < 0:
                raise ValueError(f"size={size} is negative")
            self.share = 1 / size

    register_targets({"layers.Sized": Sized})
    with pytest.raises(ValueError, match=message):
        from_config_dict({"_target_": "layers.Sized", "size": size}, path="model.layer")


def test_one_path_means_one_class():
    with pytest.raises(ValueError, match=r"'layers\.Layer' is registered already"):
        register_targets({"layers.Layer": Model})
    register_targets({"layers.Layer": Layer})


def test_the_classmethod_builds_the_target_or_else_the_class_itself():
    assert isinstance(Model.from_config_dict({"_target_": "layers.Layer", "d_model": 8}), Layer)
    model = Model.from_config_dict({"d_model": 8}, trainer="trainer")
    assert (model.cfg, model.trainer) == ({"d_model": 8}, "trainer")
