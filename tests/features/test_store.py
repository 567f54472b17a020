"""What a run reads of the store is what it would compute, however and whenever it was stored."""

import functools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from command import call, results, run_folder, start, wait_for
from peft_vision.features import fill
from peft_vision.features.entry import CacheEntry
from peft_vision.features.shelf import CacheDir
from test_bad_input import no_file_larger_than

SMOKE = ("experiment=smoke", "trainer.epochs=3", "optimizer=adamw", "data.workers=0")
IMAGES = {"train": 36, "val": 4, "test": 40}
NONE = dict.fromkeys(IMAGES, 0)
CLOSE = {"rel": 1e-5, "abs": 1e-6}


def result(folder, *arguments: str) -> dict:
    """Of one run in a folder of its own, the store being the test's."""
    runs = folder / f"runs{len(list(folder.iterdir()))}"
    outcome = call(*SMOKE, *arguments, f"runs={runs}", cwd=folder)
    assert outcome.code == 0, outcome
    found = json.loads((run_folder(runs) / "result.json").read_text())
    rows = [json.loads(line) for line in (run_folder(runs) / "metrics.jsonl").read_text().splitlines()]
    return {**found, "said": outcome.out, "rows": rows, "adapter": load_file(run_folder(runs) / "adapter.safetensors")}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """For a method, what its run found in an empty store, and the store that it left. Nothing may change them."""

    @functools.cache
    def filled_by(method: str):
        folder = tmp_path_factory.mktemp(method)
        return result(folder, f"method={method}", f"features.folder={folder}/store"), folder / "store"

    return filled_by


@pytest.fixture
def first_run(filled, tmp_path):
    """For a method, what its run found in an empty store; a copy of what it left there is the store of the test."""

    def of(method: str) -> dict:
        found, store = filled(method)
        shutil.copytree(store, tmp_path / "store")
        return found

    return of


def assert_same(found: dict, expected: dict, *, rtol: float = 1e-5) -> None:
    """The same curve, scores and weights, to rounding."""
    assert len(found["rows"]) == len(expected["rows"]) > 0
    for row, other in zip([*found["rows"], found["metrics"]], [*expected["rows"], expected["metrics"]], strict=True):
        row, other = ({key: value for key, value in each.items() if key != "phase"} for each in (row, other))
        assert row == pytest.approx(other, rel=rtol, abs=rtol / 10)
    assert found["adapter"].keys() == expected["adapter"].keys()
    for name, tensor in expected["adapter"].items():
        torch.testing.assert_close(found["adapter"][name], tensor, rtol=10 * rtol, atol=rtol, msg=name)


METHODS = [("linear",), ("vqt",), ("vqt", "method.num_queries=3", "method.keep_fraction=0.7"), ("head2toe",)]


@pytest.mark.parametrize("method", METHODS, ids=" ".join)
def test_stored_runs_equal_uncached_ones(method, first_run, tmp_path):
    method, *options = method
    first = result(tmp_path, f"method={method}", *options) if options else first_run(method)
    again = result(tmp_path, f"method={method}", *options)
    uncached = result(tmp_path, f"method={method}", *options, "features.use=never")
    assert_same(first, uncached)
    assert_same(again, first)
    assert first["backbone_images"] == IMAGES
    assert again["backbone_images"] == NONE
    assert uncached["backbone_images"]["train"] >= 3 * IMAGES["train"]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_16_bit_runs_are_the_same_stored_and_uncached(dtype, tmp_path):
    options = ("method=vqt", f"features.dtype={dtype}")
    stored, uncached = result(tmp_path, *options), result(tmp_path, *options, "features.use=never")
    assert_same(stored, uncached, rtol=1e-3)  # other batches, other last bits before the rounding
    sizes = [path.stat().st_size for path in (tmp_path / "store").glob("*-contexts.safetensors")]
    assert sum(sizes) == pytest.approx(80 * 2 * 17 * 128 * 2, rel=0.01)


