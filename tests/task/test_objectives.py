"""Several classes, numbers and masks of a picture, from the files that people have: trained, scored again, predicted
and reported by the commands that learn one class."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from command import call, run_folder

TINY = (
    "backbone=vit_micro",
    "backbone.architecture.depth=2",
    "backbone.pretrained=false",
    "backbone.checkpoint=null",
    "method=linear",
    "probe=adamw",
    "tracker=none",
    "trainer.epochs=3",
    "trainer.batch_size=8",
    "data.val_fraction=0.25",
)
SEVERAL = ("data=table", "data.path=labels.csv", "data.labels_are=several", "data.label_columns=[red,tall]")
NUMBERS = ("data=table", "data.path=labels.csv", "data.labels_are=numbers", "data.label_columns=[height,width]")
MASKS = ("data=masks", "data.path=scenes", "data.classes=[ground,box]", "head=segment_linear")
WINDOWS = ("data.resize=crop", "data.crop=0.5", "objective.stride=16")
COUNT = 24


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Boxes on grey ground: their masks, and a table of their sizes and colours."""
    folder = tmp_path_factory.mktemp("objectives")
    random = np.random.default_rng(0)
    rows = []
    for name in ("scenes/images", "scenes/masks"):
        (folder / name).mkdir(parents=True)
    for number in range(COUNT):
        height, width = random.integers(8, 24, 2)
        red = number % 2
        picture, mask = np.full((32, 32, 3), 128, np.uint8), np.zeros((32, 32), np.uint8)
        picture[4 : 4 + height, 4 : 4 + width] = (220, 30, 30) if red else (30, 30, 220)
        mask[4 : 4 + height, 4 : 4 + width] = 1
        Image.fromarray(picture).save(folder / f"scenes/images/{number}.png")
        Image.fromarray(mask).save(folder / f"scenes/masks/{number}.png")
        rows.append([f"scenes/images/{number}.png", red, int(height > width), height, width])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "red", "tall", "height", "width"], *rows])
    return folder


@pytest.fixture(scope="module")
def several(here) -> Path:
    return trained(here, "several", *SEVERAL, "objective=multi_label")


@pytest.fixture(scope="module")
def numbers(here) -> Path:
    return trained(here, "numbers", *NUMBERS, "objective=regression")


@pytest.fixture(scope="module")
def masks(here) -> Path:
    return trained(here, "masks", *MASKS, "objective=segmentation")


@pytest.fixture(scope="module")
def windows(here) -> Path:
    return trained(here, "windows", *MASKS, *WINDOWS, "objective=segmentation")


def trained(here: Path, runs: str, *arguments: str) -> Path:
    outcome = call(*TINY, *arguments, f"runs={runs}", cwd=here)
    assert (outcome.code, outcome.err) == (0, "")
    return run_folder(here / runs)


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def predicted(here: Path, run: Path) -> Path:
    outcome = call("task=predict", f"run={run}", "images=scenes/images", f"out={run.parent}-out", cwd=here)
    assert outcome.code == 0, outcome.err
    return here / f"{run.parent}-out"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("run", "metric", "others"),
    [
        ("several", "mean_average_precision", {"auroc", "f1_micro", "f1_macro", "threshold", "loss"}),
        ("numbers", "r2", {"mae", "rmse", "spearman", "mae/height", "r2/width", "loss"}),
        ("masks", "mean_iou", {"mean_accuracy", "pixel_accuracy", "loss"}),
    ],
)
def test_a_result_has_its_metrics_and_says_by_which_it_is_chosen(run, metric, others, request):
    found = result(request.getfixturevalue(run))
    assert found["chosen_by"]["name"] == metric
    names = {name.removeprefix("test/") for name in found["metrics"] if name.startswith("test/")}
    assert names >= {metric, *others}
    assert "test/accuracy" not in found["metrics"]


@pytest.mark.parametrize("run", ["several", "numbers", "masks"])
def test_the_same_command_again_finds_it_done(run, here, request):
    arguments = {"several": (*SEVERAL, "objective=multi_label"), "numbers": (*NUMBERS, "objective=regression")}
    words = arguments.get(run, (*MASKS, "objective=segmentation"))
    request.getfixturevalue(run)
    outcome = call(*TINY, *words, f"runs={run}", cwd=here)
    assert "already finished" in outcome.out


