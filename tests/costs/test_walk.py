"""A run in thought counts what the run itself records: passes through the backbone by split, and bytes of the store."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from command import call, run_folder
from composed import composed
from ood_miniatures import class_folders
from peft_vision.backbone.load import load_backbone
from peft_vision.costs.expected import Expected, RunGroup, Stock, demands
from peft_vision.costs.walk import Act, Anatomy, Tally, acts, anatomy, walk
from peft_vision.data.images import Images
from peft_vision.features.store import TYPES
from peft_vision.models.model import Parts, assemble
from peft_vision.objective.single_label import OneClass
from peft_vision.runs.experiment import Experiment
from peft_vision.task import train

SMOKE = ("experiment=smoke", "trainer.epochs=2", "data.train_size=36", "data.val_fraction=0.2")
NEVER = ("features.use=never",)
AUGMENTED = ("data.augment=flip_crop",)


def parts(experiment: Experiment) -> tuple[Anatomy, RunGroup]:
    parts = Parts(experiment.method, experiment.head, OneClass(10), experiment.backbone.preprocessing())
    model = assemble(load_backbone(replace(experiment.backbone, pretrained=False), seed=0), parts, seed=0)
    model.round_observations_to(TYPES[experiment.features.dtype])
    (demand,) = demands([Expected(experiment)])
    return anatomy(model, experiment), demand


def counted(experiment: Experiment, stock: Stock) -> Tally:
    return walk(*parts(experiment), experiment.features, stock)


def planned(*overrides: str, stock: Stock) -> Tally:
    return counted(composed(*SMOKE, *overrides), stock)


def stored_bytes(folder: Path) -> int:
    """Of all rows, without the headers of their files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += file.get_tensor("rows").nbytes
    return total


FOUR_MODELS = ("optimizer.lr=[1e-3,1e-2]", "optimizer.weight_decay=[0]", "optimizer.seeds=[0,1]")
FEW = "[1e-2,1]"
PROBED = ("method=lp_ft", "probe=lbfgs", f"probe.C={FEW}")


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=linear",),
        ("method=linear", "features.memory_gib=1e-5", "features.disk_gib=0"),
        ("method=linear", "features.dtype=bf16", "features.also=[contexts,intermediates]"),
        ("method=linear", *AUGMENTED, "features.views=2", *NEVER, "optimizer=lbfgs", f"optimizer.C={FEW}"),
        ("method=linear", *AUGMENTED, "optimizer=grid"),
        ("method=vqt", "method.keep_fraction=0.5", "data.stage=final"),
        ("method=vqt", "method.keep_fraction=0.5", *NEVER),
        ("method=vqt", "method.keep_fraction=0.5", "method.selects_as_released=true", *NEVER),
        ("method=head2toe", *AUGMENTED, "features.views=2", "features.memory_gib=0"),
        ("method=lora", "data.stage=peek"),
        ("method=vpt_deep", "method.layers=last-1"),
        ("method=vpt_deep", "method.layers=last-1", *NEVER),
        ("method=lora", "optimizer=grid", *FOUR_MODELS, *NEVER),
        ("method=lora", "method.layers=last-1", "optimizer=grid", "trainer.keep=best", *FOUR_MODELS),
        ("method=lp_ft", "data.stage=tune"),
        (*PROBED, *NEVER),
    ],
    ids=" ".join,
)
def test_a_plan_counts_what_a_run_records(overrides, pretrained, tmp_path):
    assert call(*SMOKE, *overrides, pretrained, cwd=tmp_path).code == 0
    result = json.loads((run_folder(tmp_path / "runs") / "result.json").read_text())
    experiment = Experiment.of(result["config"], result["choices"])
    tally = counted(experiment, Stock(limit=experiment.features.shelf.limit_bytes, writable=True))
    assert +Counter(result["backbone_images"]) == tally.passes
    assert stored_bytes(tmp_path / "store") == tally.written


@pytest.mark.parametrize("overrides", [("method=lora",), PROBED, ("method=linear",)])
def test_a_plan_counts_the_passes_of_what_is_scored_after_the_training(overrides, tmp_path, monkeypatch):
    """Each model that ood.json has scores of saw each image once, but for stored ones; and the bare backbone did."""
    photos = class_folders(tmp_path / "photos", {"0": 1, "7": 2, "9": 3}, ["a.png", "b.png"])
    later = ("ood=image_folder", f"ood.image_folder.path={{one: {photos}, two: {photos}}}", "interpolation=wise_ft")
    words = (*SMOKE, *overrides, *later, "interpolation.alphas=[0,0.5,1]", *NEVER)
    handed_out = Counter()
    batches = Images.batches

    def counting(images, index_batches, **given):
        handed_out["all"] += sum(map(len, index_batches))
        return batches(images, index_batches, **given)

    monkeypatch.setattr(Images, "batches", counting)
    monkeypatch.setattr(train, "show_pictures", lambda *_: None)
    assert call(*words, cwd=tmp_path).code == 0
    folder = run_folder(tmp_path / "runs")
    trained = sum(json.loads((folder / "result.json").read_text())["backbone_images"].values())
    splits = json.loads((folder / "ood.json").read_text())["splits"].items()
    scored = sum(entry["images"] * len(entry["scores"]) for _, entry in splits)
    bare = sum(entry["images"] for split, entry in splits if split != "val")
    tally = counted(composed(*words), Stock(limit=2**30, writable=True))
    assert tally.passes.total() == trained + scored + bare == handed_out["all"]