def test_queries_in_few_layers_store_the_contexts_of_these_alone(filled, tmp_path):
    few = ("method=vqt", "method.layers=last-1")
    first, uncached = result(tmp_path, *few), result(tmp_path, *few, "features.use=never")
    sizes = {path.name.partition("-")[2]: path.stat().st_size for path in (tmp_path / "store").glob("*-contexts*")}
    assert sizes.keys() == {"contexts1.safetensors"}
    assert first["store"]["splits"]["train"]["num_bytes"] == IMAGES["train"] * (17 * 128 + 128) * 4
    assert_same(first, uncached)
    assert result(tmp_path, *few)["backbone_images"] == NONE
    whole, store = filled("vqt")
    assert whole["backbone_images"] == IMAGES
    shutil.copytree(store, tmp_path / "whole")
    within = result(tmp_path, *few, f"features.folder={tmp_path}/whole")
    assert within["backbone_images"] == NONE  # those of all layers hold these
    assert_same(within, first)


def test_entries_of_any_layers_are_counted_and_cleared(tmp_path):
    shelf = CacheDir(tmp_path, limit_bytes=10**6)
    for name in ("tokens", "contexts", "contexts1", "contexts9_10_11", "grid2"):
        entry = CacheEntry(path=shelf.path(f"{'a' * 16}-{name}"), key="a" * 64, shape=(1, 3), dtype=torch.float32)
        writer = shelf.writer(entry, {})
        writer.write(torch.zeros(1, 3))
        writer.place()
    assert len(shelf.held()) == 5
    assert shelf.clear() == 5
    assert list(tmp_path.glob("*.safetensors")) == []


def test_memory_mapped_rows_and_rows_in_memory_are_the_same(first_run, tmp_path):
    in_memory = first_run("vqt")
    mapped = result(tmp_path, "method=vqt", "features.memory_gib=0")
    filled = result(tmp_path, "method=vqt", "features.memory_gib=0", f"features.folder={tmp_path}/other")
    assert_same(mapped, in_memory)
    assert_same(filled, in_memory)
    assert [each["store"]["splits"]["train"]["bytes_in_memory"] > 0 for each in (in_memory, mapped)] == [True, False]
    assert "memory-mapped" in mapped["said"]


def test_one_store_serves_every_setting_seed_and_query_count_and_the_probe(first_run, tmp_path):
    assert first_run("vqt")["backbone_images"] == IMAGES
    for options in (
        ("method=vqt", "optimizer.lr=0.1", "method.num_queries=4", "method.dropout=0"),
        ("method=linear", "optimizer=lbfgs", "optimizer.C=[0.1,1]"),
        ("method=linear", "optimizer=grid"),
        ("method=linear", "head=mlp", "trainer.batch_size=7"),
    ):
        assert result(tmp_path, *options)["backbone_images"] == NONE, options


def test_the_pass_that_filled_it_is_listed_apart_from_training(first_run, tmp_path):
    first, again = first_run("vqt"), result(tmp_path, "method=vqt")
    for found, computed in ((first, ["contexts", "features"]), (again, [])):
        train = found["store"]["splits"]["train"]
        assert sorted(train["computed"]) == computed
        assert sorted(train["found"]) == sorted({"contexts", "features"} - set(computed))
        assert train["num_bytes"] == train["bytes_in_memory"] == 36 * (2 * 17 * 128 + 128) * 4
        assert train["seconds"] > 0
        assert found["train_seconds"] < found["wall_seconds"]
        assert found["images_per_second"] == pytest.approx(3 * 36 / found["train_seconds"])
    assert "to fill the feature store" in first["said"]
    assert "to fill the feature store" not in again["said"]
    assert first["features"] == 128 * 3


def test_another_seed_of_pretrained_weights_finds_it_too(pretrained, tmp_path):
    assert result(tmp_path, "method=linear", pretrained)["backbone_images"] == IMAGES
    assert result(tmp_path, "method=linear", pretrained, "seed=1")["backbone_images"] == NONE


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        ("seed=1", {"train", "val", "test"}),  # this backbone's random weights
        ("backbone.pool=avg", {"train", "val", "test"}),
        ("features.dtype=fp16", {"train", "val", "test"}),
        ("trainer.precision=bf16", {"train", "val", "test"}),
        ("backbone.img_size=40", {"train", "val", "test"}),
        ("data.split_seed=1", {"train", "val"}),
        ("data.train_size=41", {"train", "val"}),
        ("trainer.batch_size=9", set()),
    ],
)
def test_whatever_changes_what_the_backbone_shows_is_computed_anew(change, computed, first_run, tmp_path):
    first_run("linear")
    changed = result(tmp_path, "method=linear", change)
    assert {split for split, count in changed["backbone_images"].items() if count} - computed == set()
    assert {"train"} & computed == {"train"} & {s for s, count in changed["backbone_images"].items() if count}


