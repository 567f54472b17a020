"""What is projected of a model, and what a run with it says, reports and refuses."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from command import call, results, run_folder
from peft_vision.core.config import ConfigError, build
from peft_vision.optimizer.base import SGD, Optimizer
from peft_vision.optimizer.galore import GaLore
from peft_vision.training.trainer import Trainer
from preloaded import measured_in_forks
from shipped import adapted
from test_trainer import fit

PLAIN = {
    "algorithm": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "momentum": 0.9,
    "matrices": r"blocks\..*\.(qkv|proj|fc1|fc2)\.weight",
    "rank": 4,
    "side": "std",
    "basis": "eigh",
    "gap": 2,
    "adaptive_gap": None,
    "staggered": True,
    "moments": "rotate",
    "scale": 1.0,
    "update": "low_rank",
    "bits": 32,
    "per_layer": False,
    "conventions": "torch",
}
TRAINER = {
    "epochs": 1,
    "batch_size": 8,
    "accumulate": 1,
    "eval_batch_size": 8,
    "clip_norm": None,
    "label_smoothing": 0.0,
    "precision": "fp32",
    "checkpointing": False,
    "compile": False,
    "save_seconds": 100.0,
    "keep": "last",
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
    "keep_predictions": False,
}
GALORE = ("experiment=smoke", "method=full", "optimizer=galore_adamw", "optimizer.rank=4", "optimizer.gap=2")


def galore(**options) -> GaLore:
    return GaLore(**{**PLAIN, **options})


BASES = ["svd", "eigh", "randomised", "power", "random"]


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("update", ["low_rank", "fira", "apollo"])
@pytest.mark.parametrize("side", ["std", "reverse_std", "left", "right", "full"])
def test_every_combination_is_a_projection_or_refused(basis, update, side):
    """What the update takes for the part of a gradient within the subspace is that part: applied to it again, nothing
    changes. apollo asks for no more than that lengths are kept in the mean."""
    options = {"basis": basis, "update": update, "side": side, "moments": "keep"}
    try:
        stepper = galore(**options).create(adapted("full"), seed=0)
    except ValidationError:
        assert (update != "low_rank" and side == "full") or (basis == "random" and update != "apollo")
        return
    assert not (basis == "random" and update != "apollo")
    for shape in ((12, 8), (8, 12), (8, 8)):
        slope = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        projection = stepper._following.subspaces.of(slope, before=None, seed=3)
        within, again = torch.zeros(shape), torch.zeros(shape)
        projection.add_up(within, projection.down(slope), alpha=1.0)
        projection.add_up(again, projection.down(within), alpha=1.0)
        if basis != "random":
            torch.testing.assert_close(again, within, rtol=1e-4, atol=1e-5)
            assert (slope - within).norm() < slope.norm()


def subspaces(seed: int, basis: str, *, steps: int = 1, **options) -> list[torch.Tensor]:
    """Of each projected matrix after some steps, of an optimizer with this seed."""
    model = adapted("full")
    stepper = galore(basis=basis, moments="keep", **options).create(model, seed=seed)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(steps):
        stepper.step()
    states = [stepper.state[parameter] for parameter in stepper.param_groups[0]["params"]]
    return [state.get("left", state.get("right")) for state in states]


def test_random_vectors_are_those_of_the_runs_seed():
    random = {"basis": "random", "update": "apollo", "staggered": False}
    first, again, other = (subspaces(seed, **random) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    assert not torch.equal(first[0], first[4])  # the same matrix of two layers
    assert all(map(torch.equal, first, subspaces(0, steps=2, **random)))
    assert not any(map(torch.equal, first, subspaces(0, steps=3, **random)))  # drawn anew with every gap


@pytest.mark.parametrize("basis", ["svd", "eigh", "power"])
def test_what_the_gradient_decides_depends_on_no_seed(basis):
    assert all(map(torch.equal, *(subspaces(seed, basis) for seed in (0, 1))))


def test_the_seed_of_a_run_reaches_its_optimizer(monkeypatch):
    """Each phase has its own; every process the same."""
    seen = []
    create = SGD.create

    def noted(self, model, *, seed):
        seen.append(seed)
        return create(self, model, seed=seed)

    monkeypatch.setattr(SGD, "create", noted)
    for seed in (0, 0, 1):
        fit(adapted("linear"), epochs=1, seed=seed)
    assert seen[0] == seen[1] != seen[2]


def groups(method: str, **options) -> list[tuple[bool, float, int]]:
    """Whether projected, the decay and how many, of each group."""
    stepper = galore(**options).create(adapted(method), seed=0)
    return [(group["projected"], group["weight_decay"], len(group["params"])) for group in stepper.param_groups]


def test_the_matrices_of_all_blocks_are_projected_and_everything_else_trains_as_ever():
    whole = adapted("full")
    stepper = galore().create(whole, seed=0)
    projected, *others = stepper.param_groups
    assert len(projected["params"]) == 4 * 3
    assert projected["weight_decay"] == 0.01
    all_others = [p for group in others for p in group["params"]]
    trained = {id(p) for p in whole.parameters() if p.requires_grad}
    assert {id(p) for p in [*projected["params"], *all_others]} == trained
    assert [group["weight_decay"] for group in others] == [0.01, 0.0]


def test_any_methods_matrices_can_be_projected():
    assert groups("lora", matrices=r"\.(down|up)", rank=2)[0][:2] == (True, 0.01)


def test_what_is_projected_is_said_with_its_size(caplog):
    with caplog.at_level("INFO", logger="peft_vision"):
        galore().create(adapted("full"), seed=0)
    assert "3 blocks.N.attn.qkv.weight (" in caplog.text
    assert "parameters at rank 4; the other" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"matrices": "conv"},
            r"optimizer.matrices: 'conv' matches no matrix; of those that train .*3 blocks.N.attn",
        ),
        ({"rank": 5000}, r"optimizer.rank: got 5000, and blocks.\d.attn.\w+.weight is \d+ x \d+; at most \d+"),
        ({"matrices": "bias"}, "optimizer.matrices: 'bias' matches no matrix"),
    ],
)
def test_what_cannot_be_projected_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        galore(**options).check(adapted("full"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "optimizer.rank: got 0, should be greater than 0"),
        ({"matrices": "("}, "optimizer.matrices: got '[(]', no regular expression: .*"),
        ({"gap": 0}, "optimizer.gap: got 0, .*"),
        ({"bits": 4}, "optimizer.bits: got 4, should be 8 or 32"),
        ({"basis": "random"}, "optimizer: basis=random has no coordinates to follow; .*"),
        ({"update": "fira", "side": "full"}, "optimizer: update=fira .*side=full has none"),
        (
            {"basis": "random", "moments": "keep"},
            "optimizer: basis=random are no .* update=low_rank",
        ),
        (
            {"basis": "random", "moments": "keep", "update": "fira"},
            "optimizer: basis=random are no .*update=fira steps along those of a subspace; .* update=apollo",
        ),
        ({"conventions": "galore_torch"}, "optimizer: conventions=galore_torch takes basis=svd, not eigh"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    node = {"_target_": "peft_vision.optimizer.galore.GaLore", **PLAIN, **options}
    with pytest.raises(ConfigError, match=message):
        build(node, Optimizer, "optimizer")


def test_a_missing_library_comes_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("peft_vision.core.bitsandbytes.is_installed", lambda: False)
    node = {"_target_": "peft_vision.optimizer.galore.GaLore", **PLAIN, "bits": 8}
    with pytest.raises(ConfigError, match=r"optimizer.bits: .*pip install 'peft-vision\[bits8\]'"):
        build(node, Optimizer, "optimizer")


def read(runs: Path) -> dict[str, Any]:
    """The result of the one run."""
    return json.loads((run_folder(runs) / "result.json").read_text())


def test_a_run_reports_its_state_gradients_and_refreshes(tmp_path):
    outcome = call(*GALORE, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    result = read(tmp_path / "runs")
    footprint = result["optimizer"]
    assert footprint["refreshes"] >= 24
    assert footprint["refresh_seconds"] > 0
    assert footprint["gradient_bytes"] == 4 * (result["parameters"]["method"] + result["parameters"]["head"])
    assert footprint["state_bytes"] < 2 * footprint["gradient_bytes"]
    assert "MiB of state" in outcome.out
    assert "refreshes in" in outcome.out


def test_torchs_optimizers_report_theirs(tmp_path):
    assert call("experiment=smoke", "method=full", "optimizer=adamw", cwd=tmp_path).code == 0
    result = read(tmp_path / "runs")
    footprint = result["optimizer"]
    tensors = 4 * len(list(adapted("full").parameters()))  # and a step count of each parameter
    assert 0 <= footprint["state_bytes"] - 2 * footprint["gradient_bytes"] < 10 * tensors
    assert footprint["refreshes"] == 0


def test_per_layer_ends_in_the_same_weights(tmp_path):
    for name, per_layer in (("whole", "false"), ("layers", "true")):
        assert call(*GALORE, f"optimizer.per_layer={per_layer}", f"runs={name}", cwd=tmp_path).code == 0
    whole, layers = (read(tmp_path / name) for name in ("whole", "layers"))
    assert whole["metrics"] == layers["metrics"]
    assert layers["optimizer"]["gradient_bytes"] < whole["optimizer"]["gradient_bytes"] / 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trainer.accumulate=2",), "trainer.accumulate=2"),
        (("trainer.clip_norm=1",), "trainer.clip_norm=1.0"),
    ],
)
def test_per_layer_refuses_what_needs_all_gradients(arguments, message, tmp_path):
    error = call(*GALORE, "optimizer.per_layer=true", *arguments, cwd=tmp_path).error
    assert error.startswith("optimizer.per_layer: frees each gradient at once; it goes without ")
    assert message in error
    assert results(tmp_path) == []


def test_per_layer_refuses_several_processes():
    with pytest.raises(ConfigError, match="2 processes, which average theirs"):
        Trainer(**TRAINER).check(galore(per_layer=True), group="optimizer", processes=2)
    Trainer(**TRAINER).check(galore(per_layer=True), group="optimizer", processes=1)
    Trainer(**TRAINER).check(galore(), group="optimizer", processes=2)


def test_a_bench_measures_only_what_a_run_would_do(tmp_path):
    bench = ("task=bench", "backbone=vit_micro", "optimizer=galore_adamw", "optimizer.rank=4", "task.methods=[full]")
    error = call(*bench, "optimizer.per_layer=true", "trainer.accumulate=2", cwd=tmp_path).error
    assert error.startswith("optimizer.per_layer: ")
    few = ("backbone.architecture.depth=2", "trainer.batch_size=4", "task.repeats=1", "task.warmup=1")
    with measured_in_forks():
        outcome = call(*bench, "optimizer.matrices=convs", *few, cwd=tmp_path)
    assert "optimizer.matrices: 'convs' matches no matrix" in outcome.out
    assert outcome.code == 1


@pytest.mark.parametrize("arguments", [("optimizer.rank=500",), ("optimizer.matrices=convs",), ("method=linear",)])
def test_a_run_that_cannot_be_projected_stops_before_it_begins(arguments, tmp_path):
    error = call(*GALORE, *arguments, cwd=tmp_path).error
    assert error.startswith("optimizer.")
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*/metrics.jsonl"))


@pytest.mark.parametrize("option", ["galore_adamw", "galore_sgd", "galore_torch", "apollo"])
def test_every_shipped_optimizer_that_projects_runs(option, tmp_path):
    outcome = call("experiment=smoke", "method=full", f"optimizer={option}", "optimizer.rank=4", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert read(tmp_path / "runs")["optimizer"]["refreshes"] > 0
