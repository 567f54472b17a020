"""`ood=` and `interpolation=`: a run that is done is scored out of distribution, once."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from command import call, results, run_folder
from digit_folders import CLASSES, DATA, SHIFTED, write_digits
from peft_vision.backbone.load import Backbone, load_backbone
from peft_vision.core.config import build
from peft_vision.data.base import Data
from peft_vision.data.images import Images
from peft_vision.models.model import Model
from peft_vision.runs.saved import open_saved
from peft_vision.shift import scoring
from peft_vision.task import train

SHIFTS = ("ood=image_folder", "ood.image_folder.path={inverted: inverted, turned: turned}")
ALPHAS = ("interpolation=wise_ft", "interpolation.alphas=[0,0.5,1]")
TRAINED = (*DATA, "method=lp_ft", "probe=lbfgs", "probe.C=[1e-2,1]", "optimizer.lr=1e-3", "trainer.epochs=4")
LP_FT = (*TRAINED, *SHIFTS, *ALPHAS)
LINEAR = (*DATA, "method=linear", "optimizer=lbfgs", "optimizer.C=[1e-2,1]")
OF_IMAGES = {"accuracy", "accuracy_top5", "accuracy_per_class", "calibration_error", "loss"}
DISTANCES = {"feature_distance", "feature_distance_relative"}
ROUNDING = 1e-5  # of batches of another size


class Killed(BaseException):
    """Stands for the end of the process."""


def done(*arguments: str, cwd: Path) -> str:
    """What it says on standard output."""
    outcome = call(*arguments, cwd=cwd)
    assert (outcome.code, outcome.err) == (0, ""), outcome
    return outcome.out


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One for the runs that the tests of this file share."""
    with mock.patch.dict(os.environ, PEFT_VISION_CACHE=str(tmp_path_factory.mktemp("store"))):
        yield


@pytest.fixture(scope="module")
def lp_ft(store, tmp_path_factory) -> Path:
    """Where LP-FT was trained and scored. Nothing may change it: tests take a copy."""
    root = write_digits(tmp_path_factory.mktemp("lp_ft"))
    (root / "said").write_text(done(*LP_FT, cwd=root))
    return root


@pytest.fixture(scope="module")
def linear(store, tmp_path_factory) -> Path:
    """The same of the probe that LP-FT begins with."""
    root = write_digits(tmp_path_factory.mktemp("linear"))
    (root / "said").write_text(done(*LINEAR, *SHIFTS, *ALPHAS, cwd=root))
    return root


@pytest.fixture
def copied(lp_ft, tmp_path) -> Path:
    return shutil.copytree(lp_ft, tmp_path / "copied")


@pytest.fixture
def copied_linear(linear, tmp_path) -> Path:
    return shutil.copytree(linear, tmp_path / "copied")


@pytest.fixture
def undrawn(monkeypatch):
    """No pictures, which take longer than the scores, are drawn but for the runs that tests share."""
    monkeypatch.setattr(train, "show_pictures", lambda *_: None)


def only(root: Path) -> Path:
    """The folder of the one run in there."""
    return run_folder(root / "runs")


def record(root: Path) -> dict:
    return json.loads((only(root) / "ood.json").read_text())


def without_places(scored: dict) -> dict:
    """Where the files of a set lay decides its mark, and so the checksum."""
    splits = {name: {**entry, "mark": None} for name, entry in scored["splits"].items()}
    return {**scored, "splits": splits, "checksum": None}


def metrics(root: Path) -> dict[str, float]:
    """In distribution, of the result."""
    return json.loads((only(root) / "result.json").read_text())["metrics"]


def reads(root: Path) -> dict[str, int]:
    return {split: entry["reads"] for split, entry in record(root)["splits"].items()}


def models(root: Path) -> tuple[Model, torch.nn.Module, Images]:
    """The tuned model, the backbone that it began with, and the test images."""
    saved = open_saved(str(only(root)), checkpoint=None, device=torch.device("cpu"))
    vit = load_backbone(build(saved.config["backbone"], Backbone, "backbone"), seed=saved.config["seed"]).eval()
    data = {**saved.config["data"], "path": str(root / "digits")}
    return saved.model, vit, build(data, Data, "data").load(saved.recipe.preprocessing).test


