"""What a mistake gets: a line or two that name it, exit code 1, and nothing that could be taken for done."""

import json
import re
import resource
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from command import SMOKE, call, experiment, results, run_folder
from peft_vision.data.torchvision_table import TABLE
from peft_vision.task.bench import Bench
from peft_vision.task.train import Train

NOWHERE = "http://127.0.0.1:9"  # the port that discards: nobody listens


def refused(*arguments: str, cwd) -> list[str]:
    """The lines of the error, after checking that it is one a person can use and that nothing looks done."""
    outcome = call(*arguments, cwd=cwd)
    lines = outcome.error.splitlines()
    assert 1 <= len(lines) <= 2, lines
    assert results(cwd) == []
    return lines


def pictures(folder, *, corrupt: int = 0):
    """Two classes of ten pictures, some of them damaged."""
    for label, colour in (("cats", "black"), ("dogs", "white")):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), colour).save(folder / label / f"{number}.png")
    for number in range(corrupt):
        (folder / "cats" / f"{number}.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("method=vpt_depe", "method: no option 'vpt_depe'; there are .*vpt_deep.*; did you mean vpt_deep[?]"),
        ("experiment=smok", "experiment: no option 'smok'; .*; did you mean smoke[?]"),
        (
            "experiment=vtab/vpd",
            "experiment: no option 'vtab/vpd'; there are vtab/adapters, .*; did you mean vtab/vpt[?]",
        ),
        ("data=vtab", "data: no option 'vtab'; there are vtab/caltech101, .*"),
        ("hydra/sweeper=tun", "hydra/sweeper: no option 'tun'; there are .*tune; did you mean tune[?]"),
        ("data=imagenet_r", "data: imagenet_r is an out-of-distribution set; write ood=imagenet_r"),
        ("ood=cifar10", "ood: cifar10 is a data set to train on; write data=cifar10"),
        ("ood=stl11", "ood: no option 'stl11'; there are .*; did you mean stl10[?]"),
        ("ood=living17", "ood.living17.path: it takes the value of data.path, which is not there; set .*"),
        ("interpolation.alphas=[2]", "interpolation.alphas.0: got 2, should be less than or equal to 1"),
        ("methd=linear", "unknown key methd; a run takes .*; did you mean method[?]"),
        ("method.num_promts=3", "unknown key method.num_promts; .*; did you mean num_prompts[?]"),
        ("optimzer.lr=3", "unknown key optimzer; .*; did you mean optimizer[?]"),
        ("lr=0.1", "unknown key lr; .*; did you mean optimizer.lr[?]"),
        ("+foo=3", "unknown key foo; a run takes .*"),
        ("+method.num_promts=3", "method: unknown num_promts; .*; did you mean num_prompts[?]"),
        ("~optimizer", "optimizer: missing"),
        ("~optimizer.lr", "optimizer.lr: missing; AdamW takes .*"),
        ("~optimizer.foo", "~optimizer.foo: there is no optimizer.foo"),
        ("method.num_prompts=many", "method.num_prompts: got 'many', should be a valid integer.*"),
        ("head.hidden=5", "head.hidden: got 5, should be a list"),
        ("optimizer=grid optimizer.lr=[]", "optimizer.lr: got \\[\\], should have at least 1"),
        ("optimizer.lr=inf", "optimizer.lr: got inf, should be a finite number"),
        ("optimizer.weight_decay=nan", "optimizer.weight_decay: got nan, should be a finite number"),
        ("optimizer=lbfgs optimizer.C=[1,inf]", "optimizer.C.1: got inf, should be a finite number"),
        ("trainer.clip_norm=inf", "trainer.clip_norm: got inf, should be a finite number"),
        ("optimizer.lr=null", "optimizer.lr: got null, should be a valid number"),
        ("trainer.epochs=0", "trainer.epochs: got 0, should be greater than 0"),
        ("trainer.precision=fp16", "trainer.precision: got 'fp16', should be 'auto', 'fp32', 'bf16' or 'tf32'"),
        ("seed=-1", "seed: got -1, should be a whole number, 0 or more"),
        ("runs=3", "runs: got 3, should be a folder"),
        ("device=gpu", "device: got 'gpu', should be auto, cpu, cuda, cuda:N or mps"),
        ("--lr 3", "unknown --lr; write group=option or key=value, .*"),
        ("optimizer.lr", "cannot read 'optimizer.lr'; write group=option or key=value, .*"),
        ("data.root=a(b", "cannot read 'data.root=a[(]b'; quote .*"),
        ("optimizer.lr=0.1,0.2", "optimizer.lr=0.1,0.2 is a sweep: add -m; .*"),
        ("method=null", "a group takes the name of one of its options; .*"),
        ("data=image_folder", "data.path: no value; give one with data.path=..."),
        ("data=image_folder data.path=/nowhere", "data.path: no folder /nowhere"),
        ("backbone.checkpoint=nowhere.npz", "backbone.checkpoint: no file .*nowhere.npz"),
        ("method=vpt_deep backbone.name=resnet50", "backbone.architecture.[a-z_]+: unknown to timm's ResNet.*"),
        ("backbone.name=vit_base_patch16_225", "backbone.name: timm has no model .*; did you mean vit_base_.*"),
        ("data.train_size=3", "data.train_size: got 3; digits has 10 classes and .*"),
        ("--config-dir nowhere", "Additional config directory '.*nowhere' not found"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments, line, tmp_path):
    (said,) = refused("experiment=smoke", *arguments.split(), cwd=tmp_path)
    assert re.fullmatch(line, said), said
    assert "prepend" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("method.rank=4", "rank is an option of lora, .*fact_tk.*repadapter.*: write method=lora"),
        ("method.num_queries=4", "num_queries is an option of vqt: write method=vqt"),
        ("data.path=pictures", "path is an option of image_folder, .*parquet.*: write data=image_folder"),
        ("optimizer.momentum=0.5", "momentum is an option of sgd, .*galore_torch.*: write optimizer=sgd"),
    ],
)
def test_a_key_of_another_option_names_those_that_have_it(argument, line, tmp_path):
    said = refused("experiment=smoke", argument, cwd=tmp_path)
    assert said[0].startswith(f"unknown key {argument.partition('=')[0]}; ")
    assert re.fullmatch(line, said[1]), said
    owner = said[1].rpartition(" ")[2]
    assert call("experiment=smoke", owner, argument, "--cfg", "job", cwd=tmp_path).code == 0


