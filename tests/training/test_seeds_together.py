"""Several seeds of a method train in the same steps, and each ends as its run alone would."""

import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file

from command import call, results
from composed import composed
from conftest import tiny_vit
from peft_vision.core.config import ConfigError
from peft_vision.core.stopping import Stopped
from peft_vision.models.model import Model
from peft_vision.training.members import best_setting
from peft_vision.training.together import fit_together
from peft_vision.training.train_state import TrainState
from peft_vision.training.trainer import Trainer
from shipped import adapted_to
from test_together import METHODS, RATES, alone, grid, together, training
from test_trainer import PLAIN, assert_same_weights, random_images

SEEDS = (3, 0, 5)
ONE_DECAY = {"decays": (0.0,), "seeds": SEEDS}
OWN = {"vpt_deep": {"dropout": 0.0}, "bitfit": {}, "vqt": METHODS["vqt"], "fact_tt": METHODS["fact_tt"]}
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def begun(method: str, **options) -> dict[int, Model]:
    """The models with which the run of each seed begins."""
    return {seed: adapted_to(tiny_vit(depth=2), method, seed=seed, **options) for seed in SEEDS}


def others(models: dict[int, Model]) -> dict[int, dict[str, torch.Tensor]]:
    return {seed: copy.deepcopy(model.tuned_state()) for seed, model in models.items() if seed}


@pytest.mark.parametrize(("method", "rates"), [("lora", RATES), *((each, RATES[:1]) for each in OWN)])
def test_each_setting_of_each_seed_ends_as_its_run_alone_would(method, rates):
    models, solver = begun(method, **OWN.get(method, {})), grid(rates=rates, **ONE_DECAY)
    state = TrainState()
    trained = together(copy.deepcopy(models[0]), solver, initial=others(models), state=state, accumulate=2)
    singles = [single for seed in SEEDS for single in alone(models[seed], solver, seed=seed, accumulate=2)]
    assert [(member.seed, member.setting["lr"]) for member in trained.members] == [
        (seed, lr) for seed in SEEDS for lr in rates
    ]
    for member, single in zip(trained.members, singles, strict=True):
        assert_same_weights(single, member.model, **CLOSE)
    ends = [member.model.head.state_dict() for member in trained.members]
    assert not any(torch.equal(end[name], ends[0][name]) for end in ends[1:] for name in end)
    assert sorted(state.of_seeds) == [3, 5]


def test_tokens_that_are_computed_once_are_each_seeds_own():
    models, solver = begun("lora", layers="last-1"), grid(rates=(0.2,), **ONE_DECAY)
    for model in models.values():
        model.round_observations_to(torch.float16)
    singles = [alone(model, solver, seed=seed)[0] for seed, model in models.items()]
    for member, single in zip(together(models[0], solver, initial=others(models)).members, singles, strict=True):
        assert_same_weights(single, member.model, **CLOSE)


def test_the_model_and_the_state_have_the_chosen_setting_of_every_seed():
    models, state = begun("lora"), TrainState()
    trained = together(models[0], grid(**ONE_DECAY), initial=others(models), state=state, keep="best", epochs=3)
    tuned = {0: models[0].tuned_state(), **state.of_seeds}

    def holds(member) -> bool:
        return all(torch.equal(tuned[member.seed][name], tensor) for name, tensor in member.model.tuned_state().items())

    held = {member.setting["lr"]: holds(member) for member in trained.members}
    assert sorted(held.values()) == [False, True]
    assert [holds(member) for member in trained.members] == [*held.values()] * len(SEEDS)


def test_a_setting_is_chosen_by_its_mean_over_the_seeds():
    def row(accuracy: float, loss: float = 1.0) -> dict[str, float]:
        return {"train/loss": loss, "val/accuracy": accuracy, "val/loss": loss}

    of_seeds = [[row(0.9), row(0.7)], [row(0.5), row(0.8)]]
    assert best_setting([each for rows in of_seeds for each in rows], num_settings=2) == 1
    assert best_setting([row(0.9), row(0.1), row(0.9, math.inf), row(0.1)], num_settings=2) == 1  # one seed diverged
    assert best_setting([row(0.5), row(0.5)], num_settings=2) == 0


