"""A grid of probes that train at once ends where each of them alone would."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from command import call, results
from peft_vision.models.observations import FeatureTable
from peft_vision.optimizer.base import Fitting
from peft_vision.optimizer.grid import Grid
from peft_vision.schedule.schedules import Constant

LRS, DECAYS = [1e-2, 0.1], [0, 0.1]
COMMON = ("experiment=smoke", "method=linear", "data.train_size=100", "data.val_fraction=0.3", "trainer.epochs=4")


def run(folder, *arguments: str):
    outcome = call(*COMMON, *arguments, f"runs={folder}", cwd=folder.parent)
    assert outcome.code == 0, outcome
    (path,) = results(folder)
    return json.loads(path.read_text()), load_file(path.parent / "adapter.safetensors")


@pytest.mark.parametrize("algorithm", ["adamw", "sgd"])
def test_every_member_equals_its_own_run_and_the_best_is_kept(algorithm, tmp_path):
    values = (f"optimizer.lr={LRS}", f"optimizer.weight_decay={DECAYS}", f"optimizer.algorithm={algorithm}")
    grid, adapter = run(tmp_path / "grid", "optimizer=grid", *values)
    alone = {}
    for lr in LRS:
        for decay in DECAYS:
            setting = (f"optimizer={algorithm}", f"optimizer.lr={lr}", f"optimizer.weight_decay={decay}")
            alone[lr, decay] = run(tmp_path / f"{lr}-{decay}", *setting)
    tried = grid["selection"]["tried"]
    assert [(row["lr"], row["weight_decay"]) for row in tried] == list(alone)
    for row, (result, _) in zip(tried, alone.values(), strict=True):
        assert row["val/accuracy"] == pytest.approx(result["metrics"]["val/accuracy"])
        assert row["val/loss"] == pytest.approx(result["metrics"]["val/loss"], rel=1e-4)
    chosen = grid["selection"]["chosen"]
    expected = max(tried, key=lambda row: (row["val/accuracy"], -row["val/loss"]))
    assert chosen == {"lr": expected["lr"], "weight_decay": expected["weight_decay"]}
    result, tensors = alone[chosen["lr"], chosen["weight_decay"]]
    for name, tensor in tensors.items():
        torch.testing.assert_close(adapter[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert grid["metrics"] == pytest.approx(result["metrics"], rel=1e-4)
    assert grid["test_reads"] == 1


def test_members_of_other_rates_end_elsewhere(tmp_path):
    grid, _ = run(tmp_path / "grid", "optimizer=grid", "optimizer.lr=[1e-3,1e-2,0.1]", "optimizer.weight_decay=[0,0.5]")
    losses = [row["train/loss"] for row in grid["selection"]["tried"]]
    assert len(set(losses)) == len(losses) == 6


@pytest.mark.parametrize("algorithm", ["adamw", "sgd"])
def test_a_decay_is_of_the_matrix_and_not_of_the_bias(algorithm):
    """On features of zeros the bias is all there is, and the loss of each setting its own."""
    blank = FeatureTable(torch.arange(9) % 4 // 2, torch.zeros(9, 3))
    grid = Grid(algorithm=algorithm, lr=(0.1,), weight_decay=(0.0, 5.0), betas=(0.9, 0.999), momentum=0.9, seeds=None)
    fitting = Fitting(epochs=10, batch_size=9, label_smoothing=0.0, schedule=Constant(warmup=0.0), seed=0)
    head = torch.nn.Linear(3, 2)
    solution = grid.solve(head, blank, None, fitting)
    without, decayed = (row["train/loss"] for row in solution.tried)
    assert decayed == pytest.approx(without, rel=1e-6)
    assert solution.chosen == {"lr": 0.1, "weight_decay": 0.0}
    one = replace(grid, weight_decay=(5.0,)).solve(head, blank, None, fitting)
    torch.testing.assert_close(one.bias, solution.bias)
    assert one.weight.norm() < 0.1 * solution.weight.norm()


def test_one_setting_needs_no_validation_images(tmp_path):
    one = ("optimizer=grid", "optimizer.lr=[0.01]", "optimizer.weight_decay=[0]", "data.val_fraction=0")
    grid, _ = run(tmp_path / "grid", *one)
    assert grid["selection"]["rule"] == "the only one"
    assert "val/accuracy" not in grid["metrics"]