def test_a_run_is_scored_on_every_shift(lp_ft):
    found = record(lp_ft)
    of_a_shift = OF_IMAGES | DISTANCES
    expected = {f"ood/image_folder/{name}/{metric}" for name in ("inverted", "turned") for metric in of_a_shift}
    expected |= {f"ood/{name}/{metric}" for name in ("image_folder", "mean") for metric in of_a_shift}
    expected |= {"ood/image_folder/worst/accuracy", "ood/image_folder/pooled/accuracy", "ood/worst/accuracy"}
    expected |= {f"test/{metric}" for metric in DISTANCES}
    assert found["metrics"].keys() == expected | {f"probe/{name}" for name in expected}
    assert found["images"] == {
        "image_folder/inverted": CLASSES * SHIFTED,
        "image_folder/turned": CLASSES * (SHIFTED - 1),
    }
    assert reads(lp_ft) == dict.fromkeys(["val", "test", *found["images"]], 1)


def test_what_is_known_of_a_shift_is_kept_beside_its_scores(lp_ft):
    entry = record(lp_ft)["splits"]["image_folder/turned"]
    assert (entry["images"], entry["shifts"]) == (CLASSES * (SHIFTED - 1), 2)
    assert (entry["missing_classes"], entry["dropped_classes"], entry["corrupt_images_skipped"]) == ([], [], 0)
    assert entry["missing_are_predictable"]
    assert entry["scores"].keys() == {"final", "probe", "alpha=0", "alpha=0.5", "alpha=1"}
    assert entry["scores"]["final"].keys() == entry["scores"]["probe"].keys() == OF_IMAGES | DISTANCES
    assert entry["scores"]["alpha=0"].keys() == OF_IMAGES


def test_the_scores_are_printed_and_drawn(lp_ft):
    said, found = (lp_ft / "said").read_text(), record(lp_ft)
    table = said[said.index("out of distribution") :]
    for name in ("image_folder/inverted", "image_folder/turned", "image_folder", "worst"):
        assert f"{100 * found['metrics'][f'ood/{name}/accuracy']:.2f}" in table
        assert f"{100 * found['metrics'][f'probe/ood/{name}/accuracy']:.2f}" in table
    assert f"chosen    alpha={found['interpolation']['chosen']:g}: " in table
    assert f"saved     runs/{only(lp_ft).name}/ood.json" in table
    pictures = {f"ood-{name}.png" for name in ("alpha", "scatter", "shifts")}
    assert {path.name for path in only(lp_ft).glob("*.png")} == pictures


def test_the_scores_are_those_of_an_evaluation_of_the_same_images(copied):
    shutil.copytree(copied / "inverted", copied / "other" / "test")
    shutil.copytree(copied / "digits" / "train", copied / "other" / "train")
    done("task=evaluate", f"run={only(copied)}", *DATA, "data.path=other", cwd=copied)
    (path,) = only(copied).glob("evaluations/*.json")
    found, known = json.loads(path.read_text())["metrics"], record(copied)["metrics"]
    assert found == {f"test/{metric}": known[f"ood/image_folder/inverted/{metric}"] for metric in OF_IMAGES}


def test_test_images_that_are_called_a_shift_get_the_scores_of_the_test(copied):
    done(*TRAINED, "ood=image_folder", "ood.image_folder.path=digits/test", cwd=copied)
    found, known = record(copied), metrics(copied)
    for metric in OF_IMAGES:
        assert found["metrics"][f"ood/image_folder/{metric}"] == known[f"test/{metric}"]
        assert found["metrics"][f"probe/ood/mean/{metric}"] == known[f"probe/test/{metric}"]
    for metric in DISTANCES:
        assert found["metrics"][f"ood/image_folder/{metric}"] == found["metrics"][f"test/{metric}"] > 0
    assert found["interpolation"] is None


def test_features_are_compared_with_those_of_the_backbone_before(lp_ft):
    model, vit, test = models(lp_ft)
    with torch.no_grad():
        before, after = (part(model.normalize(test.pixels)) for part in (vit, model.encoder))
    distance = (after - before).norm(dim=1).mean().item()
    found = record(lp_ft)["metrics"]
    assert found["test/feature_distance"] == pytest.approx(distance, rel=1e-4)
    length = before.norm(dim=1).mean().item()
    assert found["test/feature_distance_relative"] == pytest.approx(distance / length, rel=1e-4)


