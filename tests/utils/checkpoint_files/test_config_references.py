import pytest
from omegaconf import OmegaConf

from utils.checkpoint_files.config_references import resolved

CONFIGS = [
    {"a": 1, "b": "${a}", "c": {"d": "${..a}", "e": "${.d}", "f": "${c.e}"}},
    {"rate": 16000, "folder": "/data", "path": "${folder}/x_${rate}.json", "on": True, "text": "${on}"},
    {"parts": [1, {"x": 2}], "first": "${parts[0]}", "x": "${parts.1.x}", "all": "${parts}"},
    {"model": {"size": 3}, "whole": "${model}", "size": "${whole.size}", "none": None, "n": "${none}"},
    {"missing": "???", "dollar": "$5", "braces": "{x}", 5: 1},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_own_keys_are_resolved_as_omegaconf_does(config):
    assert resolved(config) == OmegaConf.to_container(OmegaConf.create(config), resolve=True)


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HOME}",
        "x ${oc.env:HOME}",
        "${oc.env:HOME,${b}}",
        "${${b}:HOME}",
        "${oc.create:{a:1}}",
        "\\${oc.env:HOME}",
        "\\${b}",
        "${b",
        "${}",
        "${ b }",
        "${d}{oc.env:HOME}",
    ],
)
def test_anything_but_a_key_is_refused_by_name(value):
    with pytest.raises(
        ValueError, match=r"hyper_parameters\.a\.0=.*(asks for more than keys|makes a new ref)"
    ) as raised:
        resolved({"a": [value], "b": "oc.env", "d": "$"}, "hyper_parameters")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"a": "${b}"}, r"config\.a refers to \$\{b\}, which isn't there"),
        ({"a": "${...b}", "b": 1}, "isn't there"),
        ({"a": "${b.c}", "b": 1}, "isn't there"),
        ({"a": "${b[3]}", "b": [1]}, "isn't there"),
        ({"a": "${a}"}, "goes in a circle"),
        ({"a": "${b}", "b": {"c": "${a}"}}, "goes in a circle"),
        ({"a": "${b.c}", "b": "${b}"}, "goes in a circle"),
        ({"a": "x ${b}", "b": {"c": 1}}, "within a text"),
    ],
)
def test_a_reference_to_nothing_is_one_line(config, said):
    with pytest.raises(ValueError, match=said):
        resolved(config)


@pytest.mark.parametrize("twice", [lambda name: [name, name], lambda name: f"text {name}{name}"])
def test_what_references_blow_up_to_is_limited(twice):
    levels = {f"k{i}": twice(f"${{k{i + 1}}}") for i in range(40)}
    with pytest.raises(ValueError, match="make more than"):
        resolved(levels | {"k40": "x"})