def test_a_changed_picture_of_the_same_name_and_size_is_noticed(tmp_path):
    from PIL import Image

    for label, colour in (("cats", 10), ("dogs", 200)):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (colour, colour, number)).save(tmp_path / "pets" / label / f"{number}.bmp")
    pets = ("method=linear", "data=image_folder", "data.path=pets", "data.train_size=null")
    assert sum(result(tmp_path, *pets)["backbone_images"].values()) == 20
    for cache in ("true", "false"):
        assert result(tmp_path, *pets, f"data.cache={cache}")["backbone_images"]["test"] in (0, 4)
    for number in range(10):
        Image.new("RGB", (8, 8), (99, 99, number)).save(tmp_path / "pets" / "cats" / f"{number}.bmp")
    for cache in ("true", "false"):
        assert sum(result(tmp_path, *pets, f"data.cache={cache}")["backbone_images"].values()) == 20


def test_augmented_images_are_not_stored_and_the_log_says_why(tmp_path):
    augmented = result(tmp_path, "method=linear", "data.augment=flip_crop")
    assert augmented["backbone_images"] == {**IMAGES, "train": 3 * IMAGES["train"]}
    assert "train not stored: data.augment=flip_crop makes the images new in each epoch" in augmented["said"]
    assert augmented["store"]["splits"]["train"]["reason"] is not None


def test_stored_views_differ_and_each_epoch_draws_among_them(filled, tmp_path):
    options = ("method=linear", "data.augment=flip_crop", "features.views=3")
    viewed = result(tmp_path, *options)
    assert viewed["backbone_images"] == {**IMAGES, "train": 3 * IMAGES["train"]}
    assert result(tmp_path, *options, "seed=0", "optimizer.lr=0.1")["backbone_images"] == NONE
    (path,) = (tmp_path / "store").glob(f"{viewed['store']['splits']['train']['key'][:16]}-features.safetensors")
    views = load_file(path)["rows"].view(3, 36, 128)
    assert not torch.equal(views[0], views[1])
    assert viewed["rows"] != filled("linear")[0]["rows"]


def test_a_method_that_trains_the_backbone_says_why_it_does_not_use_the_store(tmp_path):
    trained = result(tmp_path, "method=lora")
    assert "not stored: lora works inside the backbone from its first layer on" in trained["said"]
    assert trained["backbone_images"] == {"train": 3 * 36, "val": 4 * 4, "test": 40}


@pytest.mark.parametrize("method", ["vpt_deep", "vpt_shallow", "full", "lora"])
def test_a_method_that_trains_the_backbone_cannot_be_made_to_use_the_store(method, tmp_path):
    outcome = call(*SMOKE, f"method={method}", "features.use=always", "runs=asked", cwd=tmp_path)
    assert outcome.error.startswith(f"features.use=always: {method} works inside the backbone")
    assert results(tmp_path / "asked") == []


LAST = "method.layers=last-1"  # of two
BOTH = ("method=combined", "method.parts=[lora,vqt]")
CHANGED_LATE = [
    ("method=lora", LAST),
    ("method=vpt_deep", LAST),
    ("method=vpt_shallow", LAST),
    ("method=adaptformer", LAST),
    ("method=bitfit", LAST),
    ("method=partial",),
    (*BOTH, LAST),
]


@pytest.mark.parametrize("method", CHANGED_LATE, ids=" ".join)
def test_what_enters_the_first_changed_layer_is_computed_once(method, tmp_path):
    uncached = result(tmp_path, *method, "features.use=never")
    stored = result(tmp_path, *method)
    assert_same(stored, uncached)
    assert stored["backbone_images"] == IMAGES
    assert uncached["backbone_images"] == {"train": 3 * 36, "val": 4 * 4, "test": 40}
    assert stored["store"]["splits"]["train"]["num_bytes"] == 36 * 17 * 128 * 4


