"""Grids of features are stored once, in 16 bit, for all heads that read them."""

import logging
from functools import partial
from pathlib import Path

import pytest
import torch

from composed import composed
from peft_vision.backbone.observation import Observation
from peft_vision.core.composition import complete, option
from peft_vision.core.config import ConfigError, build
from peft_vision.core.identity import hashed
from peft_vision.data.images import Images
from peft_vision.features.fill import ObservationPass
from peft_vision.features.store import Features, RunFacts, Store
from peft_vision.models.model import Model
from shipped import adapted

segmenting = partial(adapted, objective="segmentation")
SEGMENTS = "objective=segmentation"
COUNT = 7
PIXELS = torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
GRID = 32 * 16  # numbers of an image, of one layer


def settings(folder: Path, **changes: object) -> Features:
    values = {**option("features", "default"), "folder": str(folder / "store"), "also": [], **changes}
    return build(complete(values), Features, "features")


def store(model: Model, features: Features) -> Store:
    images = Images(torch.zeros(COUNT, dtype=torch.int64), PIXELS, augment="none")
    autocast = torch.autocast("cpu", enabled=False)
    return Store(
        features,
        model=model,
        splits={"train": images},
        run=RunFacts(origin={"weights": "the tiny ones"}, method="linear", augment="none"),
        observed_by=ObservationPass(batch_size=3, workers=0, autocast=autocast, device=torch.device("cpu")),
        quiet=False,
    )


def read(model: Model, features: Features) -> tuple[Observation, Store]:
    filled = store(model.eval(), features)
    ((seen, _),) = filled.source("train").batches([torch.tensor([4, 1])], seed=None, workers=0)
    return seen, filled


@pytest.mark.parametrize("memory_gib", [8, 0])
def test_what_is_stored_of_a_grid_is_what_is_computed(memory_gib, tmp_path, caplog):
    caplog.set_level(logging.INFO, "peft_vision")
    model = segmenting("linear", head="segment_linear")
    seen, filled = read(model, settings(tmp_path, memory_gib=memory_gib))
    assert (seen.grid.shape, seen.grid.dtype) == ((2, 32, 4, 4), torch.float16)
    assert (seen.features, seen.grids) == (None, None)
    torch.testing.assert_close(model(seen), model(PIXELS[[4, 1]]), rtol=1e-5, atol=1e-5)
    status = filled.record()["train"]
    assert (status["computed"], status["num_bytes"]) == (("grid",), COUNT * GRID * 2)
    assert "store     train grids of 7 images: 0.0 MiB, 0.0 MiB each" in caplog.text


def test_other_heads_and_seeds_find_it_and_another_type_is_an_entry_of_its_own(tmp_path):
    read(segmenting("linear", head="segment_linear"), settings(tmp_path))
    for changes in ({"head": "setr_pup"}, {"head": "segment_linear", "seed": 3}):
        _, filled = read(segmenting("linear", **changes), settings(tmp_path))
        assert filled.record()["train"]["found"] == ("grid",)
        assert filled.record()["train"]["computed"] == ()
    seen, _ = read(segmenting("linear", head="segment_linear"), settings(tmp_path, grid_dtype="fp32"))
    assert seen.grid.dtype == torch.float32
    names = sorted(path.stem.split("-")[1] for path in (tmp_path / "store").glob("*.safetensors"))
    assert names == ["gridfp16", "gridfp32"]


def test_one_pass_stores_what_several_heads_will_read(tmp_path):
    features = settings(tmp_path, also=["grid", "grids"])
    _, filled = read(segmenting("linear", head="segment_linear"), features)
    assert sorted(filled.record()["train"]["computed"]) == ["grid", "grids"]
    model = segmenting("linear", head="multi_linear")
    seen, filled = read(model, features)
    assert filled.record()["train"]["found"] == ("grids",)
    assert seen.grids.shape == (2, 3 * GRID)
    torch.testing.assert_close(model(seen), model(PIXELS[[4, 1]]), rtol=1e-5, atol=1e-5)


def test_what_a_run_reads_takes_the_room_before_what_others_will_read(tmp_path):
    room = COUNT * 3 * GRID * 2 + 2_000  # of grids, and of grid alone
    features = settings(tmp_path, also=["grid", "grids"], disk_gib=room / 2**30)
    _, filled = read(segmenting("linear", head="multi_linear"), features)
    assert filled.record()["train"]["computed"] == ("grids",)
    assert [path.stem.split("-")[1] for path in (tmp_path / "store").glob("*.safetensors")] == ["gridsfp16"]


def test_numbers_that_a_type_does_not_hold_are_refused_before_anything_trains(tmp_path):
    model = segmenting("linear", head="segment_linear")
    model.encoder.vit.norm.weight.data.mul_(1e6)
    with pytest.raises(ConfigError, match=r"features\.grid_dtype: .* float16 cannot hold.*grid_dtype=bf16") as error:
        read(model, settings(tmp_path))
    assert "\n" not in str(error.value)
    assert list((tmp_path / "store").glob("*.safetensors")) == []
    read(model, settings(tmp_path, grid_dtype="bf16"))


def test_the_type_of_grids_is_no_part_of_an_identity_where_it_is_the_usual_one(tmp_path):
    usual, other = (hashed(settings(tmp_path, grid_dtype=dtype)) for dtype in ("fp16", "bf16"))
    assert "grid_dtype" not in usual
    assert other["grid_dtype"] == "bf16"


@pytest.mark.parametrize(
    ("head", "kinds"), [("linear", {"features"}), ("segment_linear", {"grid"}), ("multi_linear", {"grids"})]
)
def test_what_a_run_will_read_follows_from_its_head(head, kinds):
    experiment = composed("experiment=smoke", f"head={head}", "optimizer=adamw", "method=linear")
    assert experiment.reads == frozenset(kinds)
    assert experiment.head.is_linear == (head == "linear")


@pytest.mark.parametrize(
    ("head", "objective", "message"),
    [
        (
            "linear",
            "segmentation",
            r"^head: it predicts one thing .* takes head=segment_linear, multi_linear or setr_pup$",
        ),
        (
            "setr_pup",
            "single_label",
            r"^head: it predicts each pixel; it takes objective=segmentation, else use head=linear$",
        ),
    ],
)
def test_head_and_objective_fit_each_other(head, objective, message):
    given = composed("experiment=smoke", "optimizer=adamw", f"head={head}", f"objective={objective}")
    with pytest.raises(ConfigError, match=message):
        given.check()
    with pytest.raises(ConfigError, match=message):
        adapted("linear", head=head, objective=objective)


@pytest.mark.parametrize("head", ["segment_linear", "multi_linear", "setr_pup"])
@pytest.mark.parametrize("solver", ["grid", "lbfgs"])
def test_a_solver_refuses_a_head_for_segmentation_in_a_line(head, solver):
    with pytest.raises(ConfigError, match=r"^optimizer: \w+ solves for a head on one vector.*use optimizer=adamw$"):
        composed("experiment=smoke", SEGMENTS, f"head={head}", f"optimizer={solver}", "method=linear").check()
