"""LP-FT, and a probe in front of any other method."""

import json
from functools import cache, partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import peft_vision
from command import call, run_folder
from conftest import tiny_vit
from shipped import adapted

SMOKE = ("experiment=smoke", "data.train_size=60", "data.val_fraction=0.2", "data.workers=0")
SOLVED = ("probe=lbfgs", "probe.C=[1e-4,1e-2]")
IMAGES = {"train": 48, "val": 12, "test": 40}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that returns the result of a run with a probe of two settings, which is trained once."""
    return cache(partial(result, tmp_path_factory.mktemp("probed")))


def result(folder, *arguments: str) -> dict:
    outcome = call(*SMOKE, *SOLVED, *arguments, f"runs={folder}/{len(list(folder.iterdir()))}", cwd=folder)
    assert outcome.code == 0, outcome
    run = run_folder(max((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = json.loads((run / "result.json").read_text())
    return {**found, "rows": rows, "adapter": load_file(run / "adapter.safetensors"), "said": outcome.out}


def test_the_head_trains_alone_first_and_all_goes_on_from_it():
    model = peft_vision.adapt(tiny_vit(), method="lp_ft", num_classes=4)
    assert [phase.name for phase in model.phases] == ["probe", "train"]
    assert all(name.startswith("head.") for name, p in model.named_parameters() if p.requires_grad)
    head = model.head
    nn.init.ones_(head[-1].weight)
    model.begin_next_phase(seed=0)
    assert all(p.requires_grad for p in model.parameters())
    assert model.head is head


def test_the_first_phase_is_the_probe_of_a_linear_run(trained):
    """Solved on the same stored features; its scores stay in the result, beside those of the whole."""
    both = trained("method=lp_ft")
    probe = trained("method=linear", "optimizer=lbfgs", "optimizer.C=[1e-4,1e-2]")
    assert {name: both["metrics"][f"probe/{name}"] for name in probe["metrics"]} == pytest.approx(probe["metrics"])
    assert both["selection"] == {**probe["selection"], "group": "probe"}
    assert both["test_reads"] == 2
    assert [row.get("phase") for row in both["rows"]] == ["probe", "probe", "train", "train"]
    assert f"probe     val {100 * probe['metrics']['val/accuracy']:.2f} %" in both["said"]


def test_the_probe_reads_each_image_once_and_a_second_run_none(tmp_path):
    lr = ("method=lp_ft", "optimizer.lr=1e-6")
    first, again = result(tmp_path, *lr), result(tmp_path, *lr, "seed=1", "backbone.checkpoint=null")
    tuning = {"train": 2 * IMAGES["train"], "val": 3 * IMAGES["val"], "test": IMAGES["test"]}
    assert first["backbone_images"] == {split: IMAGES[split] + tuning[split] for split in IMAGES}
    assert again["backbone_images"] == first["backbone_images"]  # another seed, another random backbone
    third = result(tmp_path, "method=lp_ft", "optimizer.lr=1e-5")
    assert third["backbone_images"] == tuning


def test_a_rate_of_almost_nothing_leaves_what_the_probe_was_worth(tmp_path):
    found = result(tmp_path, "method=lp_ft", "optimizer.lr=1e-12", "optimizer.weight_decay=0")["metrics"]
    for name in ("val/loss", "test/loss", "test/accuracy"):
        assert found[name] == pytest.approx(found[f"probe/{name}"], rel=1e-5)


FITS = {
    "adamw": ("head=mlp", "data.val_fraction=0"),
    "sgd": (),
    "grid": ("probe.lr=[1e-3,1e-2]",),
    "lbfgs": ("probe.C=[1e-2]",),
}


@pytest.mark.parametrize("probe", FITS)
def test_any_optimizer_may_fit_the_probe_and_one_that_steps_any_head(probe, tmp_path):
    values = ("method=lp_ft", f"probe={probe}", *FITS[probe], "data.augment=flip_crop", "trainer.epochs=1")
    outcome = call(*SMOKE, *values, cwd=tmp_path)
    assert outcome.code == 0, outcome
    solves = "solves for the head" in outcome.out
    assert solves == ("alone; it reads the images as they are, without data.augment=flip_crop" in outcome.out)
    assert solves == (probe in ("grid", "lbfgs"))


@pytest.mark.parametrize("method", ["lora", "vpt_deep", "vqt", "bitfit"])
def test_any_method_may_have_a_probe_in_front(method, trained):
    found = trained(f"method={method}", "method.probe_first=true")
    assert {"probe/test/accuracy", "test/accuracy"} <= found["metrics"].keys()
    once = {split: found["backbone_images"][split] % IMAGES[split] for split in IMAGES}
    assert once == dict.fromkeys(IMAGES, 0)


def test_a_probe_before_an_identity_is_that_of_the_bare_backbone(trained):
    lora = trained("method=lora", "method.probe_first=true")["metrics"]
    full = trained("method=lp_ft")["metrics"]
    for name in ("probe/val/loss", "probe/test/loss"):
        assert lora[name] == pytest.approx(full[name], rel=1e-4)


def test_drop_path_is_off_in_evaluation_mode_even_though_all_trains(images):
    model = adapted("lp_ft", architecture={"drop_path_rate": 0.5})
    assert torch.equal(model.train()(images), model(images))
    model = adapted("lp_ft", architecture={"drop_path_rate": 0.5}, eval_mode=False)
    assert not torch.equal(model.train()(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data.val_fraction=0",), "probe: 2 settings and no validation images to choose by; set data.val_fraction"),
        (("head=mlp",), "probe: LBFGS solves for one linear layer; it takes head=linear"),
    ],
)
def test_a_probe_that_cannot_be_solved_is_refused(arguments, message, tmp_path):
    assert call(*SMOKE, *SOLVED, "method=lp_ft", *arguments, cwd=tmp_path).error.startswith(message)