def test_methods_that_begin_in_the_same_layer_share_what_enters_it(tmp_path):
    assert result(tmp_path, "method=lora", LAST)["backbone_images"] == IMAGES
    for other in (("method=ssf", "method.layers=[1]"), (*BOTH, LAST, "optimizer.lr=0.02"), ("method=fact_tt", LAST)):
        assert result(tmp_path, *other)["backbone_images"] == NONE, other
    assert len(list((tmp_path / "store").glob("*-tokens1.safetensors"))) == len(IMAGES)


def test_methods_that_begin_in_different_layers_do_not(tmp_path):
    deeper = ("backbone.architecture.depth=3", "method=bitfit")
    for layers in ("last-1", "last-2"):
        assert result(tmp_path, *deeper, f"method.layers={layers}")["backbone_images"] == IMAGES
    names = [path.stem.split("-")[1] for path in (tmp_path / "store").glob("*.safetensors")]
    assert sorted(names) == ["tokens1"] * 3 + ["tokens2"] * 3
    assert result(tmp_path, *deeper, "method.layers=[2]")["backbone_images"] == NONE


def test_tokens_of_16_bit_are_the_same_stored_and_uncached(tmp_path):
    options = ("method=lora", LAST, "features.dtype=bf16")
    stored = result(tmp_path, *options)
    assert_same(stored, result(tmp_path, *options, "features.use=never"), rtol=1e-3)
    assert stored["store"]["splits"]["train"]["num_bytes"] == 36 * 17 * 128 * 2


def test_queries_that_look_at_layers_before_the_changed_one_are_not_stored_and_the_log_says_why(tmp_path):
    apart = result(tmp_path, "method=combined", "method.parts={lora:{layers:last-1},vqt:{}}")
    assert "not stored: combined works inside the backbone before the last layer that the head reads" in apart["said"]
    assert apart["backbone_images"] == {"train": 3 * 36, "val": 4 * 4, "test": 40}
    assert list((tmp_path / "store").glob("*.safetensors")) == []


def test_parts_that_leave_the_backbone_alone_read_what_the_method_itself_reads(first_run, tmp_path):
    alone = first_run("vqt")
    part = result(tmp_path, "method=combined", "method.parts=[vqt]", "optimizer.lr=0.01")  # that of VQT
    assert part["backbone_images"] == NONE
    assert_same(part, alone)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "another version"])
def test_a_damaged_store_is_rebuilt_with_a_line(damage, first_run, tmp_path):
    sound = first_run("vqt")
    contents = {path: path.read_bytes() for path in (tmp_path / "store").glob("*.safetensors")}
    for path, content in contents.items():
        match damage:
            case "truncated":
                path.write_bytes(content[:-100])
            case "flipped":
                path.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
            case "emptied":
                path.write_bytes(b"")
            case _:
                path.write_bytes(content.replace(b"peft-vision features 1", b"peft-vision features 0"))
    rebuilt = result(tmp_path, "method=vqt")
    assert rebuilt["said"].count("is not usable") == 6
    assert rebuilt["backbone_images"] == IMAGES
    assert_same(rebuilt, sound)
    assert {path: path.read_bytes() for path in contents} == contents


@pytest.mark.parametrize("memory_gib", [8, 0])
def test_a_full_disk_is_a_warning_and_the_run_ends_right(memory_gib, filled, tmp_path, monkeypatch):
    sound, _ = filled("vqt")
    monkeypatch.setattr(fill, "_BATCH_BYTES", 2**16)  # so that the disk is full midway
    with no_file_larger_than(200_000):
        full = result(tmp_path, "method=vqt", f"features.folder={tmp_path}/full", f"features.memory_gib={memory_gib}")
    assert_same(full, sound)
    assert "cannot write" in full["said"]
    assert "File too large" in full["said"]
    # with memory one pass is enough; without, the images are read in each epoch, beside the pass that found it full
    assert (full["backbone_images"] == IMAGES) is (memory_gib == 8)
    left = list((tmp_path / "full").iterdir())
    assert [path.name for path in left if "unfinished" in path.name] == []