def test_all_faults_come_in_one_message(tmp_path):
    said = refused(*SMOKE, "seed=-1", "trainer.epochs=0", cwd=tmp_path)
    assert [line.partition(":")[0] for line in said] == ["seed", "trainer.epochs"]


def test_an_experiment_file_that_would_change_nothing_is_refused(tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "fast.yaml").write_text("trainer: { epochs: 1 }\n")
    (said,) = refused("--config-dir", "mine", "experiment=fast", cwd=tmp_path)
    assert said.startswith("experiment: begin its file with '# @package _global_'")


def test_a_value_in_a_config_file_that_cannot_be_parsed_is_said(tmp_path):
    words = experiment(tmp_path, "home", "defaults: [smoke]\ndata: { path: '${oc.env:HOME,~/pictures}' }\n")
    (said,) = refused(*words, cwd=tmp_path)
    assert "token recognition error at: '~'" in said


def test_an_empty_class_folder_is_named(tmp_path):
    (pictures(tmp_path / "pets") / "birds").mkdir()
    said = refused(*SMOKE, "data=image_folder", "data.path=pets", cwd=tmp_path)
    assert said == [f"data.path: no image in class folder {tmp_path}/pets/birds"]


PETS = (*SMOKE, "data=image_folder", "data.path=pets", "data.train_size=null")


def test_corrupt_pictures_are_named_and_counted(tmp_path):
    pictures(tmp_path / "pets", corrupt=3)
    said = refused(*PETS, cwd=tmp_path)
    assert re.match(r"data: cannot read \S*cats/\d.png \(.*\), and 2 more are corrupt", said[0])
    assert "data.on_corrupt=skip" in said[1]


def test_data_that_are_refused_leave_no_folder(tmp_path):
    pictures(tmp_path / "pets", corrupt=3)
    refused(*PETS, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]
    outcome = call(*PETS, "data.on_corrupt=skip", cwd=tmp_path)
    assert outcome.code == 0
    before = sorted(path.name for path in (tmp_path / "runs").iterdir())
    refused_again = call(*PETS, "seed=1", cwd=tmp_path).error
    assert "cannot read" in refused_again
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == before


def test_corrupt_pictures_are_left_out_on_request(tmp_path):
    pictures(tmp_path / "pets", corrupt=3)
    outcome = call(*PETS, "data.on_corrupt=skip", cwd=tmp_path)
    assert outcome.code == 0
    assert "left out 3 corrupt images" in outcome.out
    (result,) = results(tmp_path)
    assert json.loads(result.read_text())["data"]["corrupt_images_skipped"] == 3


@pytest.mark.parametrize(("task", "sweep"), [(Bench, []), (Train, []), (Train, ["-m"])])
def test_a_lack_of_memory_that_no_part_of_a_task_has_named_is_told_with_what_to_set(task, sweep, tmp_path, monkeypatch):
    def run(self, config, choices):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has none.")

    monkeypatch.setattr(task, "run", run)
    outcome = call(*SMOKE, *sweep, f"task={task.__name__.lower()}", "hydra/launcher=basic", cwd=tmp_path)
    assert outcome.code == 1
    assert "device: no memory left (CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has none.)" in outcome.err
    assert "set a smaller trainer.batch_size" in outcome.err
    assert "Traceback" not in outcome.err


def test_weights_without_a_network_are_refused_soon_with_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    began = time.monotonic()
    said = refused("backbone=vit_ti16_augreg", "data=digits", "tracker=none", cwd=tmp_path)
    assert time.monotonic() - began < 10
    assert "weights vit_tiny_patch16_224.augreg_in21k" in said[0]
    assert str(tmp_path / "cache") in said[0]
    assert NOWHERE in said[0]
    assert "backbone.checkpoint=FILE" in said[1]
    assert "experiment=demo" in said[1]