def test_the_first_phase_is_scored_as_the_probe_that_it_is(lp_ft, linear):
    assert (only(lp_ft) / "probe.safetensors").is_file()
    assert not (only(linear) / "probe.safetensors").exists()
    both, probe = record(lp_ft)["metrics"], record(linear)["metrics"]
    assert probe == {name: both[f"probe/{name}"] for name in probe}
    assert both.keys() == probe.keys() | {f"probe/{name}" for name in probe}
    assert {value for name, value in both.items() if name.startswith("probe/") and "feature_distance" in name} == {0.0}


def test_a_probe_has_nothing_to_interpolate_and_features_that_stay(linear):
    found = record(linear)
    assert found["interpolation"] is None
    assert "linear tunes a head alone: there is nothing to interpolate" in (linear / "said").read_text()
    assert {value for name, value in found["metrics"].items() if "feature_distance" in name} == {0.0}
    assert found["splits"].keys() == {"test", "image_folder/inverted", "image_folder/turned"}


def test_the_interpolation_goes_from_the_probe_to_the_tuned_model(lp_ft):
    first, middle, last = record(lp_ft)["interpolation"]["rows"]
    known = {**metrics(lp_ft), **record(lp_ft)["metrics"]}
    assert [row["alpha"] for row in (first, middle, last)] == [0.0, 0.5, 1.0]
    names = first.keys() - {"alpha"}
    assert {f"{part}/{name}" for part in ("val", "test", "ood/mean", "ood/image_folder") for name in OF_IMAGES} < names
    assert {name: first[name] for name in names} == pytest.approx(
        {name: known[f"probe/{name}"] for name in names}, rel=ROUNDING
    )
    assert {name: last[name] for name in names} == {name: known[name] for name in names}
    assert not {middle["test/loss"], middle["ood/mean/loss"]} & {*first.values(), *last.values()}


def chosen(root: Path, accuracies: list[float], losses: Sequence[float] = (1.0, 1.0, 1.0)) -> float:
    """The alpha, where validation finds the three of this accuracy and loss."""
    found = record(root)
    for alpha, accuracy, loss in zip(("alpha=0", "alpha=0.5", "alpha=1"), accuracies, losses, strict=True):
        found["splits"]["val"]["scores"][alpha] |= {"accuracy": accuracy, "loss": loss}
    (only(root) / "ood.json").write_text(json.dumps(found))
    said = done(*LP_FT, cwd=root)
    found = record(root)["interpolation"]["chosen"]
    assert f"chosen    alpha={found:g}: " in said
    return found


@pytest.mark.usefixtures("undrawn")
def test_validation_chooses_alpha_of_equal_ones_the_lowest_loss_then_the_smallest(copied):
    rows = record(copied)["interpolation"]["rows"]
    expected = max(rows, key=lambda row: (row["val/accuracy"], -row["val/loss"], -row["alpha"]))["alpha"]
    assert record(copied)["interpolation"]["chosen"] == expected
    assert chosen(copied, [0.2, 0.4, 0.3]) == 0.5
    assert chosen(copied, [0.2, 0.3, 0.4]) == 1.0
    assert chosen(copied, [0.2, 0.4, 0.4]) == 0.5
    assert chosen(copied, [0.4, 0.4, 0.4]) == 0.0
    assert chosen(copied, [0.4, 0.4, 0.4], [0.9, 0.9, 0.8]) == 1.0
    assert set(reads(copied).values()) == {1}


def test_without_a_probe_the_tuned_head_reads_the_features_of_every_alpha(tmp_path):
    root = write_digits(tmp_path)
    done(*DATA, "method=lora", "interpolation=wise_ft", "interpolation.alphas=[1,0]", cwd=root)
    found = record(root)
    assert found["metrics"].keys() == {f"test/{name}" for name in DISTANCES}
    assert found["images"] == {}
    first, last = found["interpolation"]["rows"]
    assert (first["alpha"], last["alpha"]) == (0.0, 1.0)
    model, vit, test = models(root)
    with torch.no_grad():
        logits = model.head(vit(model.normalize(test.pixels)))
    assert first["test/loss"] == pytest.approx(F.cross_entropy(logits, test.labels).item(), rel=ROUNDING)
    assert last["test/loss"] == pytest.approx(metrics(root)["test/loss"], rel=ROUNDING)
    assert first["test/loss"] != pytest.approx(last["test/loss"], rel=ROUNDING)


