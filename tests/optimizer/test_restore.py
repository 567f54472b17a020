"""An optimizer goes on from its own state alone."""

import copy

import pytest
import torch
from torch import nn

from peft_vision.core.tensor_files import Damaged
from peft_vision.optimizer.low_rank import Following, LowRankProjection
from peft_vision.optimizer.projection import Subspaces
from peft_vision.optimizer.restore import restore
from peft_vision.optimizer.rule import AdamRule


def low_rank(parameters: list[nn.Parameter]) -> LowRankProjection:
    following = Following(Subspaces(2, "std", "svd", False), 3, None, False, "keep", 1.0, "fira", bits=32, seed=0)
    rule = AdamRule((0.9, 0.999), 1e-8, eps_first=False)
    options = {
        "rule": rule,
        "following": following,
        "lr": 0.1,
        "weight_decay": 0.0,
        "decay_first": True,
    }
    return LowRankProjection(parameters[:1], [{"params": parameters[1:], "weight_decay": 0.0}], **options)


MAKERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "low rank": low_rank,
}


def stepped(make) -> torch.optim.Optimizer:
    parameters = [nn.Parameter(torch.ones(5, 4)), nn.Parameter(torch.ones(4))]
    stepper = make(parameters)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    stepper.step()
    return stepper


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.fixture
def saved(make) -> dict:
    return copy.deepcopy(stepped(make).state_dict())


def moments(saved: dict) -> list[tuple[dict, str]]:
    """The tensors that are as large as a parameter or its coordinates."""
    found = [(state, key) for state in saved["state"].values() for key in state]
    return [(state, key) for state, key in found if isinstance(state[key], torch.Tensor) and state[key].ndim]


def test_its_own_state_is_put_back(make, saved):
    fresh = stepped(make)
    restore(fresh, saved)
    assert [key for _, key in moments(saved)]
    for (state, key), (again, _) in zip(moments(saved), moments(fresh.state_dict()), strict=True):
        assert torch.equal(state[key], again[key])


@pytest.mark.parametrize("spoil", [torch.Tensor.double, torch.Tensor.int, lambda t: torch.cat([t, t]), lambda t: t[:1]])
def test_no_moment_of_another_type_or_shape_is_taken(spoil, make, saved):
    for state, key in moments(saved):
        sound, state[key] = state[key], spoil(state[key])
        with pytest.raises(Damaged, match="its optimizer is none of this run's"):
            restore(stepped(make), saved)
        state[key] = sound
    restore(stepped(make), saved)


@pytest.mark.parametrize(
    "spoiled", [None, [], {}, {"state": {}}, {"state": [], "param_groups": [{}]}, {"param_groups": 3}]
)
def test_what_is_no_state_is_damaged(spoiled, make):
    with pytest.raises(Damaged):
        restore(stepped(make), spoiled)


def test_a_state_of_other_parameters_is_damaged():
    saved = stepped(MAKERS["adamw"]).state_dict()
    with pytest.raises(Damaged):
        restore(torch.optim.AdamW([nn.Parameter(torch.ones(5, 4))]), saved)
