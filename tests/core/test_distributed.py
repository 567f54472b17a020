"""Two processes under torchrun, and a batch in parts, train the model that one process trains on whole batches."""

import json
import socket
from pathlib import Path

import pytest
import torch
from halting import CHOSEN, PYTHONPATH, halted, write_option
from pyarrow.parquet import read_table
from safetensors.torch import load_file

from command import Outcome, call, results, run_folder, start, wait_for

# 41 training images: the last batch has one, so that a process and a part have none
ONE_LEFT = (
    "experiment=smoke",
    "data.train_size=45",
    "trainer.batch_size=8",
    "trainer.clip_norm=1.0",
    "trainer.epochs=3",
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "peft_vision.cli")


PROMPTS = ("method=vpt_deep",)
QUERIES = ("method=vqt", "method.dropout=0", "method.keep_fraction=0.7")
IN_FOUR_BITS = ("method=lora", "backbone.frozen_bits=4")
# whose gradient passes through the statistics of a batch to the images of the other process
NORMALISED = ("method=vpt_deep", "optimizer=sgd", "head.norm=batch")


@pytest.fixture(scope="module")
def alone(request, tmp_path_factory):
    """The arguments and the run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    arguments = (*ONE_LEFT, *request.param)
    assert call(*arguments, cwd=folder).code == 0
    return arguments, run_folder(folder / "runs")


def assert_close(folder, expected_folder):
    """The same result within float error."""
    tensors, expected = (load_file(path / "adapter.safetensors") for path in (folder, expected_folder))
    for name in expected:
        torch.testing.assert_close(tensors[name], expected[name], rtol=1e-4, atol=1e-5)
    result, expected_result = (json.loads((path / "result.json").read_text()) for path in (folder, expected_folder))
    assert result["data"] == expected_result["data"]
    assert result["data"]["images"]["train"] % 8 == 1
    kept, expected_kept = (read_table(path / "predictions.parquet") for path in (folder, expected_folder))
    for column in ("split", "index", "truth"):  # of each picture its own, though two processes score them
        assert kept[column].to_pylist() == expected_kept[column].to_pylist()
    assert result["metrics"] == pytest.approx(expected_result["metrics"], abs=1e-4)
    epochs, expected_epochs = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (folder, expected_folder)
    )
    assert len(epochs) == len(expected_epochs)
    for epoch, expected_epoch in zip(epochs, expected_epochs, strict=True):
        assert epoch.pop("phase", None) == expected_epoch.pop("phase", None)
        assert epoch == pytest.approx(expected_epoch, abs=1e-4)


def under_torchrun(*arguments: str, cwd: Path) -> Outcome:
    """What torchrun's two processes print, which import for themselves."""
    process = start(*arguments, cwd=cwd, program=TORCHRUN)
    out, err = process.communicate(timeout=240)
    return Outcome(process.returncode, out, err)


def as_two_ranks(*arguments: str, cwd: Path) -> Outcome:
    """What two processes print that have the variables which torchrun would give them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = [start(*arguments, cwd=cwd, RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]
    ended = [(*process.communicate(timeout=240), process.returncode) for process in ranks]
    outs, errs, codes = zip(*ended, strict=True)
    return Outcome(max(codes, key=abs), "".join(outs), "".join(errs))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alone", "started"),
    [(PROMPTS, under_torchrun), (QUERIES, as_two_ranks), (NORMALISED, as_two_ranks), (IN_FOUR_BITS, as_two_ranks)],
    indirect=["alone"],
    ids=["vpt_deep", "vqt", "batch norm", "4 bit"],
)
def test_two_processes_train_what_one_does(alone, started, tmp_path):
    arguments, expected = alone
    parts = 1 if alone[0][-1] == "head.norm=batch" else 2
    outcome = started(*arguments, f"trainer.accumulate={parts}", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("saved ") == 1
    assert len(results(tmp_path)) == 1
    folder = run_folder(tmp_path / "runs")
    result, alones = (json.loads((path / "result.json").read_text()) for path in (folder, expected))
    assert result["environment"]["processes"] == 2
    assert result["backbone_images"] == alones["backbone_images"]
    assert_close(folder, expected)


@pytest.mark.slow
def test_two_processes_that_are_killed_go_on_to_the_same_bits(tmp_path):
    """With weights that are rounded once, and the images of each process where it computes."""
    arguments = (*ONE_LEFT, *PROMPTS, "trainer.epochs=5", "trainer.precision=bf16", "data.device_memory_gib=1")
    folders = {}
    for name in ("through", "killed"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    outcome = as_two_ranks(*arguments, cwd=folders["through"])
    assert outcome.code == 0, outcome.err
    write_option(folders["killed"])
    killed = (*CHOSEN, *arguments, "trainer.save_seconds=0")
    process = start(*killed, cwd=folders["killed"], program=TORCHRUN, PYTHONPATH=PYTHONPATH)
    wait_for(lambda: halted(folders["killed"]), process)
    process.kill()
    process.communicate(timeout=60)  # its processes end with it
    outcome = as_two_ranks(*arguments, cwd=folders["killed"])
    assert outcome.code == 0, outcome.err
    assert "resumes   after epoch" in outcome.out
    runs = [run_folder(folder / "runs") for folder in folders.values()]
    through, resumed = (load_file(run / "adapter.safetensors") for run in runs)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in through.items())
    metrics, again = (json.loads((run / "result.json").read_text()) for run in runs)
    assert metrics["metrics"] == again["metrics"]
    assert metrics["inputs"]["lie_on"] == again["inputs"]["lie_on"] == "device"


@pytest.mark.parametrize("alone", [PROMPTS, QUERIES], indirect=True, ids=["vpt_deep", "vqt"])
def test_a_batch_in_parts_trains_what_a_whole_one_does(alone, tmp_path):
    arguments, expected = alone
    assert call(*arguments, "trainer.accumulate=4", cwd=tmp_path).code == 0
    assert_close(run_folder(tmp_path / "runs"), expected)


def test_a_batch_that_is_normalised_as_a_whole_is_not_computed_in_parts(tmp_path):
    error = call(*ONE_LEFT, *NORMALISED, "trainer.accumulate=4", cwd=tmp_path).error
    assert error.startswith("trainer.accumulate: head.0 (head.norm=batch) normalises by the batch")
    assert not list(tmp_path.glob("runs/*/result.json"))
