"""What constructors are called with is noted, over their defaults, and the classes are as before afterwards."""

import pytest

from tools.parity.aspects.constructors import as_json, default_arguments, noted


class Base:
    def __init__(self, optimizer=None, *, floor=0.5, steps=None):
        self.floor, self.steps = floor, steps


class Passing(Base):
    def __init__(self, optimizer, *, floor=0.1, **kwargs):
        super().__init__(optimizer, floor=floor, **kwargs)


class Inheriting(Base):
    pass


def test_arguments_given_by_place_or_by_name_stand_over_defaults():
    class Layer:
        def __init__(self, size, scale=2.0, shift=None):
            self.size = size

    with noted([Layer]) as made:
        layer = Layer(4, shift=[1, 2])
    assert made.of(layer) == {
        "scale": {"value": 2.0, "given": False},
        "shift": {"value": [1, 2], "given": True},
        "size": {"value": 4, "given": True},
    }


def test_behind_kwargs_stand_the_arguments_of_the_base_class():
    assert default_arguments(Passing) == {"self": None, "optimizer": None, "floor": 0.1, "steps": None}
    with noted([Passing, Base]) as made:
        passing = Passing("any", steps=3)
    assert {name: argument["value"] for name, argument in made.of(passing).items()} == {"floor": 0.1, "steps": 3}


def test_classes_are_as_before_also_where_the_constructor_is_inherited():
    before = Base.__init__
    with noted([Inheriting, Base]) as made:
        inheriting = Inheriting(floor=0.2)
    assert made.of(inheriting)["floor"] == {"value": 0.2, "given": True}
    assert "__init__" not in vars(Inheriting)
    assert Base.__init__ is before


@pytest.mark.parametrize("other", [Base, Passing])
def test_an_object_of_another_class_was_not_noted_not_even_as_its_base_class(other):
    with noted([Base] if other is Passing else [Inheriting]) as made:
        thing = other("any")
    with pytest.raises(KeyError, match=other.__name__):
        made.of(thing)


def test_what_json_does_not_have_is_its_type():
    assert as_json({1: (2.5, None, "x", object())}) == {"1": [2.5, None, "x", "<object>"]}
