"""Several classes, numbers and masks of a picture, from the files that people have: trained, scored again, predicted
and reported by the commands that learn one class."""

import csv
import json
import re
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from safetensors import safe_open
from safetensors.torch import save_file

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
WORDS = {
    "several": (*SEVERAL, "objective=multi_label"),
    "numbers": (*NUMBERS, "objective=regression"),
    "masks": (*MASKS, "objective=segmentation"),
    "windows": (*MASKS, *WINDOWS, "objective=segmentation"),
}


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


@pytest.fixture(scope="module")
def balanced_masks(here) -> Path:
    return trained(here, "balanced_masks", *WORDS["masks"], "objective.class_weights=balanced")


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
    request.getfixturevalue(run)
    outcome = call(*TINY, *WORDS[run], f"runs={run}", cwd=here)
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


@pytest.mark.parametrize("run", [*WORDS, "balanced_masks"])
def test_a_saved_run_is_scored_again_to_the_same_figures(run, here, request):
    folder = request.getfixturevalue(run)
    outcome = call("task=evaluate", f"run={folder}", cwd=here)
    assert outcome.code == 0, outcome.err
    (written,) = (folder / "evaluations").glob("*.json")
    metrics = json.loads(written.read_text())["metrics"]
    expected = {name: value for name, value in result(folder)["metrics"].items() if name.startswith("test/")}
    assert metrics == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def night(here) -> Path:
    """The same boxes at night, in night/ and night.csv."""
    for kind in ("images", "masks"):
        (here / "night" / kind).mkdir(parents=True)
        for file in sorted((here / "scenes" / kind).glob("*.png")):
            values = np.asarray(Image.open(file))
            Image.fromarray(values // 8 if kind == "images" else values).save(here / "night" / kind / file.name)
    (here / "night.csv").write_text((here / "labels.csv").read_text().replace("scenes/", "night/"))
    return here


def copies_of_tested(here: Path, run: Path) -> str:
    """The run's test pictures once more, elsewhere: the path of a folder of masks, or of a table."""
    names = [
        row["path"] for row in parquet.read_table(run / "predictions.parquet").to_pylist() if row["split"] == "test"
    ]
    copies = here / f"{run.parent.name}-again"
    for kind in ("images", "masks"):
        (copies / kind).mkdir(parents=True)
        for name in names:
            copy(here / "scenes" / kind / Path(name).name, copies / kind)
    if result(run)["choices"]["data"] == "masks":
        return copies.name
    heading, *lines = (here / "labels.csv").read_text().splitlines()
    kept = [line.replace("scenes", copies.name) for line in lines if line.split(",")[0] in names]
    assert len(kept) == len(names)
    (here / f"{copies.name}.csv").write_text("\n".join([heading, *kept]))
    return f"{copies.name}.csv"


@pytest.mark.parametrize("run", WORDS)
def test_a_run_of_any_objective_is_scored_out_of_distribution(run, night, request):
    folder, at_night = request.getfixturevalue(run), "night.csv" if run in ("several", "numbers") else "night"
    again = copies_of_tested(night, folder)
    sets = ("ood=elsewhere", f"ood.elsewhere.path={{again: {again}, night: {at_night}}}")
    outcome = call(*TINY, *WORDS[run], f"runs={run}", *sets, cwd=night)
    assert (outcome.code, outcome.err) == (0, "")
    metric, test = result(folder)["chosen_by"], result(folder)["metrics"]
    found = json.loads((folder / "ood.json").read_text())
    assert found["images"] == {"elsewhere/again": result(folder)["data"]["images"]["test"], "elsewhere/night": COUNT}
    scores = {
        name.removeprefix("ood/elsewhere/again/"): value
        for name, value in found["metrics"].items()
        if name.startswith("ood/elsewhere/again/") and "distance" not in name
    }
    expected = {name.removeprefix("test/"): value for name, value in test.items() if name.startswith("test/")}
    assert scores == pytest.approx(expected, rel=1e-4)
    values = [found["metrics"][f"ood/elsewhere/{shift}/{metric['name']}"] for shift in ("again", "night")]
    assert found["metrics"]["ood/worst/" + metric["name"]] == min(values)
    assert found["metrics"]["ood/mean/" + metric["name"]] == pytest.approx(sum(values) / 2)
    assert f"elsewhere/night ({COUNT} images)" in outcome.out
    again = call(*TINY, *WORDS[run], f"runs={run}", *sets, cwd=night)
    assert "scoring" not in again.out
    report = call("task=report", f"runs={run}", f"out={run}-ood-report", cwd=night)
    assert report.code == 0, report.err
    (row,) = rows(night / f"{run}-ood-report/table.csv")
    assert float(row[f"ood/elsewhere/{metric['name']} mean"]) == pytest.approx(sum(values) / 2)
    assert "| elsewhere |" in (night / f"{run}-ood-report/table.md").read_text()


def of_the_head_alone(path: Path) -> None:
    """Make of a probe's file what older versions wrote."""
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata(), file.keys()
        tensors = {name: file.get_tensor(name) for name in names if name.startswith("head.")}
    del metadata["crc32"]
    assert len(tensors) < len(names)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(("run", "older"), [("several", False), ("numbers", False), ("numbers", True)])
def test_a_probe_is_scored_as_a_linear_run_out_of_distribution_too(run, older, night, request):
    runs = f"{run}-probed-{older}"
    words = (*TINY, *WORDS[run], "method=lp_ft", f"runs={runs}")
    outcome = call(*words, cwd=night)
    assert (outcome.code, outcome.err) == (0, "")
    folder = run_folder(night / runs)
    if older:
        of_the_head_alone(folder / "probe.safetensors")
    again = copies_of_tested(night, folder)
    outcome = call(*words, "ood=elsewhere", f"ood.elsewhere.path={again}", cwd=night)
    assert (outcome.code, outcome.err) == (0, "")
    metrics = json.loads((folder / "ood.json").read_text())["metrics"]
    linear = result(request.getfixturevalue(run))["metrics"]
    expected = {name.removeprefix("test/"): value for name, value in linear.items() if name.startswith("test/")}
    for scores, prefix in ((result(folder)["metrics"], "probe/test/"), (metrics, "probe/ood/elsewhere/")):
        assert {name: scores[prefix + name] for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("run", ["several", "numbers", "masks"])
def test_weights_of_any_objective_are_interpolated(run, here):
    words = ("method=lora", "interpolation=wise_ft", "interpolation.alphas=[0,0.5,1]", f"runs={run}-alphas")
    outcome = call(*TINY, *WORDS[run], *words, cwd=here)
    assert (outcome.code, outcome.err) == (0, "")
    folder = run_folder(here / f"{run}-alphas")
    metrics, found = result(folder)["metrics"], json.loads((folder / "ood.json").read_text())["interpolation"]
    metric = result(folder)["chosen_by"]["name"]
    last = {name: value for name, value in found["rows"][-1].items() if name != "alpha" and "distance" not in name}
    assert last == pytest.approx({name: metrics[name] for name in last}, rel=1e-3)
    best = max(found["rows"], key=lambda row: (row[f"val/{metric}"], -row["val/loss"]))
    assert found["chosen"] == best["alpha"]
    assert metric.replace("_", " ") in found["rule"]
    if run == "numbers":  # the targets' mean and deviation are not those of an untrained model on the way there
        assert found["rows"][0]["val/mae"] < 8


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        ("scenes", "rename={}", "ood.elsewhere: 14 of its 24 pictures are among the training data, such as"),
        ("nowhere", "rename={}", "ood.elsewhere.path: no folder"),
        ("night", "missing=mask", "ood.elsewhere.missing: got 'mask', should be allow or error: "),
        ("night", "options={classes: [box, ground]}", "ood.elsewhere: its classes are 'box', 'ground', should be the"),
        ("night", "options={colour: 1}", "unknown colour; Masks takes "),
    ],
)
def test_what_cannot_be_scored_out_of_distribution_is_refused_before_training(path, more, said, night):
    words = ("ood=elsewhere", f"ood.elsewhere.path={path}", f"++ood.elsewhere.{more}", "runs=refused")
    assert said in call(*TINY, *WORDS["masks"], *words, cwd=night).error
    assert not list((night / "refused").glob("*/result.json"))


