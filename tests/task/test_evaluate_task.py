"""`peft-vision task=evaluate`: what a saved adapter is worth on data of any kind."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from command import SMOKE, call, run_folder
from digit_folders import DATA, write_digits
from peft_vision.core.config import CONFIG_DIR

WEIGHTS = CONFIG_DIR.parent / "src" / "peft_vision" / "backbone" / "vit_micro.safetensors"
OWN_DATA = """
import torch
from peft_vision.core.config import component
from peft_vision.data.digits import Digits
from peft_vision.data.pictures import Labelled
from peft_vision.data.splits import LabelledSets

def chosen(sets, names):
    new_id = torch.tensor([names.index(name) if name in names else -1 for name in sets.classes])
    def part(old):
        labels = new_id[old.labels]
        return Labelled(old.pictures, old.indices[labels >= 0], labels[labels >= 0])
    return LabelledSets("digits", part(sets.train), None, part(sets.test), names, "")

@component
class Reversed(Digits):
    def open(self):
        sets = super().open()
        return chosen(sets, sets.classes[::-1])

@component
class Low(Digits):
    def open(self):
        sets = super().open()
        return chosen(sets, sets.classes[:4])

@component
class High(Digits):
    def open(self):
        sets = super().open()
        return chosen(sets, sets.classes[4:])
