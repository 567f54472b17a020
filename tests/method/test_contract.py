"""What every method owes, whichever it is."""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F

import peft_vision
from conftest import tiny_vit
from peft_vision.core.config_files import CONFIG_DIR, ConfigFiles
from peft_vision.models.model import Model
from peft_vision.testing import METHOD_CHECKS, a_copy_trains_apart, every_pooling_works, the_seed_alone_decides
from shipped import METHODS, adapted

FILES = ConfigFiles([CONFIG_DIR])  # which takes a tenth of the time of Hydra, for all processes that collect the tests
OWN = [(method, FILES.composed({"method": method}).at("method.layers")) for method in METHODS]
ANYWHERE = (the_seed_alone_decides, a_copy_trains_apart, every_pooling_works)
"""Checks that layers do not matter to: one set of them is enough."""
CASES = [(check, *own) for check in METHOD_CHECKS for own in OWN]
CASES += [
    (check, method, "last-1")
    for check in METHOD_CHECKS
    for method, layers in OWN
    if method != "linear" and layers != "last-1" and check not in ANYWHERE
]


def train_steps(model: Model, images: torch.Tensor, labels: torch.Tensor, *, steps: int = 2) -> None:
    tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(tuned, lr=0.01, eps=1e-30)  # so that small gradients move their weights too
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


@pytest.mark.parametrize(("check", "method", "layers"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_shipped_method_passes_the_checks_for_own_ones(check, method, layers):
    check(partial(adapted, method, layers=layers))


def test_the_shipped_methods_were_found():
    assert {"linear", "full", "vpt_shallow", "vpt_deep", "lora", "vqt_lora"} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_every_trained_tensor_gets_a_gradient_within_two_steps(method, images, labels):
    """Not all in the first, for a factor that starts at zero hides the other."""
    model = adapted(method)
    train_steps(model, images, labels, steps=1)
    F.cross_entropy(model(images), labels).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize("method", METHODS)
def test_the_users_backbone_stays_as_it_was(method, images, labels):
    vit = tiny_vit()
    before = copy.deepcopy(vit)
    train_steps(peft_vision.adapt(vit, method=method, num_classes=4), images, labels)
    assert all(parameter.requires_grad for parameter in vit.parameters())
    assert vit.state_dict().keys() == before.state_dict().keys()
    assert torch.equal(vit.eval()(images), before.eval()(images))
