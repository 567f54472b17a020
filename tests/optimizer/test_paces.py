"""The parts of a combination and its head train at multiples of the optimizer's rate, and with decays of their own."""

import copy
import json

import pytest
import torch

import peft_vision
from command import SMOKE, call, results
from conftest import tiny_vit
from peft_vision.core.composition import option
from peft_vision.core.config import ConfigError, build
from peft_vision.core.identity import hashed
from peft_vision.method.base import Method
from peft_vision.optimizer.base import SGD, parameter_groups
from peft_vision.training.step import Batch
from peft_vision.training.train_state import TrainState
from peft_vision.training.trainer import Trainer
from shipped import adapted
from test_galore import galore
from test_trainer import ALONE, PLAIN, assert_same_weights, fit, random_images

PARTS = {"lora": {}, "vqt": {"dropout": 0.0}}
OWN = {"lora": "encoder.", "vqt": "readout.", "head": "head."}


@pytest.mark.parametrize("place", OWN)
def test_half_the_rate_of_one_part_is_that_of_its_tensors_alone(place):
    halved = adapted("combined", parts=PARTS, lr_factors={place: 0.5}, weight_decays={place: 0.3})
    by_hand = adapted("combined", parts=PARTS)
    data = random_images(8)
    stepper = SGD(lr=9.0, weight_decay=0.1, momentum=0.9).create(halved, seed=0)
    update = Trainer(**PLAIN).updates(halved, stepper, ALONE)
    groups = [
        {
            "params": [parameter],
            "lr": 0.05 if name.startswith(OWN[place]) else 0.1,
            "weight_decay": (parameter.ndim > 1) * (0.3 if name.startswith(OWN[place]) else 0.1),
        }
        for name, parameter in by_hand.named_parameters()
        if parameter.requires_grad
    ]
    stepper = torch.optim.SGD(groups, momentum=0.9)
    by_hand.train()
    for _ in range(3):
        update(Batch([(data.pixels, data.labels)], size=8), 0.1)
        stepper.zero_grad()
        (by_hand.criterion.loss(by_hand(data.pixels), data.labels, label_smoothing=0.0) * (1 / 8)).backward()
        stepper.step()
    assert_same_weights(halved, by_hand, rtol=0, atol=0)


def test_a_part_of_a_part_multiplies_and_what_an_earlier_part_trains_stays_its_own():
    inner = {**option("method", "vpt_lora"), "lr_factors": {"lora": 0.5}, "weight_decays": {"lora": 0.2}}
    model = adapted("combined", parts={"both": inner, "bitfit": {}}, lr_factors={"both": 0.5, "bitfit": 4.0})
    found = {name: model.pace(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    kinds = {"prompts": (0.5, None), "bias": (4.0, None), "up": (0.25, 0.2), "down": (0.25, 0.2)}
    for name, pace in found.items():
        kind = next((kind for kind in kinds if kind in name), None)
        assert (pace.lr_factor, pace.weight_decay) == ((1.0, None) if "head" in name else kinds[kind])
    moved = copy.deepcopy(model)
    assert [len(group["params"]) for group in parameter_groups(moved, 0.1)] == [
        len(group["params"]) for group in parameter_groups(model, 0.1)
    ]


def test_a_fit_that_stops_goes_on_at_the_same_paces():
    options = {"parts": {"lora": {}, "vqt": {}}, "lr_factors": {"vqt": 3.0, "head": 0.5}}
    through, stopped, saved = adapted("combined", **options), adapted("combined", **options), []
    fit(through)
    fit(
        stopped,
        save=lambda state: saved.append(copy.deepcopy((stopped.tuned_state(), vars(state)))),
        save_seconds=0.0,
    )
    tensors, state = saved[0]
    fresh = adapted("combined", **options, seed=9)
    fresh.load_state_dict(tensors, strict=False)
    fit(fresh, standing=TrainState(**state))
    assert_same_weights(through, fresh, rtol=0, atol=0)


def test_factors_of_one_are_as_if_they_were_not_there():
    values = option("method", "vqt_lora")
    without = {key: value for key, value in values.items() if key not in ("lr_factors", "weight_decays")}
    identities = [hashed(build(node, Method, "method")) for node in (values, without)]
    assert identities[0] == identities[1]
    other = hashed(build({**values, "lr_factors": {"vqt": 0.5, "lora": 1.0}}, Method, "method"))
    assert other == {**identities[0], "lr_factors": {"vqt": 0.5}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_factors": {"vtq": 3.0}}, r"method\.lr_factors: no part is named vtq; there are lora, vqt, head; did you"),
        ({"weight_decays": {"linear": 0.0}}, r"method\.weight_decays: no part is named linear; there are lora, vqt, h"),
        ({"lr_factors": {"vqt": 0}}, r"method\.lr_factors\.vqt: got 0, should be greater than 0"),
        ({"weight_decays": {"head": -1}}, r"method\.weight_decays\.head: got -1"),
        ({"parts": {"head": option("method", "lora")}}, r"method\.parts: a part cannot be named head"),
        (
            {"parts": {"vqt_lora": {"lr_factors": {"head": 2}}}},
            r"method\.parts\.vqt_lora: the head is that of all parts; set method\.lr_factors\.head",
        ),
    ],
    ids=str,
)
def test_what_is_of_no_part_is_refused(options, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        adapted("combined", **{"parts": PARTS, **options})


def test_projected_matrices_have_one_rate():
    stepper = galore(matrices="down|up")
    stepper.check(adapted("combined", parts=PARTS, lr_factors={"vqt": 2.0, "lora": 1.0}))
    with pytest.raises(
        ConfigError, match=r"^optimizer: projected matrices all train at one rate and decay, and .*down"
    ):
        stepper.check(adapted("combined", parts=PARTS, lr_factors={"lora": 2.0}))


def test_a_factor_is_tuned_as_any_value_and_its_adapter_is_opened_again(tmp_path):
    tuned = ("-m", "hydra/sweeper=tune", *SMOKE, "data.val_fraction=0.5", "method=vqt_lora", "tracker=none")
    words = ("method.lr_factors.vqt=0.1,10", "hydra.sweeper.seeds=[0]", "hydra.sweeper.report=null")
    outcome = call(*tuned, *words, cwd=tmp_path)
    assert outcome.code == 0, outcome
    found = [(path.parent, json.loads(path.read_text())) for path in results(tmp_path)]
    factors = {result["config"]["method"]["lr_factors"]["vqt"] for _, result in found}
    assert (len(found), factors) == (3, {0.1, 10})
    (folder,) = [folder for folder, _ in found if (folder / "choice.json").is_file()]
    chosen = json.loads((folder / "choice.json").read_text())["chosen"]
    assert list(chosen) == ["method.lr_factors.vqt"]
    assert call("task=evaluate", f"run={folder}", cwd=tmp_path).code == 0
    vit = tiny_vit()
    model = peft_vision.adapt(vit, method="vqt_lora", num_classes=4, lr_factors={"vqt": 0.5})
    peft_vision.save(model, tmp_path / "adapter.safetensors")
    loaded = peft_vision.load(tmp_path / "adapter.safetensors", tiny_vit())
    factors = {name.split(".")[0]: loaded.pace(name).lr_factor for name in loaded.tuned_state()}
    assert factors == {"encoder": 1.0, "readout": 0.5, "head": 1.0}
