"""The settings of a grid train in the same steps, and each ends as it would alone."""

import copy
import json
from contextlib import contextmanager

import pytest
import torch
from variants import small

from command import SMOKE, call, results
from conftest import tiny_vit
from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import ConfigError
from peft_vision.core.stopping import Stopped
from peft_vision.core.tensor_files import Damaged
from peft_vision.models.model import Model
from peft_vision.optimizer.grid import Grid
from peft_vision.schedule.schedules import Cosine
from peft_vision.training.checks import check_together
from peft_vision.training.step import Batch
from peft_vision.training.together import Together, fit_together
from peft_vision.training.train_state import Training, TrainState
from peft_vision.training.trainer import Trainer
from shipped import adapted_to
from test_trainer import ALONE, PLAIN, assert_same_weights, random_images

RATES, DECAYS = (0.05, 0.2), (0.0, 0.1)
PARTS = {"dropout": 0.0}
METHODS = {
    "vpt_shallow": PARTS,
    "vpt_deep": PARTS,
    "vpt_lora": {},
    "adaptformer": PARTS,
    "adapter_houlsby": PARTS,
    "convpass": PARTS,
    "repadapter": PARTS,
    "ssf": {},
    "fact_tt": PARTS,
    "bitfit": {},
    "layer_norm": {},
    "vqt": PARTS,
}


def grid(algorithm: str = "sgd", rates=RATES, decays=DECAYS, seeds=None) -> Grid:
    return Grid(algorithm=algorithm, lr=rates, weight_decay=decays, betas=(0.9, 0.999), momentum=0.9, seeds=seeds)


def training(
    state: TrainState | None = None, *, rows: list | None = None, save=lambda state: None, seed: int = 0, **more
) -> Training:
    return Training(
        schedule=Cosine(warmup=0.2),
        seed=seed,
        workers=0,
        world=ALONE,
        state=state or TrainState(),
        record=(rows if rows is not None else []).append,
        save=save,
        **more,
    )


def alone(model: Model, solver: Grid, *, seed: int = 0, **options) -> list[Model]:
    """The models of runs of one setting each."""
    found = []
    for stepper in solver.steppers():
        single = copy.deepcopy(model)
        Trainer(**{**PLAIN, **options}).fit(
            single, random_images(21, augment="flip_crop"), random_images(8), training(seed=seed), optimizer=stepper
        )
        found.append(single)
    return found


def together(model: Model, solver: Grid, *, initial=None, state=None, **options) -> Together:
    """The same models, trained in the same steps; the images as `alone` has them."""
    made = []

    class Kept(Together):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peft_vision.training.together.Together", Kept)
        rows: list[dict] = []
        made.append(
            fit_together(
                model,
                random_images(21, augment="flip_crop"),
                random_images(8),
                training(state, rows=rows, initial=initial or {}),
                solver=solver,
                trainer=Trainer(**{**PLAIN, **options}),
            )
        )
    trained, selection = made
    assert rows == [{"epoch": number + 1, **row} for number, row in enumerate(selection["tried"])]
    return trained


@pytest.mark.parametrize(("method", "decays"), [("lora", DECAYS), *((each, DECAYS[1:]) for each in METHODS)])
def test_each_setting_ends_as_it_would_alone(method, decays):
    model, solver = adapted_to(tiny_vit(depth=2), method, **METHODS.get(method, {})), grid(decays=decays)
    singles = alone(model, solver, clip_norm=1.0, accumulate=2)
    members = together(model, solver, clip_norm=1.0, accumulate=2).members
    assert [member.setting for member in members] == [
        {"lr": lr, "weight_decay": decay} for lr in RATES for decay in decays
    ]
    for member, single in zip(members, singles, strict=True):
        assert_same_weights(single, member.model, rtol=1e-4, atol=2e-5)
    assert any(not torch.equal(a, b) for a, b in zip(singles[0].parameters(), singles[-1].parameters(), strict=True))


def test_rates_of_parts_are_those_of_a_single_run():
    factors = {"vpt_deep": 3.0, "lora": 0.3, "head": 0.5}
    model, solver = adapted_to(tiny_vit(), "vpt_lora", lr_factors=factors), grid(decays=(0.0,))
    for member, single in zip(together(copy.deepcopy(model), solver).members, alone(model, solver), strict=True):
        assert_same_weights(single, member.model, rtol=1e-4, atol=2e-5)