def test_seeds_that_stopped_go_on_to_the_same_weights():
    models, images = begun("lora"), (random_images(21), random_images(8))
    first, solver = others(models), grid(**ONE_DECAY)
    whole, halted, resumed = (copy.deepcopy(models[0]) for _ in range(3))
    trainer = Trainer(**{**PLAIN, "save_seconds": 0.0})
    ended = TrainState()
    expected = fit_together(whole, *images, training(ended, initial=first), solver=solver, trainer=trainer)
    saved = []

    def stop(state: TrainState) -> None:
        saved.append(copy.deepcopy(state))
        raise Stopped(15)

    with pytest.raises(Stopped):
        fit_together(halted, *images, training(save=stop, initial=first), solver=solver, trainer=trainer)
    (state,) = saved
    assert_same_weights(models[0], halted, rtol=0, atol=0)  # what a state holds besides is what the run began with
    assert fit_together(resumed, *images, training(state, initial=first), solver=solver, trainer=trainer) == expected
    assert_same_weights(whole, resumed, rtol=0, atol=0)
    for seed, tuned in ended.of_seeds.items():
        assert all(torch.equal(tuned[name], tensor) for name, tensor in state.of_seeds[seed].items())


def test_a_setting_that_diverges_takes_no_seed_with_it():
    models, solver = begun("lora"), grid(rates=(0.05, 1e30), **ONE_DECAY)
    (expected,) = alone(copy.deepcopy(models[0]), grid(rates=(0.05,), decays=(0.0,)))
    together(models[0], solver, initial=others(models))
    assert_same_weights(expected, models[0], **CLOSE)
    with pytest.raises(ConfigError, match=r"^the training loss of every setting .* became infinite with one seed"):
        together(models[0], grid(rates=(1e30,), **ONE_DECAY), initial=others(models))


def test_one_setting_needs_no_validation_images():
    models, state = begun("lora"), TrainState()
    solver = grid(rates=(0.2,), **ONE_DECAY)
    expected = alone(models[0], solver)[0]
    images = random_images(21, augment="flip_crop")
    selection = fit_together(
        models[0], images, None, training(state, initial=others(models)), solver=solver, trainer=Trainer(**PLAIN)
    )
    assert (selection["settings"], selection["rule"], len(selection["tried"])) == (1, "the only one", len(SEEDS))
    assert_same_weights(expected, models[0], **CLOSE)
    assert sorted(state.of_seeds) == [3, 5]


def test_dropout_is_refused_as_for_one_seed():
    models = begun("adaptformer", dropout=0.1)
    with pytest.raises(ConfigError, match="set the rates of dropout and drop_path to 0"):
        together(models[0], grid(**ONE_DECAY), initial=others(models))


