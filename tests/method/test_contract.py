"""What every method owes, whichever it is."""

import copy

import pytest
import torch
from torch.nn import functional as F

import peft_vision
from conftest import tiny_vit
from peft_vision.model import Model
from shipped import METHODS, adapted, option

OWN = [(method, option("method", method)["layers"]) for method in METHODS]
IN_LAYERS = list(dict.fromkeys([*OWN, *((method, "last-1") for method in METHODS if method != "linear")]))


def train_steps(model: Model, images: torch.Tensor, labels: torch.Tensor, *, steps: int = 2) -> None:
    tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(tuned, lr=0.01, eps=1e-30)  # so that small gradients move their weights too
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def test_the_shipped_methods_were_found():
    assert {"linear", "full", "vpt_shallow", "vpt_deep", "lora", "vqt_lora"} <= set(METHODS)


@pytest.mark.parametrize(("method", "layers"), IN_LAYERS)
def test_what_moves_is_what_trains(method, layers, images, labels):
    model = adapted(method, layers=layers)
    before = copy.deepcopy(model.state_dict())
    tuned = model.tuned_state().keys()
    train_steps(model, images, labels)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(tuned)


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


@pytest.mark.parametrize(("method", "layers"), IN_LAYERS)
def test_checkpointing_changes_no_gradient(method, layers, images, labels):
    plain = adapted(method, layers=layers)
    recomputed = copy.deepcopy(plain)
    recomputed.encoder.set_checkpointing(True)
    for model in (plain, recomputed):
        torch.manual_seed(0)  # for equal dropout
        F.cross_entropy(model(images), labels).backward()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters() if parameter.requires_grad}
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed.get_parameter(name).grad, gradient, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_a_deepcopy_gives_the_same_logits_and_trains_apart(method, images, labels):
    model = adapted(method).eval()
    twin = copy.deepcopy(model)
    logits = model(images)
    assert torch.equal(twin(images), logits)
    train_steps(twin, images, labels)
    assert torch.equal(model(images), logits)


@pytest.mark.parametrize(("method", "layers"), IN_LAYERS)
def test_save_and_load_give_identical_logits(method, layers, images, labels, tmp_path):
    model = adapted(method, layers=layers)
    train_steps(model, images, labels)
    peft_vision.save(model, tmp_path / "adapter.safetensors")
    loaded = peft_vision.load(tmp_path / "adapter.safetensors", tiny_vit())
    assert torch.equal(loaded(images), model.eval()(images))


@pytest.mark.parametrize("method", METHODS)
def test_the_users_backbone_stays_as_it_was(method, images, labels):
    vit = tiny_vit()
    before = copy.deepcopy(vit)
    train_steps(peft_vision.adapt(vit, method=method, num_classes=4), images, labels)
    assert all(parameter.requires_grad for parameter in vit.parameters())
    assert vit.state_dict().keys() == before.state_dict().keys()
    assert torch.equal(vit.eval()(images), before.eval()(images))


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
@pytest.mark.parametrize("method", METHODS)
def test_every_pooling_works(method, pool, images, labels):
    model = adapted(method, architecture={"global_pool": pool})
    train_steps(model, images, labels)
    assert model(images).shape == (5, 4)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_alone_decides_the_new_parameters(method):
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        states.append(adapted(method, seed=5).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("method", METHODS)
def test_attaching_leaves_the_global_random_state_alone(method):
    vit = tiny_vit()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    peft_vision.adapt(vit, method=method, num_classes=4)
    assert torch.equal(torch.get_rng_state(), before)