def test_a_sweep_of_rates_of_a_head_for_pixels_runs_the_backbone_once_an_image(here):
    words = ("-m", *TINY, *MASKS, "objective=segmentation", "optimizer.lr=1e-3,1e-2,1e-1", "features.folder=new")
    for windows, runs in (((), "rates"), (WINDOWS, "rates_of_windows")):
        outcome = call(*words, *windows, f"runs={runs}", cwd=here)
        assert outcome.code == 0, outcome.err
        found = [json.loads(path.read_text()) for path in (here / runs).glob("*/result.json")]
        images = found[0]["data"]["images"]
        scored = {split: count * (9 if windows and split != "train" else 1) for split, count in images.items()}
        assert len(found) == 3
        assert {split: sum(each["backbone_images"][split] for each in found) for split in images} == scored


@pytest.mark.parametrize("run", ["several", "numbers", "masks", "windows"])
def test_a_saved_run_is_scored_again_to_the_same_figures(run, here, request):
    folder = request.getfixturevalue(run)
    outcome = call("task=evaluate", f"run={folder}", cwd=here)
    assert outcome.code == 0, outcome.err
    (written,) = (folder / "evaluations").glob("*.json")
    metrics = json.loads(written.read_text())["metrics"]
    expected = {name: value for name, value in result(folder)["metrics"].items() if name.startswith("test/")}
    assert metrics == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("run", "path"), [("several", "night.csv"), ("numbers", "night.csv"), ("masks", "night")])
