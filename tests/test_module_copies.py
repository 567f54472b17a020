"""Modules that tests copy in half the time are copied as Python does."""

import copy

import pytest
import torch
from torch import nn

from conftest import tiny_vit
from module_copies import copied_quickly, copied_slowly
from shipped import adapted


class Counted(nn.Module):
    """A module that says what its state is: a copy of it counts from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 3

    def __getstate__(self) -> dict:
        return {**vars(self), "calls": 0}


class Tied(nn.Module):
    """Two names of one parameter, of one module and of one dictionary, a module that refers to the whole, and a
    function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(2, 2)
        self.weight, self.note = self.first.weight, {"of": [self.first]}
        self.same, self.counted, self.function = self.note, Counted(), lambda: self
        object.__setattr__(self.counted, "whole", self)
        self.register_buffer("table", torch.arange(4).view(2, 2).T)


def described(whole: nn.Module) -> list:
    """What a module and all below are: classes, modes, further attributes, and tensors with their kind and layout."""
    of_modules = [
        (name, type(module), module.training, [(key, type(value)) for key, value in vars(module).items()])
        for name, module in whole.named_modules()
    ]
    tensors = [*whole.named_parameters(remove_duplicate=False), *whole.named_buffers()]
    kinds = [(name, type(tensor), tensor.requires_grad, tensor.stride(), tensor.dtype) for name, tensor in tensors]
    return [of_modules, kinds, [(name, tensor.tolist()) for name, tensor in tensors]]


@pytest.mark.parametrize("way", [copied_quickly, copied_slowly])
def test_what_is_one_stays_one_and_nothing_is_shared(way):
    whole = Tied()
    with way():
        twin = copy.deepcopy(whole)
    assert twin.first is twin.second is not whole.first
    assert twin.first.weight is twin.weight is not whole.weight
    assert twin.note is twin.same is not whole.note
    assert twin.note["of"][0] is twin.first
    assert twin.counted.whole is twin
    assert (twin.counted.calls, whole.counted.calls) == (0, 3)
    assert twin.function is whole.function
    assert described(twin) == described(whole)


@pytest.mark.parametrize("method", ["full", "head2toe", "ssf", "vqt_vpt"])
def test_a_model_is_copied_as_python_does(method):
    model = adapted(method)
    with copied_slowly():
        assert not hasattr(nn.Module, "__deepcopy__")
        expected = described(copy.deepcopy(model))
    assert described(copy.deepcopy(model)) == expected == described(model)
    memory = {tensor.data_ptr() for tensor in copy.deepcopy(model).state_dict().values()}
    assert memory.isdisjoint(tensor.data_ptr() for tensor in model.state_dict().values())


def test_what_a_test_changes_of_a_backbone_is_its_own():
    with torch.no_grad():
        tiny_vit().norm.weight.zero_()
    assert tiny_vit().norm.weight.all()