def test_the_same_command_again_scores_nothing(copied, monkeypatch):
    before = {path.name: path.read_bytes() for path in only(copied).iterdir()}
    for module, name in ((train, "_train"), (train, "show_pictures"), (scoring, "_Scorer")):
        monkeypatch.setattr(module, name, None)
    said = done(*LP_FT, cwd=copied)
    assert "already finished" in said
    earlier = (copied / "said").read_text()
    assert said[said.index("out of distribution") :] == earlier[earlier.index("out of distribution") :]
    assert {path.name: path.read_bytes() for path in only(copied).iterdir()} == before


@pytest.mark.usefixtures("undrawn")
def test_neither_sets_nor_alphas_are_part_of_what_a_run_is(copied, monkeypatch):
    monkeypatch.setattr(train, "_train", None)
    monkeypatch.setattr(scoring, "_Scorer", None)
    before = (only(copied) / "ood.json").read_text()
    assert "out of distribution" not in done(*TRAINED, cwd=copied)
    assert (only(copied) / "ood.json").read_text() == before
    done(*TRAINED, *ALPHAS, cwd=copied)
    assert record(copied)["images"] == {}
    assert record(copied)["interpolation"]["rows"][0].keys() > {"val/accuracy", "test/accuracy"}
    done(*TRAINED, *SHIFTS, cwd=copied)
    assert record(copied)["interpolation"] is None
    done(*LP_FT, cwd=copied)
    assert (only(copied) / "ood.json").read_text() == before


OWN = "+ood.own={_target_: peft_vision.ood.image_folder.ImageFolder, path: own, rename: {}, missing: mask, extra: drop}"


@pytest.fixture
def own(copied) -> Path:
    """With a set of two of the classes and one that is none."""
    for name in ("1", "3"):
        shutil.copytree(copied / "turned" / name, copied / "own" / name)
    shutil.copytree(copied / "turned" / "2", copied / "own" / "cat")
    return copied


def test_a_set_that_is_added_is_the_only_one_that_is_scored(own, monkeypatch):
    before = record(own)
    monkeypatch.setattr(train, "_train", None)
    done(*LP_FT, OWN, cwd=own)
    found = record(own)
    assert {split: found["splits"][split] for split in before["splits"]} == before["splits"]
    assert reads(own) == {**reads(own), "own": 1}
    assert found["splits"].keys() - before["splits"].keys() == {"own"}
    means = [found["metrics"][f"ood/{name}/accuracy"] for name in ("image_folder", "own")]
    assert found["metrics"]["ood/mean/accuracy"] == pytest.approx(sum(means) / 2)
    entry = found["splits"]["own"]
    assert (entry["missing_classes"], entry["dropped_classes"]) == (["0", "2", "4"], ["cat"])
    assert not entry["missing_are_predictable"]
    assert entry["images"] == 2 * (SHIFTED - 1)


@pytest.mark.usefixtures("undrawn")
def test_alphas_that_are_added_are_the_only_ones_that_are_scored(copied):
    before = record(copied)["splits"]
    said = done(*LP_FT, "interpolation.alphas=[0,0.25,0.5,1]", cwd=copied)
    assert "alpha         0  0.25   0.5     1\n" in said
    found = record(copied)["splits"]
    assert set(reads(copied).values()) == {2}
    for split, entry in found.items():
        assert entry["scores"].keys() - before[split]["scores"].keys() == {"alpha=0.25"}
        assert {model: entry["scores"][model] for model in before[split]["scores"]} == before[split]["scores"]


@pytest.mark.usefixtures("undrawn")
def test_a_set_of_other_pictures_is_scored_anew(copied):
    done(*LP_FT, "ood.image_folder.path={inverted: turned, turned: inverted}", cwd=copied)
    assert record(copied)["images"] == {
        "image_folder/inverted": CLASSES * (SHIFTED - 1),
        "image_folder/turned": CLASSES * SHIFTED,
    }
    assert reads(copied) == dict.fromkeys(reads(copied), 1)


@pytest.mark.usefixtures("undrawn")
def test_no_two_models_are_compared_on_different_pictures(copied):
    """A picture came into one of the folders between two commands."""
    (first, *_) = sorted((copied / "turned" / "0").iterdir())
    shutil.copy(first, copied / "inverted" / "0" / "another.png")
    done(*LP_FT, "interpolation.alphas=[0,0.25,0.5,1]", cwd=copied)
    found = record(copied)["splits"]
    assert found["image_folder/inverted"]["images"] == CLASSES * SHIFTED + 1
    assert found["image_folder/inverted"]["scores"].keys() == found["image_folder/turned"]["scores"].keys()
    assert (reads(copied)["image_folder/inverted"], reads(copied)["image_folder/turned"]) == (1, 2)