def test_data_without_a_network_are_refused_soon_with_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setitem(TABLE, "cifar10", replace(TABLE["cifar10"], site=NOWHERE))
    began = time.monotonic()
    said = refused(*SMOKE, "data=cifar10", cwd=tmp_path)
    assert time.monotonic() - began < 10
    assert said[0] == f"data: no cifar10 in {tmp_path}/datasets, and {NOWHERE} does not answer"
    assert "data.root=FOLDER" in said[1]
    assert "experiment=demo" in said[1]


def test_a_checkpoint_that_does_not_fit_is_refused_by_the_names_of_its_tensors(tmp_path):
    save_file({"blocks.0.attn.qkv.weight": torch.zeros(3, 1), "strange": torch.zeros(1)}, tmp_path / "vit.safetensors")
    said = refused(*SMOKE, "backbone.checkpoint=vit.safetensors", cwd=tmp_path)
    assert f"{tmp_path}/vit.safetensors does not fit" in said[0]
    assert "unexpected: strange" in said[1]
    assert "blocks.0.attn.qkv.weight (3, 1) for (384, 128)" in said[1]


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    said = refused(*SMOKE, cwd=tmp_path)
    assert said[0].startswith(f"cannot write {tmp_path}/runs/linear-vit_micro-digits-s0-")
    assert said[1].startswith("set runs=FOLDER")


@contextmanager
def no_file_larger_than(num_bytes: int):
    """Writing more fails as it does on a full disk, with another reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("room", "file"), [(3000, "state.pt"), (1000, "config.yaml"), (100, "config.yaml")])
def test_a_full_disk_is_said_and_the_same_command_goes_on_when_there_is_room(room, file, tmp_path):
    with no_file_larger_than(room):
        said = refused(*SMOKE, cwd=tmp_path)
    folder = run_folder(tmp_path / "runs")
    assert said[0] == f"cannot write {folder}/{file}: File too large"
    assert said[1].startswith("make room and start the same command again")
    assert [path.name for path in folder.iterdir() if "unfinished" in path.name] == []
    assert call(*SMOKE, cwd=tmp_path).code == 0


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    said = refused(*SMOKE, "optimizer.lr=1e30", cwd=tmp_path)
    assert re.match(r"the training loss became (nan|inf) at step \d+, learning rate \d\.\d\de\+\d\d;", said[0])
    assert "smaller optimizer.lr" in said[1]


def test_a_second_process_is_kept_out_of_a_run_folder(tmp_path):
    assert call(*SMOKE, cwd=tmp_path).code == 0
    folder = run_folder(tmp_path / "runs")
    (folder / "result.json").unlink()
    with FileLock(folder / ".lock"):
        outcome = call(*SMOKE, cwd=tmp_path)
    said = f"peft-vision: another process is working on this run: runs/{folder.name}\n"
    assert (outcome.code, outcome.out, outcome.err) == (75, "", said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    (said,) = refused(*SMOKE, "device=cuda", cwd=tmp_path)
    assert said == "device: cuda asked for, but this torch sees no GPU; use device=cpu or device=auto"


def test_a_class_of_the_users_own_runs_and_one_of_the_wrong_kind_is_refused(tmp_path, monkeypatch):
    (tmp_path / "norms.py").write_text(
        "from peft_vision.core.config import component\n"
        "from peft_vision.method.base import Method\n"
        "@component\n"
        "class Norms(Method):\n"
        "    def attach(self, encoder):\n"
        "        encoder.vit.norm.requires_grad_(True)\n"
    )
    (tmp_path / "mine" / "method").mkdir(parents=True)
    option = "_target_: {}\nlayers: all\nprobe_first: false\nlr: {{ sgd: 0.1, adamw: 0.1 }}\n"
    (tmp_path / "mine" / "method" / "norms.yaml").write_text(option.format("norms.Norms"))
    (tmp_path / "mine" / "method" / "path.yaml").write_text(option.format("pathlib.Path"))
    monkeypatch.syspath_prepend(tmp_path)
    words = ("--config-dir", "mine", "experiment=smoke")
    assert refused(*words, "method=path", cwd=tmp_path) == ["method: Path is not a Method"]
    assert call(*words, "method=norms", cwd=tmp_path).code == 0
    assert json.loads(results(tmp_path)[0].read_text())["parameters"]["method"] == 2 * 128


def test_a_config_file_that_is_no_utf_8_is_named(tmp_path):
    (tmp_path / "mine" / "method").mkdir(parents=True)
    text = "# Größe\ndefaults: [lora, _self_]\n"
    (tmp_path / "mine" / "method" / "own.yaml").write_bytes(text.encode("latin-1"))
    (line,) = refused("--config-dir", "mine", "method=own", cwd=tmp_path)
    assert line.startswith("cannot read a config: 'utf-8' codec can't decode byte 0xf6")