def test_a_run_is_scored_on_data_of_its_kind_from_elsewhere(run, path, here, request):
    """The same boxes at night."""
    for kind in ("images", "masks"):
        (here / "night" / kind).mkdir(parents=True, exist_ok=True)
        for file in sorted((here / "scenes" / kind).glob("*.png")):
            values = np.asarray(Image.open(file))
            Image.fromarray(values // 8 if kind == "images" else values).save(here / "night" / kind / file.name)
    (here / "night.csv").write_text((here / "labels.csv").read_text().replace("scenes/", "night/"))
    folder = request.getfixturevalue(run)
    outcome = call("task=evaluate", f"run={folder}", f"data.path={path}", f"out={run}-night", cwd=here)
    assert (outcome.code, outcome.err) == (0, "")
    (written,) = (here / f"{run}-night").glob("*.json")
    metrics, expected = json.loads(written.read_text())["metrics"], result(folder)["metrics"]
    assert metrics.keys() == {name for name in expected if name.startswith("test/")}
    assert metrics["test/loss"] != pytest.approx(expected["test/loss"], rel=1e-3)


@pytest.mark.parametrize("run", ["several", "numbers", "masks", "windows"])
def test_kept_predictions_are_those_that_predict_and_evaluate_make(run, here, request):
    folder = request.getfixturevalue(run)
    found = [row for row in parquet.read_table(folder / "predictions.parquet").to_pylist() if row["split"] == "test"]
    outcome = call("task=evaluate", f"run={folder}", f"out={run}-scores", cwd=here)
    assert (outcome.code, outcome.err) == (0, "")
    (path,) = (here / f"{run}-scores").glob("*.parquet")
    assert path.with_suffix(".png").is_file()
    assert ("worst" in outcome.out) == (run != "numbers")
    scored = parquet.read_table(path).to_pylist()
    dense = run in ("masks", "windows")
    told = {} if dense else {row["file"]: row for row in rows(predicted(here, folder) / "predictions.csv")}
    assert [row["path"] for row in scored] == [row["path"] for row in found]
    for row, again in zip(found, scored, strict=True):
        said = told.get(Path(row["path"]).name)
        if dense:
            assert row["cells"] == again["cells"]
            assert row["pixels"] == again["pixels"]
            assert sum(row["pixels"]) == 32 * 32
        elif run == "several":
            assert [float(said[name]) for name in ("red", "tall")] == pytest.approx(row["probabilities"], rel=1e-3)
            assert said["classes"] == ";".join(row["prediction"])
        else:
            assert [float(said[name]) for name in ("height", "width")] == pytest.approx(row["prediction"], rel=1e-3)
            assert again["truth"] == row["truth"]


def test_several_classes_are_those_above_the_threshold_of_validation(here, several):
    threshold = result(several)["metrics"]["test/threshold"]
    found = rows(predicted(here, several) / "predictions.csv")
    assert len(found) == COUNT
    for row in found:
        present = [name for name in ("red", "tall") if float(row[name]) >= threshold - 1e-6]
        assert row["classes"] == ";".join(present)


def test_numbers_are_in_their_own_unit(here, numbers):
    found = rows(predicted(here, numbers) / "predictions.csv")
    assert [*found[0]] == ["file", "height", "width"]
    assert 8 < np.mean([float(row["height"]) for row in found]) < 24


def test_masks_are_palette_pictures_of_the_size_of_their_pictures(here, masks):
    out = predicted(here, masks)
    with Image.open(out / "masks/3.png") as mask, Image.open(out / "overlays/3.png") as overlay:
        assert (mask.mode, mask.size) == ("P", (32, 32))
        assert set(np.unique(np.array(mask))) <= {0, 1}
        assert overlay.mode == "RGB"
    assert (out / "contact_sheet.png").is_file()


def test_a_report_shows_each_objective_by_its_own_metric(here, several, numbers, masks):
    outcome = call("task=report", "runs=[several,numbers,masks]", "out=report", cwd=here)
    assert outcome.code == 0, outcome.err
    board = rows(here / "report/leaderboard.csv")
    metrics = {row["metric"]: float(row["mean"]) for row in board}
    for run in (several, numbers, masks):
        found = result(run)
        name = found["chosen_by"]["name"]
        assert metrics[name] == pytest.approx(found["metrics"][f"test/{name}"])
    text = (here / "report/leaderboard.md").read_text()
    assert "mean iou" in text
    text = (here / "report/report.html").read_text()
    assert all(heading in text for heading in ("average precision, %", "IoU, %", "Predicted against true numbers"))
    of_classes = {path.name.rpartition("-")[0]: rows(path) for path in (here / "report").glob("*-classes.csv")}
    (overlaps,) = [found for found in of_classes.values() if "iou" in found[0]]
    assert np.mean([float(row["iou"]) for row in overlaps]) == pytest.approx(metrics["mean_iou"])
    assert len(of_classes) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SEVERAL,), "objective: it learns one class a picture"),
        ((*NUMBERS, "objective=multi_label"), "objective: it learns several classes a picture"),
        ((*MASKS[:-1], "objective=segmentation"), "head: it predicts one thing a picture"),
        ((*SEVERAL, "objective=multi_label", "head=segment_linear"), "head: it predicts each pixel"),
        ((*SEVERAL, "objective=multi_label", "optimizer=grid"), "optimizer: Grid solves for one class a picture"),
        ((*NUMBERS, "objective=regression", "trainer.label_smoothing=0.1"), "trainer.label_smoothing: got 0.1"),
        ((*MASKS, "objective=segmentation", "method=vqt"), "VQT makes one vector of it, so it cannot segment"),
        ((*SEVERAL, "objective=multi_label", "ood=stl10"), "task=evaluate run=FOLDER data.path=FOLDER scores a run on"),
        ((*MASKS, "objective=segmentation", "objective.stride=8"), "objective.stride: got 8, and data.resize=squash"),
        ((*MASKS, *WINDOWS[:-1], "objective=segmentation", "objective.stride=40"), "windows of 32 x 32 it leaves gaps"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_trained(here, arguments, said):
    outcome = call(*TINY, *arguments, "runs=refused", cwd=here)
    assert said in outcome.error
    assert not list((here / "refused").glob("*/result.json"))


def test_an_answer_of_a_picture_is_explained_and_those_of_pixels_are_not(here, several, numbers, masks):
    asked = ("task=explain", "images=scenes/images/0.png", "task.map=grad_cam")
    assert "by Grad-CAM of width\n" in call(*asked, f"run={numbers}", "task.class_name=width", cwd=here).out
    assert "by Grad-CAM\n" in call(*asked, f"run={several}", cwd=here).out
    said = call(*asked, f"run={masks}", cwd=here).error
    assert said == "run: it has an answer for each pixel; task=predict shows them over the pictures"