def test_a_run_killed_between_training_and_scoring_is_scored_without_training(linear, tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    root, command = write_digits(tmp_path), (*LINEAR, *SHIFTS, *ALPHAS)
    with monkeypatch.context() as patch:
        patch.setattr(train, "score_shifts", killed)
        with pytest.raises(Killed):
            call(*command, cwd=root)
    assert (only(root) / "result.json").is_file()
    assert not (only(root) / "ood.json").exists()
    monkeypatch.setattr(train, "_train", None)
    done(*command, cwd=root)
    assert without_places(record(root)) == without_places(record(linear))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("calls", "again"), [(0, "val"), (5, "test"), (8, "image_folder/inverted"), (17, None)])
def test_scoring_that_was_killed_goes_on_where_it_was(calls, again, copied, monkeypatch):
    known = record(copied)
    (only(copied) / "ood.json").unlink()
    left = iter(range(calls))

    def killed(*arguments, **options):
        if next(left, None) is None:
            raise Killed
        return score(*arguments, **options)

    score = scoring.score
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "score", killed)
        with pytest.raises(Killed):
            call(*LP_FT, cwd=copied)
    done(*LP_FT, cwd=copied)
    expected = dict.fromkeys(reads(copied), 1) | {again or "image_folder/turned": 2}
    assert reads(copied) == expected
    found = record(copied)
    assert (found["metrics"], found["interpolation"]) == (known["metrics"], known["interpolation"])


@pytest.mark.usefixtures("undrawn")
def test_data_that_have_changed_since_the_training_are_refused(copied_linear):
    shutil.rmtree(copied_linear / "runs")  # of the pictures that these are a copy of
    done(*LINEAR, *SHIFTS, cwd=copied_linear)
    known = record(copied_linear)
    (only(copied_linear) / "ood.json").unlink()
    next((copied_linear / "digits" / "test" / "3").iterdir()).unlink()
    said = call(*LINEAR, *SHIFTS, cwd=copied_linear).error
    assert said.startswith(
        f"data: no longer what it was when runs/{only(copied_linear).name} was trained\nrestore it, "
    )
    shutil.rmtree(copied_linear / "digits")
    write_digits(copied_linear / "again")
    (copied_linear / "again" / "digits").rename(copied_linear / "digits")
    done(*LINEAR, *SHIFTS, cwd=copied_linear)
    assert record(copied_linear)["metrics"] == known["metrics"]


@pytest.mark.usefixtures("undrawn")
def test_training_images_that_were_left_out_are_no_change(tmp_path):
    root = write_digits(tmp_path)
    next((root / "digits" / "train" / "0").iterdir()).write_bytes(b"no picture")
    assert call(*LINEAR, *SHIFTS, "data.on_corrupt=skip", cwd=root).code == 0
    assert reads(root).keys() == {"test", "image_folder/inverted", "image_folder/turned"}


@pytest.mark.usefixtures("undrawn")
def test_pictures_of_a_shift_that_cannot_be_read_are_refused_or_left_out(copied_linear):
    for number, picture in enumerate(sorted(copied_linear.glob("turned/*/*.png"))):
        picture.write_bytes(b"no picture" if number else picture.read_bytes())
    fresh = (*LINEAR, "ood=image_folder", "ood.image_folder.path=turned")
    assert call(*fresh, cwd=copied_linear).error.startswith(f"data: cannot read {copied_linear}/turned/0/")
    assert call(*fresh, "data.on_corrupt=skip", "runs=skipping", cwd=copied_linear).code == 0
    entry = json.loads((run_folder(copied_linear / "skipping") / "ood.json").read_text())["splits"]["image_folder"]
    assert (entry["images"], entry["corrupt_images_skipped"]) == (1, CLASSES * (SHIFTED - 1) - 1)
    for picture in copied_linear.glob("turned/*/*.png"):
        picture.write_bytes(b"none")
    said = call(*fresh, "data.on_corrupt=skip", "runs=none", cwd=copied_linear).error
    assert said == "ood.image_folder: no picture of image_folder can be read"