def test_a_store_that_fits_nowhere_streams(filled, tmp_path):
    nowhere = ("features.memory_gib=0", "features.disk_gib=0")
    streamed = result(tmp_path, "method=vqt", *nowhere)
    assert streamed["backbone_images"]["train"] == 3 * IMAGES["train"]
    assert "more than features.disk_gib=0" in streamed["said"]
    refused = call(*SMOKE, "method=vqt", *nowhere, "features.use=always", "runs=always", cwd=tmp_path)
    assert refused.code == 1
    assert "features.use=always: it fits neither in memory nor on disk" in refused.err
    assert_same(streamed, filled("vqt")[0])


def test_kinds_that_others_will_read_and_that_fit_nowhere_are_left_out(first_run, tmp_path):
    first_run("linear")
    found = result(tmp_path, "method=linear", "features.also=[contexts]", "features.disk_gib=0")
    assert found["backbone_images"] == NONE
    assert "contexts.safetensors is not written" in found["said"]


def test_the_folder_never_holds_more_than_it_may_whatever_kinds_are_asked_for(tmp_path):
    room = 2_000_000  # contexts of the training images take 0.6 MB, of the test images 6 MB
    also = "features.also=[features,contexts,intermediates]"
    result(tmp_path, "method=linear", also, f"features.disk_gib={room / 2**30}")
    held = [path.stat().st_size for path in (tmp_path / "store").iterdir()]
    assert 0 < sum(held) <= room


def test_a_folder_that_cannot_be_used_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    found = result(tmp_path, "method=linear", f"features.folder={tmp_path}/file")
    assert "cannot make" in found["said"]
    assert found["backbone_images"] == IMAGES  # in memory


@pytest.mark.slow
def test_two_processes_that_fill_it_at_once_leave_one_whole_entry(tmp_path):
    runs = [
        start(*SMOKE, "method=vqt", f"runs=runs{number}", cwd=tmp_path, PEFT_VISION_CACHE=str(tmp_path / "store"))
        for number in range(2)
    ]
    said = [run.communicate(timeout=200) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    first, second = (json.loads(path.read_text()) for path in results(tmp_path))
    assert first["metrics"] == pytest.approx(second["metrics"], **CLOSE)
    both = [{split: each["backbone_images"][split] for split in IMAGES} for each in (first, second)]
    assert {split: both[0][split] + both[1][split] for split in IMAGES} == IMAGES
    assert result(tmp_path, "method=vqt")["backbone_images"] == NONE


HALTED = """
import signal
from pathlib import Path
from peft_vision import cli
from peft_vision.features.fill import FeatureWriter
write, calls = FeatureWriter.write, []
def write_and_halt(*arguments):
    write(*arguments)
    calls.append(arguments)
    if len(calls) == 4:
        Path("halted").touch()
        signal.pause()
FeatureWriter.write = write_and_halt
cli.main()
"""
"""The command, which halts when it has stored two kinds of two batches."""


@pytest.mark.slow
def test_a_process_killed_while_it_fills_leaves_nothing_readable(tmp_path):
    store = tmp_path / "store"
    arguments = (*SMOKE, "method=vqt", "trainer.eval_batch_size=5")
    run = start(*arguments, cwd=tmp_path, program=("-c", HALTED), PEFT_VISION_CACHE=str(store))
    wait_for((tmp_path / "halted").exists, run)
    run.kill()
    run.communicate()
    assert list(store.glob("*.safetensors")) == []
    assert len(list(store.glob(".*unfinished"))) == 2
    assert result(tmp_path, "method=vqt")["backbone_images"] == IMAGES
    assert list(store.glob(".*unfinished")) == []


def test_a_killed_run_counts_the_images_of_its_first_life(tmp_path, monkeypatch):
    from peft_vision.runs.run import Run

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_result", killed)
        with pytest.raises(Killed):
            call(*SMOKE, "method=linear", cwd=tmp_path)
    assert call(*SMOKE, "method=linear", cwd=tmp_path).code == 0
    (path,) = results(tmp_path)
    found = json.loads(path.read_text())["backbone_images"]
    assert {split: found[split] for split in ("train", "val")} == {"train": 36, "val": 4}
