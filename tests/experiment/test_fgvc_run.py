"""Whole runs on FGVC, as a user starts them: windows in training, centres elsewhere."""

import json
from pathlib import Path

import pytest
from PIL import Image

from command import call, run_folder
from fgvc_miniatures import cub200
from peft_vision.runs.run import Run
from test_resume import Killed, assert_same_run

RUN = ("experiment=smoke", "data=fgvc/cub200", "data.miniature=true", "data.train_size=null", "method=lora")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("fgvc") / "datasets"
    noise = Image.effect_noise((400, 300), 90).convert("RGB")
    cub200(root, lambda key, width, height: noise.crop((5 * key, 3 * key, 5 * key + 70, 3 * key + 50 + 2 * key)))
    return root


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    """The folder of a run that nothing stopped."""
    outcome = call(*RUN, f"data.root={root}", cwd=root.parent)
    assert (outcome.code, outcome.err) == (0, "")
    return run_folder(root.parent / "runs")


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_a_run_says_what_it_was_trained_on(run: Path):
    found = result(run)
    assert found["data"]["group"] == "fgvc"
    assert found["data"]["provenance"]["source"] == "release"
    assert "miniature: proves nothing about accuracy" in found["data"]["source"]
    assert found["preprocessing"]["crop"] == 0.875


def test_memory_and_disk_train_the_same_weights(root: Path, run: Path, tmp_path: Path):
    assert call(*RUN, f"data.root={root}", "data.cache=false", "data.workers=2", cwd=tmp_path).code == 0
    assert_same_run(run_folder(tmp_path / "runs"), run)


def test_a_run_killed_after_an_epoch_ends_as_if_it_had_not_been(root: Path, run: Path, tmp_path: Path):
    write = Run.write_state

    def killed(*arguments):
        write(*arguments)
        raise Killed

    words = (*RUN, f"data.root={root}", "trainer.save_seconds=0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "write_state", killed)
        with pytest.raises(Killed):
            call(*words, cwd=tmp_path)
    assert call(*words, cwd=tmp_path).code == 0
    assert_same_run(run_folder(tmp_path / "runs"), run)


def test_evaluation_scores_the_same_centres(root: Path, run: Path):
    outcome = call("task=evaluate", f"run={run}", *RUN, f"data.root={root}", cwd=run.parent)
    assert (outcome.code, outcome.err) == (0, "")
    (path,) = run.glob("evaluations/*.json")
    scored = json.loads(path.read_text())
    assert scored["metrics"]["test/loss"] == pytest.approx(result(run)["metrics"]["test/loss"], rel=1e-6)
    assert scored["preprocessing"]["crop"] == 0.875


def test_evaluation_says_when_images_are_cropped_in_another_way(root: Path, run: Path, tmp_path: Path):
    words = ("task=evaluate", f"run={run}", *RUN, f"data.root={root}", "data.crop=0.5", f"out={tmp_path}/scores")
    outcome = call(*words, cwd=run.parent)
    assert outcome.code == 0
    assert "data.crop=0.5 here, 0.875 in the run: its images were cropped in another way" in outcome.out + outcome.err


def test_prediction_shows_the_centres_that_testing_did(root: Path, run: Path, tmp_path: Path):
    images = root / "CUB_200_2011" / "images"
    outcome = call("task=predict", f"run={run}", f"images={images}", f"out={tmp_path}", cwd=run.parent)
    assert (outcome.code, outcome.err) == (0, "")
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert rows[0] == "file,class,probability,001.Black_footed_Albatross,002.Laysan_Albatross,003.Sooty_Albatross"
    assert len(rows) == 1 + 18


def test_windows_are_stored_as_views_and_never_as_the_images(root: Path, tmp_path: Path):
    linear = (*RUN, f"data.root={root}", "method=linear", f"features.folder={tmp_path}/store")
    assert call(*linear, "runs=plain", cwd=tmp_path).code == 0
    stored = result(run_folder(tmp_path / "plain"))["store"]["splits"]
    assert stored["train"]["reason"].startswith("data.augment=crop_flip makes the images new in each epoch")
    assert stored["test"]["reason"] is None
    assert call(*linear, "features.views=2", "runs=views", cwd=tmp_path).code == 0
    with_views = result(run_folder(tmp_path / "views"))
    assert with_views["store"]["splits"]["train"]["reason"] is None
    assert with_views["backbone_images"]["train"] == 2 * 11
    assert with_views["store"]["splits"]["test"]["found"] == ["features"]


def test_few_shots_tune_and_end(root: Path, tmp_path: Path):
    for stage, images in (("tune", {"train": 6, "val": 6}), ("final", {"train": 6, "test": 6})):
        words = (*RUN, f"data.root={root}", "data.shots=2", f"data.stage={stage}", f"runs={stage}")
        assert call(*words, cwd=tmp_path).code == 0
        assert result(run_folder(tmp_path / stage))["data"]["images"] == images