def test_layers_below_the_first_that_changes_are_computed_as_in_a_single_run():
    """Their tokens are rounded as they would be in the store, those of validation images too."""
    model = adapted_to(tiny_vit(), "lora", layers="last-1")
    model.round_observations_to(torch.bfloat16)
    assert model.frozen == {"tokens"}
    solver, trainer, val = grid(decays=(0.0,)), Trainer(**PLAIN), random_images(8)
    for member, single in zip(together(copy.deepcopy(model), solver).members, alone(model, solver), strict=True):
        assert_same_weights(single, member.model, rtol=1e-4, atol=2e-5)
        found, expected = (
            trainer.evaluate(each, val, "val", workers=0, world=ALONE)["val/loss"] for each in (member.model, single)
        )
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_step_passes_the_backbone_once_where_no_setting_changes_it(monkeypatch):
    passes, stem = [], Encoder.stem

    def counted(encoder: Encoder, images: torch.Tensor) -> torch.Tensor:
        passes.append(len(images))
        return stem(encoder, images)

    monkeypatch.setattr(Encoder, "stem", counted)
    images, model = random_images(8), adapted_to(tiny_vit(), "vqt", dropout=0.0).train()
    trained = Together(model, grid(), Trainer(**PLAIN), training(initial={}))
    trained.update([Batch([(images.pixels, images.labels)], 8)], 1.0)
    assert passes == [8]


@pytest.mark.parametrize(("variant", "method"), [("DINOv3", "lora"), ("BEiT", "vpt_deep"), ("Swin", "lora")])
def test_on_other_families_too(variant, method):
    options = {"dropout": 0.0} if method == "vpt_deep" else {}
    model = adapted_to(small(variant), method, **options)
    solver = grid(decays=(0.0,))
    for member, single in zip(together(copy.deepcopy(model), solver).members, alone(model, solver), strict=True):
        assert_same_weights(single, member.model, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_frozen_matrices_may_be_in_few_bits(bits):
    pytest.importorskip("bitsandbytes")
    model, solver = adapted_to(tiny_vit(), "lora", frozen_bits=bits), grid(decays=(0.0,))
    for member, single in zip(together(copy.deepcopy(model), solver).members, alone(model, solver), strict=True):
        assert_same_weights(single, member.model, rtol=1e-4, atol=2e-5)


def test_adamw_steps_as_its_single_runs_do():
    model = adapted_to(tiny_vit(), "lora")
    solver = grid("adamw", rates=(1e-3, 1e-2))
    for member, single in zip(together(copy.deepcopy(model), solver).members, alone(model, solver), strict=True):
        assert_same_weights(single, member.model, rtol=1e-2, atol=2e-4)  # Adam divides by gradients near 0


def test_what_is_frozen_lies_in_memory_once():
    model = adapted_to(tiny_vit(), "lora")
    trained = together(model, grid())
    kept = {parameter.data_ptr() for parameter in model.encoder.parameters() if not parameter.requires_grad}
    for member in trained.members:
        frozen = {
            parameter.data_ptr() for parameter in member.model.encoder.parameters() if not parameter.requires_grad
        }
        assert frozen == kept


def test_the_best_epoch_of_each_setting_is_kept_where_asked_for():
    model = adapted_to(tiny_vit(), "lora")
    solver = grid(rates=(0.2, 1.0), decays=(0.0,))
    singles = alone(copy.deepcopy(model), solver, keep="best", epochs=3)
    trained = together(model, solver, keep="best", epochs=3).members
    assert min(member.best.best["epoch"] for member in trained) < 3
    for member, single in zip(trained, singles, strict=True):
        assert_same_weights(single, member.model, rtol=1e-4, atol=2e-5)


def test_a_signal_in_the_last_epoch_loses_none(monkeypatch):
    model, saved = adapted_to(tiny_vit(), "lora"), []

    def note(state: TrainState) -> None:
        saved.append((state.epochs, copy.deepcopy(state.selection)))

    @contextmanager
    def asked():
        yield lambda: 0
        raise Stopped(15)

    monkeypatch.setattr("peft_vision.training.together.when_ready", asked)
    images, trainer = (random_images(21), random_images(8)), Trainer(**{**PLAIN, "epochs": 1})
    with pytest.raises(Stopped):
        fit_together(model, *images, training(save=note), solver=grid(), trainer=trainer)
    ((epochs, selection),) = saved
    assert epochs == 1
    assert len(selection["tried"]) == 4


def test_a_training_that_stopped_goes_on_to_the_same_weights():
    model = adapted_to(tiny_vit(), "lora")
    whole, halted = copy.deepcopy(model), copy.deepcopy(model)
    images, trainer = (random_images(21), random_images(8)), Trainer(**{**PLAIN, "save_seconds": 0.0})
    expected = fit_together(whole, *images, training(), solver=grid(), trainer=trainer)
    saved = []

    def stop(state: TrainState) -> None:
        saved.append(copy.deepcopy(state))
        raise Stopped(15)

    with pytest.raises(Stopped):
        fit_together(halted, *images, training(save=stop), solver=grid(), trainer=trainer)
    (state,) = saved
    assert state.epochs == 1
    found = fit_together(model, *images, training(copy.deepcopy(state)), solver=grid(), trainer=trainer)
    assert found == expected
    assert_same_weights(whole, model, rtol=0, atol=0)
    state.optimizer["members"][0]["best"] = {"tuned": {}}
    with pytest.raises(Damaged, match="the tensors of a setting's best epoch are of other names"):
        fit_together(model, *images, training(copy.deepcopy(state)), solver=grid(), trainer=trainer)
    state.optimizer["members"].pop()
    with pytest.raises(Damaged, match="the settings of its grid"):
        fit_together(model, *images, training(state), solver=grid(), trainer=trainer)


def test_a_setting_that_diverges_takes_no_other_with_it():
    model = adapted_to(tiny_vit(), "lora")
    solver = grid(rates=(0.05, 1e30), decays=(0.0,))
    (expected,) = alone(copy.deepcopy(model), grid(rates=(0.05,), decays=(0.0,)))
    together(model, solver)
    assert_same_weights(expected, model, rtol=1e-4, atol=2e-5)  # the best of both
    with pytest.raises(ConfigError, match=r"^the training loss of every setting of the grid became infinite; try a"):
        together(model, grid(rates=(1e30,), decays=(0.0,)))


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("vpt_deep", {"dropout": 0.1}, "set the rates of dropout and drop_path to 0"),
        ("adaptformer", {"dropout": 0.1}, "set the rates of dropout and drop_path to 0"),
        ("full", {}, "it trains cls_token, pos_embed, which the backbone reads for all images at once"),
    ],
)
def test_what_cannot_train_together_is_refused(method, options, said):
    with pytest.raises(ConfigError, match=f"^optimizer: Grid trains its settings in the same steps, and .*{said}"):
        together(adapted_to(tiny_vit(), method, **options), grid())


