"""task=export and task=import: adapters that travel."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from command import Outcome, call, run_folder
from peft_vision.exchange import hf_peft, onnx_model
from peft_vision.exchange.timm_weights import timm_state
from peft_vision.runs.saved import open_saved
from peft_vision.task import export as export_task
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


@pytest.fixture(scope="module")
def traced_once():
    """ONNX's program of the one run that asks for this, of which the tracing takes seconds."""
    trace, programs = torch.onnx.export, []

    def traced(*arguments, **options):
        if not programs:
            programs.append(trace(*arguments, **options))
        return programs[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", traced)
        yield


def export(run: str, kind: str, folder) -> Outcome:
    return call("task=export", f"run={run}", f"task.format={kind}", f"out={folder}/out", cwd=folder)


@pytest.mark.parametrize(
    ("kind", "written"),
    [("timm", "timm.safetensors"), ("peft", "peft"), ("onnx", "model.onnx")],
)
def test_a_lora_goes_into_every_format_and_computes_the_same(kind, written, runs, traced_once, tmp_path):
    outcome = export(runs("lora"), kind, tmp_path)
    assert outcome.code == 0, outcome
    assert (tmp_path / "out" / written).exists()
    difference, largest = re.search(r"differ by (\S+) at most, of (\S+)", outcome.out).groups()
    assert float(difference) <= 1e-5 * max(1, float(largest))


def test_a_copy_of_an_adapter_is_compared_with_it(runs, tmp_path, monkeypatch):
    outcome = export(runs("lora"), "adapter", tmp_path)
    assert "checked   the copy has the bytes of the run's own file\n" in outcome.out
    copy = tmp_path / "out" / "adapter.safetensors"
    assert copy.read_bytes() == (Path(runs("lora")) / copy.name).read_bytes()
    copy.unlink()
    monkeypatch.setattr(shutil, "copyfile", lambda source, target: target.write_bytes(source.read_bytes()[:-1]))
    assert "the copy differs from " in export(runs("lora"), "adapter", tmp_path).error
    assert not copy.exists()


@pytest.mark.parametrize("kind", ["timm", "peft", "onnx", "adapter"])
def test_a_full_disk_is_said_and_leaves_nothing_half(kind, runs, traced_once, tmp_path):
    run = runs("lora")
    with no_file_larger_than(100):
        outcome = export(run, kind, tmp_path)
    assert "File too large" in outcome.error
    assert "set out=FOLDER" in outcome.error
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


SHAPED = (
    "backbone.img_size=24",
    "backbone.architecture={patch_size:8,embed_dim:48,depth:2,num_heads:3}",
    "+backbone.architecture.init_values=0.1",
    "backbone.pool=avg",
)
"""A backbone of which timm knows nothing by its name."""
COMPARE = """
with torch.no_grad():
    logits.append(model(images[len(logits)]))
"""


def in_plain_python(lines: list[str], images: list[torch.Tensor], folder: Path) -> list[torch.Tensor]:
    """What `model` computes of its images once each line has made it, in a process that cannot import this package."""
    torch.save(images, folder / "images.pt")
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    begin = "import sys; sys.modules['peft_vision'] = None\nimport torch; images, logits = torch.load('images.pt'), []"
    script = "\n".join([begin, *(f"{line}\n{COMPARE}" for line in lines), "torch.save(logits, 'logits.pt')"])
    ended = subprocess.run([sys.executable, "-c", script], cwd=folder, env=bare, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return torch.load(folder / "logits.pt")


def printed(outcome: Outcome) -> str:
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("loads by  ")]
    return line.removeprefix("loads by  ")


def test_the_lines_that_are_printed_load_exports_with_nothing_of_ours(runs, tmp_path):
    pytest.importorskip("peft", reason="Hugging Face's peft, which two of the lines are for, is not installed")
    lines, images, expected = [], [], []
    for kind, method in (("timm", "ssf"), ("peft", "lora")):
        shaped = tmp_path / kind
        shaped.mkdir()
        assert call(*SMOKE, f"method={method}", *SHAPED, cwd=shaped).code == 0
        for run in (runs(method), str(run_folder(shaped / "runs"))):
            folder = tmp_path / str(len(lines))
            folder.mkdir()
            lines.append(printed(export(run, kind, folder)))
            saved = open_saved(run, checkpoint=None, device=torch.device("cpu"))
            size = saved.recipe.preprocessing.size
            pixels = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
            images.append(saved.model.normalize(pixels))
            with torch.no_grad():
                expected.append(saved.model(pixels))
    for found, wanted in zip(in_plain_python(lines, images, tmp_path), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_files_say_what_timm_makes_the_backbone_of(runs, tmp_path):
    backbone = yaml.safe_load((Path(runs("lora")) / "config.yaml").read_text())["backbone"]
    arguments = {"img_size": backbone["img_size"], **backbone["architecture"]}
    assert export(runs("lora"), "timm", tmp_path).code == export(runs("lora"), "peft", tmp_path).code == 0
    with safe_open(tmp_path / "out" / "timm.safetensors", framework="pt") as file:
        said = json.loads(file.metadata()["timm"])
    assert said == {"name": backbone["name"], "arguments": {"num_classes": 10, **arguments}}
    said = json.loads((tmp_path / "out" / "peft" / hf_peft.NOTES).read_text())["timm"]
    assert said == {"name": backbone["name"], "arguments": arguments}


def test_weights_of_the_hub_are_named_and_not_copied(runs, tmp_path):
    """No network: the adapter stays on the random backbone that it was trained on, and its config says another."""
    run = shutil.copytree(runs("lora"), tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    saved = open_saved(str(run), checkpoint=None, device=torch.device("cpu"))
    name = "vit_tiny_patch16_224.augreg_in21k"
    hub = {**config["backbone"], "name": name, "pretrained": True}
    (tmp_path / "out" / "peft").mkdir(parents=True)
    (tmp_path / "out" / "peft" / "backbone.safetensors").touch()
    images = torch.zeros((1, 3, *[saved.recipe.preprocessing.size] * 2), dtype=torch.uint8)
    staging = tmp_path / "staging"
    staging.mkdir()
    path, _, line = export_task._peft(replace(saved, config={**config, "backbone": hub}), staging, images)
    export_task._put(staging, tmp_path / "out", saved)
    assert sorted(file.name for file in (tmp_path / "out" / "peft").iterdir()) == sorted(
        [hf_peft.CONFIG, hf_peft.WEIGHTS, hf_peft.NOTES, "README.md"]
    )
    assert line.startswith(f"import timm, peft; vit = timm.create_model({name!r}, pretrained=True, num_classes=10, ")
    assert line.endswith(f"; model = peft.PeftModel.from_pretrained(vit, {str(path)!r}).eval()")
    compile(line, "line", "exec")
    card = (path.parents[1] / "out" / "peft" / "README.md").read_text()
    assert "library_name: peft\n" in card
    assert "from_pretrained(vit, '.')" in card
    assert str(tmp_path) not in card


def test_an_export_from_a_folder_of_weights_has_them_and_names_no_folder_of_this_machine(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    sizes = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    record = {"input_size": [3, 32, 32], "fixed_input_size": True, "mean": [0.5] * 3, "std": [0.5] * 3}
    held = {"architecture": "vit_tiny_patch16_224", "model_args": sizes, "pretrained_cfg": record}
    (own / "config.json").write_text(json.dumps(held))
    vit = timm.create_model("vit_tiny_patch16_224", **sizes, img_size=32)
    save_file(vit.state_dict(), own / "model.safetensors")
    words = ("backbone=timm", f"backbone.name=local-dir:{own}", "backbone.pretrained=true")
    assert call(*SMOKE, "method=lora", *words, "backbone.architecture.depth=2", cwd=tmp_path).code == 0
    outcome = export(str(run_folder(tmp_path / "runs")), "peft", tmp_path)
    assert outcome.code == 0, outcome
    folder = tmp_path / "out" / "peft"
    assert "timm.create_model('vit_tiny_patch16_224', num_classes=0, " in printed(outcome)
    weights = load_file(folder / "backbone.safetensors")
    assert torch.equal(weights["cls_token"], vit.cls_token)
    for path in (hf_peft.CONFIG, hf_peft.NOTES, "README.md"):
        text = (folder / path).read_text()
        assert str(tmp_path) not in text
        assert "local-dir:own" in text.replace("\\", "")


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
    outcome = imported(run, tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert scores(f"{tmp_path}/imported", tmp_path) == pytest.approx(scores(run, tmp_path), rel=1e-6)
    again = export(f"{tmp_path}/imported", "peft", tmp_path)
    assert again.code == 0, again


def test_an_import_reads_pictures_as_its_run_did(runs, tmp_path):
    run = shutil.copytree(runs("lora"), tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    for said, words, expected in (
        ({"resize": "squash", "full_scale": 10_000}, (), ("squash", 10_000)),
        ({"resize": "squash"}, ("task.resize=crop",), ("crop", None)),
        ({}, (), ("crop", None)),
    ):
        (run / "config.yaml").write_text(yaml.safe_dump({**config, "data": said}))
        assert imported(str(run), tmp_path, *words).code == 0
        saved = open_saved(f"{tmp_path}/imported", checkpoint=None, device=torch.device("cpu"))
        geometry = saved.geometry(None)
        assert (geometry.resize, geometry.full_scale) == expected


def test_an_import_replaces_no_run(runs, tmp_path):
    run = shutil.copytree(runs("linear"), tmp_path / "imported")
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    said = f"out: {run} is the folder of a run, whose adapter would be replaced; name another"
    assert imported(runs("lora"), tmp_path).error == said
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_copy_of_an_adapter_replaces_that_of_no_other_run(runs, tmp_path):
    run = shutil.copytree(runs("linear"), tmp_path / "out")
    before = (run / "adapter.safetensors").read_bytes()
    said = f"out: {run} is the folder of a run, whose adapter would be replaced; name another"
    assert export(runs("lora"), "adapter", tmp_path).error == said
    assert (run / "adapter.safetensors").read_bytes() == before


@pytest.mark.parametrize("head", ["head.dropout=0.1", "head.norm=batch"])
def test_a_lora_with_any_head_that_is_linear_in_the_end_goes_to_peft(head, tmp_path):
    assert call(*SMOKE, "method=lora", head, cwd=tmp_path).code == 0
    outcome = export(str(run_folder(tmp_path / "runs")), "peft", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")


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


def test_an_export_that_computes_something_else_is_not_written_and_one_before_it_stays(runs, tmp_path, monkeypatch):
    run = runs("linear")
    assert export(run, "timm", tmp_path).code == 0
    before = (tmp_path / "out" / "timm.safetensors").read_bytes()
    written = timm_state

    def other(model):
        return {name: tensor * (0.5 if name == "head.weight" else 1) for name, tensor in written(model).items()}

    monkeypatch.setattr("peft_vision.task.export.timm_state", other)
    outcome = export(run, "timm", tmp_path)
    assert outcome.error.startswith("task.format=timm: read again it computes something else, so nothing was written: ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["timm.safetensors"]
    assert (tmp_path / "out" / "timm.safetensors").read_bytes() == before
