"""`peft-vision task=predict`: a folder of pictures, labelled by a saved adapter."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageFont
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from command import call
from peft_vision.task.answers import stems
from peft_vision.task.contact_sheet import COLUMNS, TILE

CLASSES = [str(digit) for digit in range(10)]
NUM_PICTURES = 30


@pytest.fixture
def here(trained, tmp_path) -> Path:
    """Holds `run` and `photos`, three pictures of each digit in a folder of its own."""
    shutil.copytree(trained, tmp_path / "run")
    digits = load_digits()
    for number in range(NUM_PICTURES):
        digit = number % 10
        index = (digits.target == digit).nonzero()[0][number // 10]
        folder = tmp_path / "photos" / f"{digit}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[index] * 15).astype("uint8")).save(folder / f"{number}.png")
    return tmp_path


def predict(here: Path, *arguments: str) -> str:
    """What it prints."""
    outcome = call("task=predict", "run=run", "images=photos", *arguments, cwd=here)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


def refused(here: Path, *arguments: str) -> str:
    return call("task=predict", "run=run", "images=photos", *arguments, cwd=here).error


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def rows_of(here: Path, out: str) -> list[dict[str, str]]:
    predict(here, out)
    return rows(here / out.removeprefix("out=") / "predictions.csv")


def test_every_picture_gets_its_class_and_probabilities_that_sum_to_one(here):
    said = predict(here)
    assert f"labelled  30 pictures of {here}/photos" in said
    path = here / "run" / "predictions" / "photos" / "predictions.csv"
    assert path.read_text().splitlines()[0].split(",") == ["file", "class", "probability", *CLASSES]
    found = rows(path)
    files = [row["file"] for row in found]
    assert files == sorted(str(p.relative_to(here / "photos")) for p in (here / "photos").rglob("*.png"))
    for row in found:
        probabilities = {label: float(row[label]) for label in CLASSES}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert row["class"] == max(probabilities, key=probabilities.get)
        assert row["probability"] == row[row["class"]]


def test_the_classes_are_those_that_evaluate_scores(here):
    predict(here)
    found = rows(here / "run" / "predictions" / "photos" / "predictions.csv")
    accuracy = sum(row["class"] == row["file"].split("/")[0] for row in found) / NUM_PICTURES
    for split in ("train", "test"):
        shutil.copytree(here / "photos", here / "sorted" / split)
    data = ("data=image_folder", "data.path=sorted", "data.val_fraction=0")
    assert call("task=evaluate", "run=run", *data, cwd=here).code == 0
    (path,) = (here / "run" / "evaluations").glob("*.json")
    assert json.loads(path.read_text())["metrics"]["test/accuracy"] == pytest.approx(accuracy)
    assert accuracy > 0.15


def test_batches_and_loader_processes_change_nothing(here):
    predict(here, "out=one")
    predict(here, "out=other", "trainer.eval_batch_size=7", "data.workers=0")
    for one, other in zip(
        rows(here / "one" / "predictions.csv"), rows(here / "other" / "predictions.csv"), strict=True
    ):
        assert (one["file"], one["class"]) == (other["file"], other["class"])
        assert [float(one[label]) for label in CLASSES] == pytest.approx(
            [float(other[label]) for label in CLASSES], abs=1e-5
        )


def test_a_picture_that_cannot_be_read_is_left_out_and_said(here):
    (here / "photos" / "0" / "0.png").write_bytes(b"no picture")
    (here / "photos" / "broken.jpg").write_bytes(b"")
    (here / "photos" / "notes.txt").write_text("no picture, and none by its name")
    said = predict(here, "out=out")
    assert "left out 2 corrupt images: " in said
    assert f"{here}/photos/0/0.png" in said
    assert "labelled  29 pictures" in said
    files = [row["file"] for row in rows(here / "out" / "predictions.csv")]
    assert len(files) == 29
    assert not {"0/0.png", "broken.jpg", "notes.txt"} & set(files)


def test_whatever_lies_in_the_folder_it_comes_to_an_end(here):
    photos, before = here / "photos", {row["file"] for row in rows_of(here, "out=before")}
    (photos / "0" / "x.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")
    os.mkfifo(photos / "1" / "x.png")
    (photos / "2" / "x.webp").symlink_to("/dev/zero")
    for left in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(photos / "3", photos / "3" / left)
    (photos / "4" / "up").symlink_to(photos)
    (photos / "caf\udce9.png").write_bytes((photos / "0" / "0.png").read_bytes())
    after = {row["file"] for row in rows_of(here, "out=after")}
    assert after == {*before, "caf\udce9.png"}


def test_only_unreadable_pictures_are_an_error(here):
    for path in (here / "photos").rglob("*.png"):
        path.write_bytes(b"no picture")
    assert refused(here).startswith(f"images: none of the 30 pictures in {here}/photos can be read; 0/0.png: ")


def test_the_sheet_shows_both_ends_and_no_picture_twice(here):
    predict(here, "out=out", "task.sheet_images=14")
    with Image.open(here / "out" / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"
        two_rows_each = sheet.size
    assert COLUMNS * TILE < two_rows_each[0] < (COLUMNS + 1) * TILE
    predict(here, "out=out", "task.sheet_images=12")
    with Image.open(here / "out" / "contact_sheet.png") as sheet:
        assert sheet.width == two_rows_each[0]
        assert 2 * TILE < sheet.height < two_rows_each[1] - 2 * TILE
    for path in sorted((here / "photos").rglob("*.png"))[1:]:
        path.unlink()
    predict(here, "out=out")
    with Image.open(here / "out" / "contact_sheet.png") as sheet:
        assert TILE < sheet.width < 2 * TILE
        assert TILE < sheet.height < 2 * TILE


def test_a_font_for_names_that_are_no_ascii(here):
    assert "task.font" not in predict(here)
    assert refused(here, "task.font=nowhere.ttf").startswith("task.font: cannot open 'nowhere.ttf' ")
    adapter = here / "run" / "adapter.safetensors"
    with safe_open(adapter, framework="pt") as file:
        metadata = file.metadata()
    names = ["Bär", "Käfer", *CLASSES[2:]]
    save_file(load_file(adapter), adapter, metadata={**metadata, "classes": json.dumps(names)})
    assert "'Bär' and others needs more; set task.font=FILE.ttf" in predict(here, "out=out")
    assert set(names) < set(rows(here / "out" / "predictions.csv")[0])
    (here / "mine.ttf").write_bytes(ImageFont.load_default(20).path.getvalue())
    assert "task.font" not in predict(here, "task.font=mine.ttf")


def test_hostile_names_run_nowhere(here):
    adapter = here / "run" / "adapter.safetensors"
    with safe_open(adapter, framework="pt") as file:
        metadata = file.metadata()
    names = [f"={digit}\x1b[2J" for digit in CLASSES]
    save_file(load_file(adapter), adapter, metadata={**metadata, "classes": json.dumps(names)})
    (here / "photos" / "0" / "0.png").rename(here / "photos" / "=0\x1b[2J.png")
    (here / "photos" / "-\x1b[2J.png").write_bytes(b"no picture")
    assert "\x1b" not in predict(here, "out=out")
    found = rows(here / "out" / "predictions.csv")
    assert list(found[0])[3:] == [f"'{name}" for name in names]
    assert [row["file"] for row in found if "=" in row["file"]] == ["'=0\x1b[2J.png"]
    assert {row["class"][:2] for row in found} == {"'="}


def test_how_to_resize_must_be_known(here):
    path = here / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    predict(here, "out=known")
    del config["data"]
    path.write_text(yaml.safe_dump(config))
    assert "task.resize=squash or task.resize=crop" in refused(here)
    predict(here, "out=given", "task.resize=squash")
    assert (here / "known" / "predictions.csv").read_text() == (here / "given" / "predictions.csv").read_text()


def cells(said: str) -> list[list[str]]:
    """The rows of the table that is printed."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]


