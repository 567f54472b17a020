"""Runs on a ResNet, from the command to the files of a run: a few steps on digits."""

import json

import pytest
from safetensors import safe_open

from command import call, run_folder

RUN = (
    "backbone=timm",
    "backbone.name=resnet18",
    "backbone.pretrained=false",
    "backbone.img_size=32",
    "+backbone.architecture={layers:[1,1,1,1],channels:[8,16,16,32]}",
    "data=digits",
    "data.train_size=40",
    "trainer.epochs=1",
    "trainer.batch_size=16",
    "tracker=none",
    "device=cpu",
)
GALORE = ("optimizer=galore_adamw", r"optimizer.matrices=layer\\d.*conv\\d", "optimizer.rank=4", "optimizer.gap=2")


def ran(cwd, *words: str) -> dict:
    outcome = call(*RUN, *words, cwd=cwd)
    assert (outcome.code, outcome.err) == (0, "")
    return json.loads((run_folder(cwd / "runs") / "result.json").read_text())


def saved(cwd) -> set[str]:
    with safe_open(run_folder(cwd / "runs") / "adapter.safetensors", framework="pt") as file:
        return {name.removeprefix("encoder.vit.") for name in file.keys()}  # noqa: SIM118


def test_full_fine_tuning_by_galore_saves_statistics_too_and_interpolates(tmp_path):
    result = ran(tmp_path, "method=full", *GALORE, "interpolation=wise_ft", "interpolation.alphas=[0,0.5,1]")
    assert result["config"]["backbone"]["name"] == "resnet18"
    assert {"layer1.0.conv1.weight", "bn1.running_mean", "bn1.num_batches_tracked"} <= saved(tmp_path)
    again = call("task=evaluate", f"run={run_folder(tmp_path / 'runs')}", cwd=tmp_path)
    assert (again.code, again.err) == (0, "")


def test_partial_saves_the_last_stage_alone(tmp_path):
    ran(tmp_path, "method=partial")
    assert {name.partition(".")[0] for name in saved(tmp_path)} == {"layer4", "head"}
    assert not any("running" in name for name in saved(tmp_path))


@pytest.mark.parametrize("method", ["linear", "lp_ft"])
def test_features_of_the_frozen_resnet_are_stored(method, tmp_path):
    ran(tmp_path, f"method={method}", f"features.folder={tmp_path / 'shelf'}", "probe=adamw")
    assert any(path.is_file() for path in (tmp_path / "shelf").rglob("*"))
    assert not any("running" in name for name in saved(tmp_path))


def test_prompts_are_refused_before_anything_is_trained(tmp_path):
    said = call(*RUN, "method=vpt_deep", cwd=tmp_path).error
    assert said.startswith(
        "method: it needs tokens that may be appended to those of the image; resnet18 is computed by"
    )
    assert "\n" not in said