@pytest.mark.parametrize(
    ("overrides", "first", "again"),
    [
        (("method=lora",), 2 * (40 + 12), 40 + 12),  # of the bare backbone, whose features are compared, only once
        (("method=linear",), 12, 0),  # nothing but the head changes
        (("method=lora", "data.stage=tune"), 0, 0),
    ],
)
def test_the_second_run_that_is_scored_on_a_set_finds_what_is_stored(overrides, first, again, tmp_path, stock):
    photos = class_folders(tmp_path / "photos", {"0": 1, "7": 2, "9": 3}, ["a.png", "b.png", "c.png", "d.png"])
    later = ("ood=image_folder", f"ood.image_folder.path={photos}")
    plain = planned(*overrides, stock=stock).passes.total() * ("method=lora" in overrides)
    found = [planned(*overrides, *later, stock=stock).passes.total() for _ in range(2)]
    assert found == [plain + first, plain + again]


def test_a_plan_is_made_before_a_set_is_fetched_and_for_a_run_that_cannot_choose_an_alpha(stock, caplog):
    words = ("method=lora", "ood=stl10", "interpolation=wise_ft", "data.val_fraction=0")
    assert planned(*words, "interpolation.alphas=[]", stock=stock).passes["test"] == 40
    # then the tuned model once more, the interpolated one and the bare backbone
    assert planned(*words, "interpolation.alphas=[0.5]", stock=stock).passes["test"] == 40 + 3 * 40
    assert "scoring on stl10 is not counted: ood.stl10.path: " in caplog.text


@pytest.fixture
def stock() -> Stock:
    return Stock(limit=2**30, writable=True)


def test_what_one_run_stored_the_next_one_finds(stock):
    first, second = planned("method=linear", stock=stock), planned("method=vqt", stock=stock)
    assert first.passes == second.passes  # only features were stored: vqt reads contexts as well
    assert planned("method=vqt", stock=stock).passes.total() == 0
    other_stock = Stock(limit=2**30, writable=True)
    planned("method=linear", "features.also=[contexts,features]", stock=other_stock)
    assert other_stock.held == stock.held


def test_what_fits_nowhere_is_passed_each_time_and_what_fits_in_memory_alone_once_a_run():
    for limit, writable in ((0, True), (2**30, False)):
        nowhere = Stock(limit, writable)
        for memory, passes in (("0", 2 * 29 + 3 * 7 + 40), ("1", 36 + 40)):
            words = ("method=linear", f"features.memory_gib={memory}")
            assert [planned(*words, stock=nowhere).passes.total() for _ in range(2)] == [passes, passes]
        assert nowhere.held == set()


def test_a_run_that_finds_all_it_reads_looks_at_no_image_for_others_that_have_no_room(tmp_path):
    words = ("method=linear", "data.stage=tune", "features.also=[contexts,features]", "features.disk_gib=0.0001")
    narrow = Stock(limit=int(0.0001 * 2**30), writable=True)
    for runs, passes in (("first", 36), ("second", 0)):
        tally = planned(*words, stock=narrow)
        assert call(*SMOKE, *words, f"runs={runs}", cwd=tmp_path).code == 0
        result = json.loads((run_folder(tmp_path / runs) / "result.json").read_text())
        assert (tally.passes.total(), sum(result["backbone_images"].values())) == (passes, passes)


def test_splits_that_hold_the_same_pictures_are_stored_once(stock):
    for stage, new in (("tune", {"train", "val"}), ("all", {"test"}), ("peek", {"train"}), ("final", set())):
        assert set(planned("method=linear", f"data.stage={stage}", stock=stock).observed) == new
    for other in ("features.dtype=fp16", "data.split_seed=1", "seed=1"):
        assert planned("method=linear", other, stock=stock).passes["train"] > 0


def test_random_weights_are_another_backbone_for_each_seed_and_loaded_ones_are_not(stock):
    words = ("method=linear", "backbone.pretrained=true", "data.stage=tune")
    planned(*words, "seed=0", stock=stock)
    assert planned(*words, "seed=1", stock=stock).passes.total() == 0


def test_acts_are_counted_in_images_and_in_calls(stock):
    tally = planned("method=lora", "data.stage=tune", stock=stock)
    assert tally.images == {Act("step", 0, "images"): 2 * 29, Act("score", 0, "images"): 2 * 7 + 7}
    assert tally.calls == {Act("step", 0, "images"): 2 * 2, Act("score", 0, "images"): 2 + 1}


def test_all_that_runs_of_a_kind_may_do_is_known_before_the_store_is_looked_at():
    found = acts(*parts(composed(*SMOKE, "method=linear", "data.augment=flip_crop", "features.views=2")))
    assert {(act.what, act.reads) for act in found} == {
        ("observe", "images"),
        ("find", "observed"),
        ("step", "observed"),
        ("score", "observed"),
    }
