"""task=export and task=import: adapters that travel."""

import json
import re
from pathlib import Path

import pytest
import timm
import yaml
from safetensors.torch import load_file

from command import Outcome, call, run_folder
from peft_vision.exchange import hf_peft, onnx_model
from test_bad_input import no_file_larger_than

SMOKE = ("experiment=smoke", "trainer.epochs=1", "data.workers=0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run of each method that is asked for, trained once."""
    made = {}

    def run(method: str) -> str:
        if method not in made:
            folder = tmp_path_factory.mktemp(method)
            assert call(*SMOKE, f"method={method}", "runs=runs", cwd=folder).code == 0
            made[method] = str(run_folder(folder / "runs"))
        return made[method]

    return run


def export(run: str, kind: str, folder) -> Outcome:
    return call("task=export", f"run={run}", f"task.format={kind}", f"out={folder}/out", cwd=folder)


@pytest.mark.parametrize(
    ("kind", "written"),
    [("timm", "timm.safetensors"), ("peft", "peft"), ("onnx", "model.onnx"), ("adapter", "adapter.safetensors")],
)
def test_a_lora_goes_into_every_format_and_computes_the_same(kind, written, runs, tmp_path):
    outcome = export(runs("lora"), kind, tmp_path)
    assert outcome.code == 0, outcome
    assert (tmp_path / "out" / written).exists()
    difference, largest = re.search(r"differ by (\S+) at most, of (\S+)", outcome.out).groups()
    assert float(difference) <= 1e-5 * max(1, float(largest))


@pytest.mark.parametrize("kind", ["timm", "peft", "onnx", "adapter"])
def test_a_full_disk_is_said_and_leaves_nothing_half(kind, runs, tmp_path):
    run = runs("lora")
    with no_file_larger_than(100):
        outcome = export(run, kind, tmp_path)
    assert "File too large" in outcome.error
    assert "set out=FOLDER" in outcome.error
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_timm_loads_the_weights_with_nothing_of_ours(runs, tmp_path):
    run = runs("ssf")
    assert export(run, "timm", tmp_path).code == 0
    backbone = yaml.safe_load((Path(run) / "config.yaml").read_text())["backbone"]
    plain = timm.create_model(
        backbone["name"], num_classes=10, img_size=backbone["img_size"], **backbone["architecture"]
    )
    plain.load_state_dict(load_file(tmp_path / "out" / "timm.safetensors"))


def test_what_a_format_cannot_hold_is_refused_with_the_reason(runs, tmp_path):
    assert "no weight of a plain backbone computes that" in export(runs("vpt_deep"), "timm", tmp_path).error
    assert "reads more than the backbone's pooled features" in export(runs("vqt"), "timm", tmp_path).error
    assert "the format is for LoRA alone" in export(runs("ssf"), "peft", tmp_path).error
    assert "should be 'timm', 'peft', 'onnx' or 'adapter'" in export(runs("lora"), "pickle", tmp_path).error


def test_missing_packages_are_named_with_the_command_that_installs_them(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "NEEDED", ("onnx", "nobody_has_this"))
    error = export(runs("lora"), "onnx", tmp_path).error
    assert error == "task.format=onnx needs nobody_has_this: pip install 'peft-vision[onnx]'"


def imported(run: str, folder, *arguments: str) -> Outcome:
    assert export(run, "peft", folder).code == 0
    return call(
        "task=import", f"file={folder}/out/peft", f"out={folder}/imported", "experiment=smoke", *arguments, cwd=folder
    )


def scores(run: str, folder) -> dict[str, float]:
    assert call("task=evaluate", f"run={run}", "data=digits", f"out={folder}/scores", cwd=folder).code == 0
    (path,) = (folder / "scores").glob("*.json")
    metrics = json.loads(path.read_text())["metrics"]
    path.unlink()
    return metrics


def test_a_lora_comes_back_from_peft_and_scores_the_same(runs, tmp_path):
    run = runs("lora")
    assert imported(run, tmp_path).code == 0
    assert scores(f"{tmp_path}/imported", tmp_path) == pytest.approx(scores(run, tmp_path), rel=1e-6)
    again = export(f"{tmp_path}/imported", "peft", tmp_path)
    assert again.code == 0, again


def test_a_lora_for_another_backbone_is_refused_with_both_hashes(runs, tmp_path):
    error = imported(runs("lora"), tmp_path, "seed=1").error  # another seed draws another random backbone
    assert re.search(r"trained on other weights \(\S+, hash \w{12}\) than these \(hash \w{12}\)", error)
    assert not (tmp_path / "imported").exists()


def test_a_lora_of_another_shape_is_refused(runs, tmp_path):
    error = imported(runs("lora"), tmp_path, "backbone.architecture={depth:1}").error
    assert "other weights" in error
    (tmp_path / "out" / "peft" / hf_peft.NOTES).unlink()
    arguments = ("task=import", f"file={tmp_path}/out/peft", f"out={tmp_path}/imported", "experiment=smoke")
    error = call(*arguments, "backbone.architecture={depth:1}", cwd=tmp_path).error
    assert "this backbone has 1 layers" in error
    error = call(*arguments, "backbone.architecture={depth:2,embed_dim:64}", cwd=tmp_path).error
    assert "does not fit" in error


def test_class_names_must_be_as_many_as_outputs(runs, tmp_path):
    assert "2 names for the 10 outputs" in imported(runs("lora"), tmp_path, "task.classes=[a,b]").error


def test_a_folder_that_is_no_adapter_is_refused(tmp_path):
    error = call("task=import", f"file={tmp_path}", f"out={tmp_path}/o", "experiment=smoke", cwd=tmp_path).error
    assert "no adapter_config.json" in error


def test_keys_that_are_missing_are_said(tmp_path):
    assert "run: no value" in call("task=export", cwd=tmp_path).error
    assert "file: no value" in call("task=import", "out=x", cwd=tmp_path).error