def test_many_pictures_are_counted_by_class_on_the_terminal(here):
    said = predict(here, "out=out")
    labels = [row["class"] for row in rows(here / "out" / "predictions.csv")]
    counted = {name: int(count) for name, count, _ in cells(said)}
    assert counted == {name: labels.count(name) for name in labels}
    assert list(counted.values()) == sorted(counted.values(), reverse=True)
    (label, count, mean), *_ = cells(said)
    shares = [float(row["probability"]) for row in rows(here / "out" / "predictions.csv") if row["class"] == label]
    assert float(mean) == pytest.approx(100 * sum(shares) / int(count), abs=0.06)


def test_one_picture_is_labelled_on_the_terminal_and_filed_under_its_name(here):
    predict(here, "out=out")
    whole = {row["file"]: row for row in rows(here / "out" / "predictions.csv")}
    said = call("task=predict", "run=run", "images=photos/3/3.png", cwd=here)
    assert (said.code, said.err) == (0, "")
    assert f"labelled  1 picture of {here}/photos/3/3.png" in said.out
    ((file, label, probability, then),) = cells(said.out)
    assert (file, label) == ("3.png", whole["3/3.png"]["class"])
    assert float(probability) == pytest.approx(100 * float(whole["3/3.png"]["probability"]), abs=0.06)
    others = sorted((float(whole["3/3.png"][name]) for name in CLASSES), reverse=True)[1:3]
    assert [float(word.split()[-1]) for word in then.split(", ")] == pytest.approx([100 * x for x in others], abs=0.06)
    (row,) = rows(here / "run" / "predictions" / "3" / "predictions.csv")
    assert row["file"] == "3.png"


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("photos/3/*.png", ["13.png", "23.png", "3.png"]),
        ("photos/[34]/?.png", ["3/3.png", "4/4.png"]),
        ("[photos/3/3.png,photos/4]", ["3/3.png", "4/14.png", "4/24.png", "4/4.png"]),
        ("[photos/4,photos/4/*.png,photos/4/4.png]", ["14.png", "24.png", "4.png"]),
        ("photos/**/9.png", ["9.png"]),
    ],
)
def test_patterns_and_lists_name_each_picture_once(here, images: str, expected: list[str]):
    images = f"'{images}'" if "?" in images else images  # a list is none in quotes
    outcome = call("task=predict", "run=run", f"images={images}", "out=out", cwd=here)
    assert (outcome.code, outcome.err) == (0, "")
    assert [row["file"] for row in rows(here / "out" / "predictions.csv")] == expected
    assert [row[0] for row in cells(outcome.out)] == expected