@pytest.mark.usefixtures("undrawn")
def test_views_that_only_a_probe_can_store_do_not_stop_the_scoring(tmp_path):
    root = write_digits(tmp_path)
    done(*TRAINED, *SHIFTS, "data.augment=flip_crop", "features.views=2", cwd=root)
    assert "probe/ood/mean/accuracy" in record(root)["metrics"]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory) -> Path:
    """With sets that cannot be scored."""
    root = write_digits(tmp_path_factory.mktemp("spoiled"))
    for folder, name in (("strange", "cat"), ("strange", "dog"), ("mixed", "cat"), ("mixed", "1")):
        (root / folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (9, 0, 0)).save(root / folder / name / "0.png")
    shutil.copytree(root / "mixed" / "1", root / "broken" / "1")
    (root / "none" / "1").mkdir(parents=True)
    for folder in ("broken", "none"):
        (root / folder / "1" / "1.jpg").write_text("no picture")
        os.mkfifo(root / folder / "1" / "2.jpg")
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ood.image_folder.path=nowhere",), "ood.image_folder.path: no folder {root}/nowhere"),
        (("ood.image_folder.path={a: turned, b: nowhere}",), "ood.image_folder.path.b: no folder {root}/nowhere"),
        (("ood.image_folder.path=strange",), "ood.image_folder: none of its classes is one of the run's: 'cat', 'dog'"),
        (("ood.image_folder.path=mixed",), "ood.image_folder: 1 of its classes are unknown to the run: 'cat'"),
        (
            ("ood.image_folder.path=mixed", "ood.image_folder.extra=drop", "ood.image_folder.missing=error"),
            "ood.image_folder: it has no image of 4 of the run's classes: '0', '2', '3', ...",
        ),
        (
            ("ood.image_folder.path=broken",),
            "data: cannot read {root}/broken/1/1.jpg (UnidentifiedImageError: no picture, or of no known format; "
            "JPEG, PNG and WebP are known), and 1 more is corrupt\n",
        ),
        (("ood.image_folder.path=none", "data.on_corrupt=skip"), "ood.image_folder: no picture of image_folder can be"),
        (("ood.image_folder.path=digits/train",), "ood.image_folder: 45 of its 60 pictures are among the training"),
        (("ood.image_folder.path=digits",), "ood.image_folder.path: {root}/digits is divided into test, train; "),
        (("ood.image_folder.path={}",), "ood.image_folder: no folder and no other shift is named"),
        (("ood.image_folder.path={mean: turned}",), "ood.image_folder: 'mean' is no name of a set or of a shift"),
        (("ood.image_folder.pth=turned",), "unknown key ood.image_folder.pth; ood.image_folder takes "),
        (("ood.image_folder.missing=maybe",), "ood.image_folder.missing: got 'maybe', should be 'allow', 'mask' or"),
        (("+ood.image_folder.rename.seven='1'",), "ood.image_folder.rename: the set has no class 'seven'"),
        (("ood=5",), "a group takes the name of one of its options; "),
        (("ood.image_folder.path=???",), "ood.image_folder.path: no value; give one with ood.image_folder.path=..."),
        (("+ood.own=5",), "ood.own: got 5, should be the values of a set"),
        ((OWN.replace("ood.own", "ood.test"),), "ood.test: 'test' is a split of the training data, and no name of a"),
        ((OWN.replace("ood.own", "ood.worst"),), "ood.worst: 'worst' is no name of a set or of a shift"),
        ((OWN,), "ood.own.path: no folder {root}/own"),
        (("trainer.keep=best", "data.val_fraction=0"), "trainer.keep: best needs validation images to tell the best"),
        ((*ALPHAS, "data.val_fraction=0"), "interpolation: no validation images to choose alpha by; set "),
        (("trainer.epochs=0", "ood.image_folder.missing=0"), "trainer.epochs: got 0, should be greater than 0\nood."),
    ],
)
def test_what_cannot_be_scored_is_refused_before_the_training(arguments, message, spoiled):
    if not any(argument.startswith("ood.image_folder.path") for argument in arguments):
        arguments = ("ood.image_folder.path=turned", *arguments)
    said = call(*DATA, "method=linear", "ood=image_folder", *arguments, cwd=spoiled).error
    assert said.startswith(message.format(root=spoiled)), said
    assert len(said.splitlines()) <= 2
    assert results(spoiled) == []
    assert list(spoiled.glob("runs/*/metrics.jsonl")) == []