"""


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def evaluate(run: Path, *arguments: str) -> dict:
    """What the one new file says."""
    before = set(run.glob("evaluations/*"))
    outcome = call("task=evaluate", f"run={run}", *SMOKE, *arguments, cwd=run.parent)
    assert (outcome.code, outcome.err) == (0, "")
    (path,) = set(run.glob("evaluations/*.json")) - before
    assert str(path) in outcome.out
    return json.loads(path.read_text())


def refused(run: Path | str, *arguments: str, cwd: Path) -> list[str]:
    lines = call("task=evaluate", f"run={run}", *SMOKE, *arguments, cwd=cwd).error.splitlines()
    assert len(lines) <= 2, lines
    return lines


ROUNDING = 1e-7  # what the store holds was computed in batches of another size


@pytest.mark.parametrize(
    ("method", "tolerance"), [("linear", ROUNDING), ("vqt", ROUNDING), ("vpt_deep", 0), ("full", 0)]
)
def test_a_runs_own_data_give_its_own_metrics(method, tolerance, tmp_path):
    assert call("experiment=smoke", f"method={method}", cwd=tmp_path).code == 0
    run = run_folder(tmp_path / "runs")
    known = json.loads((run / "result.json").read_text())
    for split in ("test", "val"):
        found = evaluate(run, f"task.split={split}")
        metrics = {key: value for key, value in known["metrics"].items() if key.startswith(split)}
        assert len(metrics) == 5
        assert found["metrics"] == pytest.approx(metrics, rel=tolerance, abs=tolerance)
        assert found["metrics"][f"{split}/accuracy"] == metrics[f"{split}/accuracy"]
        assert found["images"] == {split: known["data"]["images"][split]}
        assert found["data"]["fingerprint"] == known["data"]["fingerprint"]
        assert found["backbone"] == known["backbone"]


def test_without_a_word_on_data_they_are_the_runs_own(run):
    known = json.loads((run / "result.json").read_text())
    outcome = call("task=evaluate", f"run={run}", "data.workers=0", cwd=run.parent)
    assert (outcome.code, outcome.err) == (0, "")
    (path,) = run.glob("evaluations/digits-test-*.json")
    found = json.loads(path.read_text())
    assert found["data"]["fingerprint"] == known["data"]["fingerprint"]
    assert found["metrics"]["test/accuracy"] == known["metrics"]["test/accuracy"]
    assert found["data"]["config"] == {**known["config"]["data"], "workers": 0}


def test_others_are_chosen_by_name_alone_be_it_the_one_that_is_never_written(run):
    said = call("task=evaluate", f"run={run}", "data=cifar100", "data.download=false", cwd=run.parent).error
    assert said.startswith(f"data: no cifar100 in {run.parent}/datasets")
    without_data = ("experiment=galore_memory", "method=lora", "seed=0")  # one point of that sweep, which names no data
    outcome = call("task=evaluate", f"run={run}", *without_data, cwd=run.parent)
    assert outcome.code == 0
    assert list(run.glob("evaluations/digits-test-*.json"))


def test_the_runs_own_pictures_are_found_from_anywhere_and_where_they_were_moved(tmp_path):
    write_digits(tmp_path)
    assert call(*DATA, "method=linear", "trainer.epochs=1", cwd=tmp_path).code == 0
    run = run_folder(tmp_path / "runs")
    known = json.loads((run / "result.json").read_text())
    (tmp_path / "elsewhere").mkdir()
    assert call("task=evaluate", f"run={run}", cwd=tmp_path / "elsewhere").code == 0
    (path,) = run.glob("evaluations/image_folder-test-*.json")
    assert json.loads(path.read_text())["data"]["fingerprint"] == known["data"]["fingerprint"]
    path.unlink()
    (tmp_path / "digits").rename(tmp_path / "moved")
    said = call("task=evaluate", f"run={run}", cwd=tmp_path).error.splitlines()
    assert said == [f"data.path: no folder {tmp_path}/digits", "these are the run's own data; data=... chooses others"]
    assert call("task=evaluate", f"run={run}", "data.path=moved", cwd=tmp_path).code == 0
    (path,) = run.glob("evaluations/image_folder-test-*.json")
    assert json.loads(path.read_text())["metrics"]["test/accuracy"] == known["metrics"]["test/accuracy"]
    said = call("task=evaluate", f"run={run}", "data.pth=moved", cwd=tmp_path).error
    assert said.startswith("data: unknown pth; ImageFolder takes ")


def test_a_run_that_says_nothing_of_its_data_asks_for_some(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "data": {"resize": "squash"}}))
    said = call("task=evaluate", f"run={run}", cwd=run.parent).error
    assert said == f"run: {run}/config.yaml does not say on which data; write data=digits or another"
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "data": {"_target_": "this.Zen"}}))
    said = call("task=evaluate", f"run={run}", cwd=run.parent).error
    assert said.startswith(f"run: {run}/config.yaml: data._target_: 'this.Zen' is not imported for a file, ")


def test_observations_are_rounded_as_in_the_run(tmp_path):
    assert call(*SMOKE, "features.dtype=bf16", cwd=tmp_path).code == 0
    run = run_folder(tmp_path / "runs")
    known = json.loads((run / "result.json").read_text())["metrics"]["test/loss"]
    assert evaluate(run)["metrics"]["test/loss"] == pytest.approx(known, rel=ROUNDING)  # without features.dtype=bf16
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "features": {}}))
    shutil.rmtree(run / "evaluations")
    assert evaluate(run)["metrics"]["test/loss"] != pytest.approx(known, rel=10 * ROUNDING)


def test_it_prints_a_table_and_says_where_the_scores_are(run):
    outcome = call("task=evaluate", f"run={run}", *SMOKE, "out=scores", cwd=run.parent)
    assert "test (40 images)" in outcome.out
    (path,) = (run.parent / "scores").glob("*.json")
    accuracy = json.loads(path.read_text())["metrics"]["test/accuracy"]
    assert f"{100 * accuracy:.2f}" in outcome.out
    assert not (run / "evaluations").exists()


def test_several_runs_have_their_scores_in_one_folder(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other" / run.name)
    for each in (run, other, run):
        assert call("task=evaluate", f"run={each}", *SMOKE, "out=scores", cwd=tmp_path).code == 0
    for ending in ("json", "parquet", "png"):
        assert len(list((tmp_path / "scores").glob(f"{run.name}-digits-test-*.{ending}"))) == 2


def test_classes_are_matched_by_name(run, monkeypatch):
    (run.parent / "own_data.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(run.parent)
    tested = "data.test_size=null"
    whole = evaluate(run, tested)["metrics"]
    turned = evaluate(run, tested, "data._target_=own_data.Reversed")["metrics"]
    assert turned["test/accuracy"] == whole["test/accuracy"] > 0
    assert turned["test/loss"] == pytest.approx(whole["test/loss"])
    low, high = (evaluate(run, tested, f"data._target_=own_data.{part}") for part in ("Low", "High"))
    assert (low["classes"], high["classes"]) == ({"data": 4, "adapter": 10}, {"data": 6, "adapter": 10})
    correct = sum(part["metrics"]["test/accuracy"] * part["images"]["test"] for part in (low, high))
    assert correct == pytest.approx(whole["test/accuracy"] * 359)


def test_a_class_that_the_adapter_does_not_know_is_refused(run):
    for number, label in enumerate(("7", "cat", "dog", "eel", "fox")):
        (run.parent / "pets" / label).mkdir(parents=True)
        for copy in range(5):
            Image.new("RGB", (8, 8), (number, copy, 0)).save(run.parent / "pets" / label / f"{copy}.png")
    arguments = ("data=image_folder", "data.path=pets", "data.train_size=null")
    said = refused(run, *arguments, cwd=run.parent)
    assert said[0] == "data: 4 of 5 classes are unknown to the adapter: 'cat', 'dog', 'eel', ..."
    assert said[1] == "it knows 10: '0', '1', '2', ..."


def test_a_split_that_is_not_there_is_refused(run):
    (said,) = refused(run, "task.split=val", "data.val_fraction=0", cwd=run.parent)
    assert said.startswith("task.split: got 'val', but these data have none; ")


def test_only_the_split_that_is_scored_is_read(run):
    for split in ("train", "test"):
        for label in ("3", "7"):
            (run.parent / "figures" / split / label).mkdir(parents=True)
            for copy in range(4):
                path = run.parent / "figures" / split / label / f"{copy}.png"
                Image.new("RGB", (8, 8), (copy, 0, 0)).save(path)
    (run.parent / "figures" / "train" / "3" / "0.png").write_bytes(b"no picture")
    data = ("data=image_folder", "data.path=figures", "data.train_size=null")
    assert evaluate(run, *data)["images"] == {"test": 8}
    assert "cannot read" in refused(run, *data, "task.split=train", cwd=run.parent)[0]


def test_another_way_to_resize_than_the_runs_is_said(run):
    outcome = call("task=evaluate", f"run={run}", *SMOKE, "data.resize=crop", cwd=run.parent)
    assert "data.resize=crop here, squash in the run" in outcome.out


def test_a_folder_with_an_adapter_and_its_backbone_is_enough(run):
    known = evaluate(run)["metrics"]
    shutil.rmtree(run / "evaluations")
    (run / "result.json").unlink()
    (run / "metrics.jsonl").unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({key: config[key] for key in ("backbone", "seed")}))
    assert evaluate(run)["metrics"] == known


def test_weights_that_lie_elsewhere_are_found_by_checkpoint(tmp_path):
    shutil.copy(WEIGHTS, tmp_path / "there.safetensors")
    arguments = ("experiment=demo", "method=linear", "trainer.epochs=1", "data.train_size=40")
    assert call(*arguments, "backbone.checkpoint=there.safetensors", cwd=tmp_path).code == 0
    run = run_folder(tmp_path / "runs")
    (tmp_path / "there.safetensors").rename(tmp_path / "here.safetensors")
    said = refused(run, cwd=tmp_path)
    assert said[0] == f"backbone.checkpoint: no file {tmp_path}/there.safetensors"
    assert said[1].startswith("checkpoint=FILE says where ")
    found = evaluate(run, f"checkpoint={tmp_path}/here.safetensors", "data.test_size=null")
    known = json.loads((run / "result.json").read_text())
    assert found["metrics"] == pytest.approx({key: known["metrics"][key] for key in found["metrics"]}, rel=ROUNDING)
    assert found["backbone"] == known["backbone"]


def test_an_adapter_of_another_backbone_is_refused(run):
    belongs = json.loads((run / "result.json").read_text())["backbone"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "seed": 1}))  # of which random weights are drawn
    said = refused(run, cwd=run.parent)
    assert f"was trained on other weights ({belongs['name']}, hash {belongs['hash'][:12]}) than these (hash" in said[0]
    assert said[1].startswith("checkpoint=FILE says where ")


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def test_a_file_that_is_no_adapter_is_refused_and_nothing_is_unpickled(run):
    adapter, trace = run / "adapter.safetensors", run / "trace"
    whole = adapter.read_bytes()
    save_file({"weight": torch.zeros(3)}, run / "foreign.safetensors")
    broken = {
        "truncated": whole[:-10],
        "empty": b"",
        "pickled": pickle.dumps(Bomb(trace)),
        "foreign": (run / "foreign.safetensors").read_bytes(),
        "of no classes": whole.replace(b'"classes"', b'"klasses"', 1),
        "of broken values": whole.replace(b'"phases":"1"', b'"phases":"x"', 1),
    }
    for content in broken.values():
        assert content != whole
        adapter.write_bytes(content)
        (said,) = refused(run, cwd=run.parent)
        assert said.startswith("run: ")
        assert str(adapter) in said
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("backbone: [", "no YAML: "),
        ("seed: 0", "must hold the keys of a run, backbone and seed at least"),
        ("- backbone", "must hold the keys of a run, backbone and seed at least"),
        ("{seed: 0, backbone: {_target_: peft_vision.head.base.Head}}", "backbone: Head is not a Backbone"),
        ("{seed: 0, backbone: !!python/object/apply:os.system [touch trace]}", "no YAML: "),
    ],
)
def test_a_config_that_builds_no_backbone_is_refused(content, fault, run):
    (run / "config.yaml").write_text(content)
    (said,) = refused(run, cwd=run.parent)
    assert said.startswith("run: ")
    assert f"{run}/config.yaml: {fault}" in said
    assert not (run.parent / "trace").exists()


def test_a_folder_that_is_no_finished_run_is_named(run):
    assert refused("nowhere", cwd=run.parent) == [f"run: no folder {run.parent}/nowhere"]
    (said,) = refused(run.parent, cwd=run.parent)
    assert said.startswith(f"run: no config.yaml and no adapter.safetensors in {run.parent}, ")
    assert said.endswith("it holds folders of runs: run")
    (run / "state.pt").touch()  # left by a kill after the result was written, it says nothing
    (run / "result.json").rename(run / "elsewhere.json")
    assert "is not finished; start its command again" in refused(run, cwd=run.parent)[0]
    (run / "elsewhere.json").rename(run / "result.json")
    (run / "adapter.safetensors").unlink()
    (said,) = refused(run, cwd=run.parent)
    assert said == f"run: no adapter.safetensors in {run}, which every finished run has"


def test_a_run_is_needed_and_may_lie_in_the_home_of_the_user(run, monkeypatch):
    assert call("task=evaluate", *SMOKE, cwd=run.parent).error == "run: no value; give one with run=..."
    monkeypatch.setenv("HOME", str(run.parent))
    assert call("task=evaluate", "run=~/run", *SMOKE, cwd=run.parent).code == 0
