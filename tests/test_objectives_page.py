"""The commands of docs/objectives.md, as they are written, with a tiny backbone in place of the one that they name."""

import json
import re
import shlex
from pathlib import Path

import pytest

from command import call

PAGE = (Path(__file__).parents[1] / "docs/objectives.md").read_text()
TINY = (
    *("backbone=vit_micro", "backbone.architecture.depth=1", "backbone.pretrained=false", "backbone.checkpoint=null"),
    *("trainer.epochs=1", "tracker=none"),
)
SECTIONS = {
    "Several labels from a CSV": ("several", "mean_average_precision", "labelled/predictions.csv"),
    "Segmenting a folder of masks with DINOv3 and LoRA": ("segmented", "mean_iou", "masks/masks/0000.png"),
    "Pictures larger than the model's size": ("windows", "mean_iou", "masks_of_windows/masks/0000.png"),
    "Numbers from a CSV": ("numbers", "spearman/sum", "counted/predictions.csv"),
}


def commands(title: str) -> list[str]:
    """The commands of a section, up to the next one."""
    _, _, rest = PAGE.partition(f"# {title}\n")
    text = re.split(r"^#+ ", rest, flags=re.MULTILINE)[0].replace("\\\n", "")
    return re.findall(r"^    ((?:peft-vision|python) .*)$", text, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Holds the scenes that the page writes."""
    folder = tmp_path_factory.mktemp("page")
    ((_, _, code),) = map(shlex.split, commands("Something to try the next three sections on"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(code, {})
    shown = re.findall(r"^    (image,digits.*|images/000.*)$", PAGE, flags=re.MULTILINE)
    assert (folder / "scenes/labels.csv").read_text().splitlines()[:3] == shown
    return folder


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_runs_as_it_is_written(here, title):
    runs, metric, written = SECTIONS[title]
    for line in commands(title):
        words = line.split(" ", 1)[1]
        for pattern in re.findall(r"\$\(ls -d (.*?)\)", words):
            (found,) = here.glob(pattern)
            words = words.replace(f"$(ls -d {pattern})", str(found.relative_to(here)))
        trains = () if "task=" in words else TINY
        outcome = call(*shlex.split(words), *trains, cwd=here)
        assert (outcome.code, outcome.err) == (0, ""), line
    (result,) = (here / runs).glob("*/result.json")
    assert f"test/{metric}" in json.loads(result.read_text())["metrics"]
    assert (here / written).is_file()


@pytest.mark.parametrize(
    ("name", "metric"), [("demo_segmentation", "mean_iou"), ("demo_multi_label", "mean_average_precision")]
)
def test_a_demo_runs_without_any_file(tmp_path, name, metric):
    outcome = call(f"experiment={name}", "trainer.epochs=1", "data.train_size=40", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    (result,) = (tmp_path / "runs").glob("lora-vit_micro-digit_scenes-*/result.json")
    assert json.loads(result.read_text())["metrics"][f"test/{metric}"] > 0
