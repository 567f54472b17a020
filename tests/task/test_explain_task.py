"""`peft-vision task=explain`: which places of pictures a saved adapter reads."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from command import call, run_folder
from peft_vision.data.decode import Geometry
from peft_vision.task.explain import overlay


@pytest.fixture
def here(trained, tmp_path) -> Path:
    """Holds `run` and `photos`: three digits and a file that is no picture."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "photos" / "in").mkdir(parents=True)
    for number, pixels in enumerate(load_digits().images[:3]):
        Image.fromarray((pixels * 15).astype("uint8")).save(tmp_path / "photos" / "in" / f"{number}.png")
    (tmp_path / "photos" / "broken.png").write_text("no picture")
    return tmp_path


def explain(here: Path, *arguments: str) -> str:
    outcome = call("task=explain", "run=run", "images=photos", *arguments, cwd=here)
    assert outcome.code == 0, outcome
    return outcome.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "attention, layer 1, of the class token"),
        (("task.map=rollout", "task.layer=0"), "attention rolled out to layer 0, of the class token"),
        (("task.map=grad_cam", "task.class_name=3"), "Grad-CAM of 3"),
    ],
)
def test_each_picture_has_an_overlay_and_a_place_on_the_sheet(arguments, said, here):
    out = explain(here, *arguments)
    assert f"explained 3 pictures by {said}\n" in out
    folder = here / "run" / "explanations" / "photos"
    overlays = sorted(folder.glob("overlays/**/*.png"))
    names = [path.relative_to(folder / "overlays").as_posix() for path in overlays]
    assert names == ["in/0.png", "in/1.png", "in/2.png"]
    pixels = np.asarray(Image.open(overlays[0]).convert("RGB")).astype(int)
    assert pixels.shape == (224, 224, 3)
    assert abs(pixels - pixels.mean(axis=2, keepdims=True)).max() > 50  # colours, on a grey picture
    assert Image.open(folder / "sheet.png").convert("RGB").width > 1000


def test_the_queries_of_vqt_are_shown_by_themselves(here):
    stored = "features.dtype=fp16"  # in which contexts stay, whatever reads them
    assert call("experiment=smoke", "method=vqt", "method.layers=first-1", stored, cwd=here).code == 0
    run = run_folder(here / "runs")
    assert "by attention of the queries, layer 0\n" in explain(here, f"run={run}")
    said = call("task=explain", f"run={run}", "images=photos", "task.layer=1", cwd=here).error
    assert said == "task.layer: got 1; the run has queries on 0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("task.class_name=3",), "task.class_name: attention is not of one class; set task.map=grad_cam"),
        (("task.map=grad_cam", "task.class_name=cat"), "task.class_name: the run knows no 'cat'"),
        (("task.map=queries",), "task.map=queries: the run's method has no queries; set task.map=attention"),
        (("task.layer=2",), "task.layer: got 2; this backbone has 2 layers, 0 to 1"),
        (("task.map=heat",), "task.map: got 'heat', should be 'auto', 'attention', 'rollout', 'queries' or 'grad_cam'"),
        (("images=nothing",), "images: no folder "),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_line(arguments, said, here):
    outcome = call("task=explain", "run=run", "images=photos", *arguments, cwd=here)
    assert outcome.error.startswith(said)
    assert not (here / "run" / "explanations").exists()


def test_an_overlay_is_red_where_the_map_is_largest_and_grey_where_a_crop_shows_nothing():
    geometry = Geometry(size=224, resize="crop", crop=1.0, interpolation="bilinear", channels=3, full_scale=None)
    values = torch.zeros(4, 4)
    values[0, 3] = 1.0
    pixels = np.asarray(overlay(values, Image.new("RGB", (400, 200), "white"), geometry)).astype(int)
    red, blue = pixels[..., 0], pixels[..., 2]
    assert pixels.shape == (224, 448, 3) or pixels.shape == (200, 400, 3)
    outside = pixels[:, : pixels.shape[1] // 5]
    assert (outside == 255).all()
    assert (red - blue)[5, 295 * pixels.shape[1] // 400] > 50
    assert (red - blue)[-5, 110 * pixels.shape[1] // 400] < 0


def test_a_border_around_the_image_is_cut_off_the_map():
    geometry = Geometry(size=32, resize="squash", crop=1.0, interpolation="bilinear", channels=3, full_scale=None)
    values = torch.ones(8, 8)
    values[1:-1, 1:-1] = 0  # places of 8 px, of which the outer two are the border
    assert overlay(values, Image.new("RGB", (224, 224)), geometry, edge=16).getcolors(1) is not None
    assert overlay(values, Image.new("RGB", (224, 224)), geometry).getcolors(1) is None
