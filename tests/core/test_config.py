"""From plain values to checked components."""

from abc import ABC
from typing import Annotated

import pytest
from pydantic import Field, PositiveInt

from peft_vision.core.config import NOT_HASHED, ConfigError, build, build_all, component, hashed_fields


@component
class Animal(ABC):
    legs: PositiveInt


@component
class Dog(Animal):
    name: str
    speed: Annotated[float, Field(ge=0)]
    tag: Annotated[str, NOT_HASHED]


DOG = {"_target_": f"{__name__}.Dog", "legs": 4, "name": "Rex", "speed": 2.5, "tag": "x"}


def fault(node, kind=Animal):
    with pytest.raises(ConfigError) as raised:
        build(node, kind, "animal")
    return str(raised.value)


def test_values_become_a_frozen_component():
    dog = build(DOG, Animal, "animal")
    assert (type(dog), dog.legs, dog.speed) == (Dog, 4, 2.5)
    with pytest.raises(AttributeError):
        dog.legs = 3


def test_every_fault_is_named_in_one_message():
    message = fault({**DOG, "legs": 0, "speed": "fast", "nam": "Rex"})
    assert "animal.legs: got 0, should be greater than 0" in message
    assert "animal.speed: got 'fast'" in message
    assert "unknown nam; Dog takes legs, name, speed, tag; did you mean name?" in message


def test_a_missing_value_is_named():
    assert "animal.name: missing" in fault({key: value for key, value in DOG.items() if key != "name"})


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("nowhere.Dog", "no module 'nowhere'"),
        ("peft_vision.nowhere.Dog", "no module 'peft_vision.nowhere'"),
        (f"{__name__}.Cat", "has no class 'Cat'"),
        ("Dog", "is no dotted path"),
        ("peft_vision.core.config.CONFIG_DIR", "has no class 'CONFIG_DIR'"),
        ("pathlib.Path", "Path is not a Animal"),
    ],
)
def test_a_target_that_is_no_such_class_is_refused(target, complaint):
    assert complaint in fault({"_target_": target})


def test_no_target_is_said():
    assert "no _target_" in fault({"legs": 4})


def test_the_faults_of_all_groups_come_together():
    with pytest.raises(ConfigError) as raised:
        build_all({"a": {**DOG, "legs": -1}, "b": {**DOG, "speed": -1}}, {"a": Animal, "b": Animal})
    assert "a.legs" in str(raised.value)
    assert "b.speed" in str(raised.value)


def test_what_cannot_change_a_result_is_no_part_of_the_lasting_values():
    assert hashed_fields(Dog, {"legs": 4, "tag": "x"}) == {"legs": 4}