def test_options_that_do_not_fit_are_refused():
    def refusal(method: str, *, processes: int = 1, model: Model | None = None, **options) -> str:
        with pytest.raises(ConfigError) as raised:
            check_together(
                {"optimizer": grid()},
                model or adapted_to(tiny_vit(), method),
                Trainer(**{**PLAIN, **options}),
                method=method,
                processes=processes,
            )
        return str(raised.value)

    assert refusal("lp_ft") == (
        "optimizer: Grid trains one phase, and lp_ft has 2; use hydra/sweeper=tune with optimizer=adamw"
    )
    assert refusal("lora", compile=True).startswith("trainer.compile: not of a grid's settings")
    assert refusal("lora", accumulate="auto").startswith("trainer.accumulate: auto, and a grid")
    assert "in one process, not in 2" in refusal("lora", processes=2)


def test_the_command_trains_chooses_and_serves_again(tmp_path):
    words = (*SMOKE, "method=lora", "optimizer=grid", "optimizer.lr=[1e-3,1e-2]", "optimizer.weight_decay=[0]")
    outcome = call(*words, cwd=tmp_path)
    assert outcome.code == 0
    assert "2 settings train in the same steps, as each would alone" in outcome.out
    (path,) = results(tmp_path)
    result = json.loads(path.read_text())
    assert result["selection"]["settings"] == 2
    assert result["selection"]["chosen"]["lr"] in (1e-3, 1e-2)
    rows = [json.loads(line) for line in next(tmp_path.rglob("metrics.jsonl")).read_text().splitlines()]
    assert [row["lr"] for row in rows] == [1e-3, 1e-2]
    assert "already" in call(*words, cwd=tmp_path).out