def test_the_seeds_of_single_runs_are_what_the_command_trains(pretrained, tmp_path):
    """Their results are those of the runs alone, on the test images too."""
    words = ("experiment=smoke", "method=lora", "data.augment=flip_crop", pretrained)
    solved = ("optimizer=grid", "optimizer.algorithm=sgd", "optimizer.lr=[0.02,0.1]", "optimizer.weight_decay=[0]")
    outcome = call(*words, *solved, "optimizer.seeds=[0,7]", "runs=grid", cwd=tmp_path)
    assert outcome.code == 0, outcome
    assert "2 settings with each of 2 seeds train in the same steps, as each would alone" in outcome.out
    (path,) = results(tmp_path / "grid")
    result = json.loads(path.read_text())
    selection, seeds = result["selection"], result["seeds"]
    assert [(row["seed"], row["lr"]) for row in selection["tried"]] == [(0, 0.02), (0, 0.1), (7, 0.02), (7, 0.1)]
    assert selection["settings"] == 2
    assert selection["rule"].endswith(", both as means over 2 seeds")
    means = [sum(row["val/accuracy"] for row in selection["tried"][place::2]) for place in range(2)]
    assert selection["chosen"]["lr"] == (0.02, 0.1)[means.index(max(means))]
    rate = f"optimizer.lr={selection['chosen']['lr']}"
    single = ("optimizer=sgd", rate, "optimizer.weight_decay=0")
    assert [row["seed"] for row in seeds] == [0, 7]
    for row in seeds:
        alone = call(*words, *single, f"seed={row['seed']}", f"runs=alone{row['seed']}", cwd=tmp_path)
        assert alone.code == 0, alone
        (path,) = results(tmp_path / f"alone{row['seed']}")
        metrics = json.loads(path.read_text())["metrics"]
        assert {name: row[name] for name in metrics} == pytest.approx(metrics, rel=1e-3)
    kept, own = (load_file(results(tmp_path / name)[0].parent / "adapter.safetensors") for name in ("grid", "alone0"))
    for name, tensor in own.items():
        torch.testing.assert_close(kept[name], tensor, **CLOSE, msg=name)
    assert result["metrics"] == {name: value for name, value in seeds[0].items() if name != "seed"}
    assert "over seeds 0, 7; this adapter is of seed 0" in outcome.out
    assert result["test_reads"] == 2  # once by each model


def test_a_run_that_is_killed_before_it_is_scored_has_all_seeds_still(pretrained, tmp_path, monkeypatch):
    words = ("experiment=smoke", "method=bitfit", "optimizer=grid", "optimizer.lr=[0.01]", "optimizer.seeds=[0,7]")
    words += ("optimizer.weight_decay=[0]", pretrained)
    assert call(*words, "runs=whole", cwd=tmp_path).code == 0
    with monkeypatch.context() as patch:
        patch.setattr("peft_vision.task.session.TrainingSession.finish", lambda session: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(*words, "runs=killed", cwd=tmp_path)
    outcome = call(*words, "runs=killed", cwd=tmp_path)
    assert outcome.code == 0, outcome
    whole, killed = (json.loads(results(tmp_path / name)[0].read_text()) for name in ("whole", "killed"))
    assert killed["seeds"] == whole["seeds"]
    assert killed["selection"] == whole["selection"]
    assert "chosen    lr=0.01, weight_decay=0: of 1 settings" in outcome.out


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as raised:
        composed("experiment=smoke", "method=lora", "optimizer=grid", *words).check()
    return str(raised.value)


def test_seeds_that_are_no_seeds_of_single_runs_are_refused():
    loaded = "backbone.checkpoint=package:vit_micro.safetensors"
    assert refusal("optimizer.seeds=[0,1]") == (
        "optimizer.seeds: each seed draws its own random weights of the backbone, and these models share one; "
        "set backbone.pretrained=true or backbone.checkpoint, or write -m seed=0,1,2"
    )
    assert refusal("optimizer.seeds=[1,2]", loaded) == (
        "optimizer.seeds: got [1, 2], without the run's own seed, 0, whose adapter is kept; add it, or set seed=1"
    )
    assert refusal("optimizer.seeds=[0,1]", loaded, "data.split_seed=${seed}") == (
        "optimizer.seeds: data.split_seed follows the seed, so each seed has other images or settings; "
        "set data.split_seed=0, or give no seeds and write -m seed=0,1,2"
    )
    kept = ("runs=runs/${seed}", "data.split_seed=3", "optimizer.seeds=['${seed}',1]")
    composed("experiment=smoke", "method=lora", "optimizer=grid", loaded, *kept).check()
    assert "should name each seed once" in refusal("optimizer.seeds=[0,0]", loaded)
    composed("experiment=smoke", "method=lora", "optimizer=grid", "optimizer.seeds=[0,1]", loaded).check()


def test_the_seeds_of_a_probe_are_runs_of_their_own(pretrained, tmp_path):
    words = ("experiment=smoke", "method=linear", "optimizer=grid", "optimizer.seeds=[0,1]", pretrained)
    assert call(*words, cwd=tmp_path).error.startswith("optimizer.seeds: they are for methods that change the ")
