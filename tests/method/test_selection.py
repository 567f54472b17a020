"""Choosing features by a group lasso, as phases of a training."""

import copy

import pytest
import torch
from torch import nn

import peft_vision
from conftest import tiny_vit
from peft_vision.method.selection import Columns, head_columns, selection_phases
from shipped import adapted


def build(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 3))


def test_the_columns_with_the_largest_weights_are_kept_in_order():
    _, retrain = selection_phases(keep_fraction=0.5, lasso=1e-4)
    old = build(6)
    old[0].weight.data = torch.tensor([3.0, 0.1, 2.0, 0.2, 0.3, 1.0]) * torch.tensor([[1.0], [-2.0], [0.5]])
    head = retrain.head(old, build)
    assert head[0].index.tolist() == [0, 2, 5]
    features = torch.arange(12.0).view(2, 6)
    assert torch.equal(head[0](features), features[:, [0, 2, 5]])
    assert head_columns(head).shape == (3, 3)


def test_a_column_counts_by_its_length():
    """By its L2 norm, which the lasso sums; by L1 or by the largest entry others would be kept."""
    _, retrain = selection_phases(keep_fraction=0.5, lasso=1e-4)
    old = build(4)
    old[0].weight.data = torch.tensor([[3.0, 0.0, 0.0], [2.0, 2.0, 0.5], [2.0, 2.0, 2.0], [3.2, 0.0, 0.0]]).T
    assert retrain.head(old, build)[0].index.tolist() == [2, 3]
    old[0].weight.data = torch.tensor([[2.0, 2.0, 0.0], [2.9, 0.0, 0.0], [0.5, 0.5, 0.5], [1.7, 1.7, 1.5]]).T
    assert retrain.head(old, build)[0].index.tolist() == [1, 3]


@pytest.mark.parametrize(("fraction", "kept"), [(0.7, 8), (0.01, 1), (1.0, 12)])
def test_the_share_is_cut_down_to_whole_features(fraction, kept):
    _, retrain = selection_phases(keep_fraction=fraction, lasso=1e-4)
    assert len(retrain.head(build(12), build)[0].index) == kept


def test_a_group_of_zeros_stays_zero():
    columns = Columns(None, torch.tensor([0, 0, 1, 1]))
    assert columns(torch.tensor([[3.0, 4.0, 0.0, 0.0]])).tolist() == [[pytest.approx(0.6), pytest.approx(0.8), 0, 0]]


def test_queries_train_first_and_then_the_head_alone(images, labels):
    model = adapted("vqt", keep_fraction=0.5)
    assert [phase.name for phase in model.phases] == ["train", "select", "retrain"]
    trains = []
    for _ in range(2):
        trains.append([name for name, parameter in model.named_parameters() if parameter.requires_grad])
        model.begin_next_phase(seed=0)
    assert any(name.startswith("readout.") for name in trains[0])
    assert all(name.startswith("head.") for name in trains[1])
    assert model.parameter_counts().method == adapted("vqt").parameter_counts().method
    assert not model.train().readout.training
    features = 32 + 3 * 32
    assert head_columns(model.head).shape == (4, features // 2)


def test_as_released_both_phases_of_choosing_have_half_the_rate_and_drop_out_of_the_queries(images):
    """andytu28/VQT, head2toe_sparsity_train.py: `setup` halves the rate in both modes; h2t_sparsity_trainer.py calls
    model.train(), which turns on the dropout of the frozen queries."""
    released = adapted("vqt", keep_fraction=0.5, selects_as_released=True, dropout=0.5)
    ours = adapted("vqt", keep_fraction=0.5, dropout=0.5)
    assert [phase.lr_factor for phase in released.phases] == [1.0, 0.5, 0.5]
    assert [phase.lr_factor for phase in ours.phases] == [1.0, 0.5, 1.0]
    for _ in range(2):
        for model, drops in ((released, True), (ours, False)):
            model.begin_next_phase(seed=0)
            model.train()
            assert torch.equal(model.features(images), model.features(images)) is not drops
            assert not any(parameter.requires_grad for parameter in model.readout.parameters())
            model.eval()
            assert torch.equal(model.features(images), model.features(images))


def test_a_model_of_any_phase_is_saved_and_loaded(images, tmp_path):
    model = adapted("vqt", keep_fraction=0.5)
    for number in range(3):
        torch.manual_seed(number)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        expected = copy.deepcopy(model).eval()(images)
        peft_vision.save(model, tmp_path / "adapter.safetensors")
        assert torch.equal(peft_vision.load(tmp_path / "adapter.safetensors", tiny_vit())(images), expected)
        if number < 2:
            model.begin_next_phase(seed=0)