def test_a_picture_without_an_ending_is_read_where_it_is_named_itself(here):
    (here / "photos" / "3" / "3.png").rename(here / "scan")
    assert call("task=predict", "run=run", "images=scan", "out=out", cwd=here).code == 0
    assert [row["file"] for row in rows(here / "out" / "predictions.csv")] == ["scan"]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("no.png", "images: no file {here}/no.png"),
        ("photos/*.gif", "images: nothing matches {here}/photos/*.gif"),
        ("[photos,no]", "images: no folder {here}/no"),
        ("[]", "images: an empty list; name a picture, a folder, or a pattern such as photos/*.jpg"),
        ("run/config.yaml", "images: none of the 1 pictures in {here}/run/config.yaml can be read; config.yaml: "),
    ],
)
def test_pictures_that_are_not_there_are_named(here, images: str, said: str):
    assert call("task=predict", "run=run", f"images={images}", cwd=here).error.startswith(said.format(here=here))


def test_keys_that_are_wrong_or_missing_are_answered_with_those_that_are_needed(here):
    error = call("task=predict", "rnu=run", "images=photos", cwd=here).error
    assert error.startswith("unknown key rnu; this task takes run, images, checkpoint, out, ")
    assert error.endswith("; did you mean run?")
    assert call("task=predict", cwd=here).error == "run, images: no value; give them with run=... and images=..."


def test_what_is_missing_is_said(here):
    assert call("task=predict", "images=photos", cwd=here).error == "run: no value; give one with run=..."
    assert call("task=predict", "run=run", cwd=here).error == "images: no value; give one with images=..."
    assert call("task=predict", "run=run", "images=no", cwd=here).error == f"images: no folder {here}/no"
    (here / "empty").mkdir()
    assert call("task=predict", "run=run", "images=empty", cwd=here).error.startswith(
        f"images: no picture in {here}/empty; "
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b/a.jpg", "c/a.jpg", "d.e.png"], ["b/a", "c/a", "d.e"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg", "a.png", "a.jpg.png"]),
        (["a", "a.jpg", "b"], ["a", "a.jpg", "b"]),
    ],
)
def test_each_picture_has_a_mask_of_its_own_name(names, expected):
    assert stems(names) == expected


def test_the_names_of_many_masks_take_no_time():
    names = [f"{number}.jpg" for number in range(100_000)]  # comparing each with each would take minutes
    assert stems(names) == [str(number) for number in range(100_000)]
