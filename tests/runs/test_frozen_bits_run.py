"""A run on a backbone in few bits, through the command: what it says, stores, resumes, exports and refuses."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import peft_vision
from command import call, run_folder
from composed import composed
from peft_vision.core import bitsandbytes
from peft_vision.runs.saved import open_saved
from test_resume import Life, live

pytest.importorskip("bitsandbytes")
FOUR = ("experiment=smoke", "backbone.frozen_bits=4", "trainer.save_seconds=0")
LORA = (*FOUR, "method=lora")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Life:
    life = live(LORA, tmp_path_factory.mktemp("lora"))
    assert "quantized 8 frozen matrices in 4 bit, 0.16 MiB for 1.25 MiB in fp32" in life.said
    return life


@pytest.fixture(scope="module")
def lora(undisturbed) -> Path:
    """The folder of a run that nothing stopped."""
    return undisturbed.folder


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_the_result_counts_the_bytes_of_the_matrices(lora):
    numbers = 2 * 128 * (384 + 128 + 2 * 384)  # of qkv, proj, fc1 and fc2 of two layers
    blocks = numbers // 64
    assert result_of(lora)["quantized"] == {
        "bits": 4,
        "matrices": 8,
        "numbers": numbers,
        "num_bytes": numbers // 2 + blocks + 4 * (blocks // 256 + 8),  # a mean of scales for each matrix
    }
    assert result_of(lora)["parameters"]["backbone"] == 358_016
    assert result_of(lora)["backbone"]["frozen_bits"] == 4


def test_a_run_killed_after_any_epoch_ends_in_the_same_bits(undisturbed, lora, tmp_path):
    undisturbed.is_lived_again_from("write_state", 0, after=True, cwd=tmp_path)
    tensors = load_file(lora / "adapter.safetensors")
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in tensors} == {"down", "up", "0"}


def test_opened_again_it_computes_in_the_same_bits(lora, tmp_path):
    saved = open_saved(str(lora), checkpoint=None, device=torch.device("cpu"))
    assert saved.recipe.frozen_bits == 4
    outcome = call("task=evaluate", f"run={lora}", cwd=tmp_path)
    assert outcome.code == 0, outcome
    accuracy = 100 * result_of(lora)["metrics"]["test/accuracy"]
    assert f"{accuracy:.2f}" in outcome.out
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(peft_vision.load(lora / "adapter.safetensors")(images), saved.model(images))


def test_predictions_are_computed_in_the_same_bits(lora, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    outcome = call("task=predict", f"run={lora}", f"images={folder}", f"out={tmp_path}/out", cwd=tmp_path)
    assert outcome.code == 0, outcome
    (path,) = (tmp_path / "out").rglob("*.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    model = peft_vision.load(lora / "adapter.safetensors")
    images = [np.asarray(Image.open(folder / f"{number}.png")) for number in range(3)]
    with torch.no_grad():
        expected = model(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).softmax(dim=1)
    found = [float(row["probability"]) for row in rows]
    assert found == pytest.approx(expected.max(dim=1).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", ["timm", "peft", "onnx"])
def test_exports_hold_the_matrices_that_it_computed_with(kind, lora, tmp_path):
    outcome = call("task=export", f"run={lora}", f"task.format={kind}", f"out={tmp_path}/out", cwd=tmp_path)
    assert outcome.code == 0, outcome
    difference, largest = map(float, re.search(r"differ by (\S+) at most, of (\S+)", outcome.out).groups())
    assert difference <= 1e-5 * max(1, largest)
    if kind == "peft":
        assert (tmp_path / "out" / "peft" / "backbone.safetensors").exists()


def test_an_export_for_peft_is_imported_on_the_same_bits_alone(lora, tmp_path):
    assert call("task=export", f"run={lora}", "task.format=peft", f"out={tmp_path}", cwd=tmp_path).code == 0
    shape = "backbone.architecture={patch_size:8,embed_dim:128,depth:2,num_heads:4,mlp_ratio:3}"
    again = ("task=import", f"file={tmp_path}/peft", f"out={tmp_path}/again", "backbone=vit_micro", shape)
    again += ("backbone.checkpoint=null",)
    error = call(*again, cwd=tmp_path).error
    assert error == "file: it was trained with backbone.frozen_bits=4, and here that is null"
    assert call(*again, "backbone.frozen_bits=4", cwd=tmp_path).code == 0
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    found, expected = (
        open_saved(str(folder), checkpoint=None, device=torch.device("cpu")).model(images)
        for folder in (tmp_path / "again", lora)
    )
    torch.testing.assert_close(found, expected)


def test_features_are_stored_apart_from_those_of_the_plain_backbone(tmp_path):
    keys = {}
    for bits in ("null", 8, 4):
        arguments = ("experiment=smoke", "method=linear", f"backbone.frozen_bits={bits}", "features.folder=store")
        assert call(*arguments, f"runs=runs{bits}", cwd=tmp_path).code == 0
        keys[bits] = result_of(run_folder(tmp_path / f"runs{bits}"))["store"]["splits"]["train"]["key"]
    assert len(set(keys.values())) == 3


def test_the_default_leaves_the_identity_as_it_was():
    plain = composed("experiment=smoke", "method=lora")
    assert "frozen_bits" not in plain.setting["backbone"]
    four, eight = (composed("experiment=smoke", "method=lora", f"backbone.frozen_bits={bits}") for bits in (4, 8))
    assert four.setting["backbone"] == {**plain.setting["backbone"], "frozen_bits": 4}
    assert len({plain.identity, four.identity, eight.identity}) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("method=full",),
            r"backbone.frozen_bits: 4 is for matrices that do not train, and the method trains blocks.0.attn.qkv",
        ),
        (("method=full", "optimizer=galore_adamw"), r"backbone.frozen_bits: 4 is for matrices that do not train"),
        (
            ("method=partial",),
            r"and the method trains blocks.\d.attn.qkv; set frozen_bits=null, or choose a method such as lora",
        ),
        (("method=lora", "backbone.frozen_bits=2"), r"backbone.frozen_bits: got 2, should be 4 or 8"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(words, message, tmp_path):
    error = call(*FOUR, *words, cwd=tmp_path).error
    assert re.search(message, error), error
    assert "\n" not in error


def test_a_missing_library_comes_with_the_line_that_installs_it_and_finished_runs_are_shown(
    lora, monkeypatch, tmp_path
):
    monkeypatch.setattr(bitsandbytes, "is_installed", lambda: False)
    error = call(*LORA, "seed=5", cwd=tmp_path).error
    said = "backbone.frozen_bits: 4 takes bitsandbytes, which is not installed; pip install 'peft-vision[bits8]'"
    assert error == said
    assert call("task=evaluate", f"run={lora}", cwd=tmp_path).error.endswith(said)
    assert "already finished" in call(*LORA, cwd=lora.parents[1]).out