@pytest.mark.parametrize(("run", "path"), [("several", "night.csv"), ("numbers", "night.csv"), ("masks", "night")])
def test_a_run_is_scored_on_data_of_its_kind_from_elsewhere(run, path, night, here, request):
    folder = request.getfixturevalue(run)
    outcome = call("task=evaluate", f"run={folder}", f"data.path={path}", f"out={run}-night", cwd=here)
    assert (outcome.code, outcome.err) == (0, "")
    (written,) = (here / f"{run}-night").glob("*.json")
    metrics, expected = json.loads(written.read_text())["metrics"], result(folder)["metrics"]
    assert metrics.keys() == {name for name in expected if name.startswith("test/")}
    assert metrics["test/loss"] != pytest.approx(expected["test/loss"], rel=1e-3)


def test_a_run_is_not_scored_on_labels_of_another_kind(here, several):
    for number, kind in enumerate(("red", "tall") * 6):
        (here / "kinds" / kind).mkdir(parents=True, exist_ok=True)
        copy(here / f"scenes/images/{number}.png", here / "kinds" / kind)
    outcome = call("task=evaluate", f"run={several}", "data=image_folder", "data.path=kinds", cwd=here)
    assert outcome.error.startswith("objective: it learns several classes a picture (objective=multi_label), and the")


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


@pytest.mark.parametrize("run", ["several", "numbers"])
def test_a_run_of_several_labels_or_numbers_is_exported_and_not_read_back_as_one_class(run, here):
    folder = trained(here, f"{run}-lora", *WORDS[run], "method=lora")
    for kind in ("timm", "peft"):
        outcome = call("task=export", f"run={folder}", f"task.format={kind}", cwd=here)
        assert (outcome.code, outcome.err) == (0, "")
    words = ("task=import", f"file={folder}/export/peft", "out=imported", *TINY[:4])
    assert f"labels_are is {run}, and imports have one class a picture" in call(*words, cwd=here).error


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


class GivesUp:
    """A pruner that wants no second epoch."""

    def __call__(self, epoch: int, rank: float) -> str:
        assert rank < 0  # less is better
        return f"given up after epoch {epoch}"


def test_a_run_of_numbers_that_is_given_up_says_the_error_it_came_to(here, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    pruner = "task.pruner={_target_:test_objectives.GivesUp}"
    chosen = ("objective=regression", "objective.choose_by=rmse")
    outcome = call(*TINY, *NUMBERS, *chosen, pruner, "runs=given_up", cwd=here)
    assert outcome.code == 76
    assert re.fullmatch(r"peft-vision: given up after epoch 1, with rmse \d+\.\d+ on validation\n", outcome.err)


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
        ((*SEVERAL, "objective=multi_label", "ood=stl10"), "ood.stl10: its pictures have one class each (objective="),
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
