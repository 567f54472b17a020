"""A distributed environment is complete, or what is wrong with it is said."""

import pytest
import torch

from command import SMOKE, call
from peft_vision.core.config import ConfigError
from peft_vision.core.distributed import choose_device
from peft_vision.core.process_variables import ALONE, Ranks, ranks, speaks

OF_TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def variables(monkeypatch):
    """Sets these, and none of the others."""
    for name in OF_TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    return lambda given: [monkeypatch.setenv(name, value) for name, value in given.items()]


def test_torchruns_variables_are_the_ranks(variables):
    variables({**OF_TORCHRUN, "WORLD_SIZE": "4", "RANK": "3"})
    assert ranks() == Ranks(rank=3, local_rank=1, size=4)
    assert not speaks()


@pytest.mark.parametrize(
    "given",
    [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": " ", "RANK": ""}, {"RANK": "0", "LOCAL_RANK": "0"}],
)
def test_without_them_a_process_is_alone(given, variables):
    variables(given)
    assert ranks() == ALONE
    assert speaks()


@pytest.mark.parametrize("name", [name for name in OF_TORCHRUN if name != "WORLD_SIZE"])
@pytest.mark.parametrize("empty", [True, False])
def test_one_that_is_missing_is_named(name, empty, variables):
    left = {other: value for other, value in OF_TORCHRUN.items() if other != name}
    variables(left | {name: ""} if empty else left)
    with pytest.raises(ConfigError, match=rf"^environment: WORLD_SIZE is 2, but {name} is not set\nstart several"):
        ranks()
    assert speaks()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', should be a whole number from 1 on"),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE is '2.0', should be"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', should be a whole number from 1 on"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', should be"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE is '9999"),
        ({"WORLD_SIZE": "٣"}, "WORLD_SIZE is '٣', should be"),
        ({"RANK": "-1"}, "RANK is '-1', should be a whole number from 0 on"),
        ({"RANK": "2"}, "RANK is 2, should be below WORLD_SIZE, which is 2"),
        ({"LOCAL_RANK": "7"}, "LOCAL_RANK is 7, should be below WORLD_SIZE"),
        ({"LOCAL_RANK": "none"}, "LOCAL_RANK is 'none'"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is 65536, should be at most 65535"),
    ],
)
def test_what_is_no_rank_is_named(given, said, variables):
    variables(OF_TORCHRUN | given)
    with pytest.raises(ConfigError, match=rf"^environment: {said}"):
        ranks()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RANK": "1"}, "RANK is 1, but WORLD_SIZE is not set"),
        ({"RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "1"}, "LOCAL_RANK is 1, but WORLD_SIZE is 1"),
    ],
)
def test_a_rank_of_nothing_is_named(given, said, variables):
    variables(given)
    with pytest.raises(ConfigError, match=said):
        ranks()


@pytest.mark.parametrize(
    "arguments", [SMOKE, ("task=report",), ("-m", *SMOKE, "seed=0,1")], ids=["run", "report", "-m"]
)
def test_any_task_says_so_before_it_begins(arguments, variables, tmp_path):
    variables({"WORLD_SIZE": "2"})
    outcome = call(*arguments, cwd=tmp_path)
    assert outcome.error.startswith(
        "environment: WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not"
    )
    assert list(tmp_path.glob("runs/[!.]*")) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-m", *SMOKE, "seed=0,1"), "a sweep starts its runs itself; start it without torchrun"),
        (
            ("-m", *SMOKE, "seed=0,1", "hydra/sweeper=basic"),
            "a sweep starts its runs itself; start it without torchrun",
        ),
        (("task=report",), "task=report works in one process; start it without torchrun"),
        (("task=bench",), "task=bench works in one process; start it without torchrun"),
    ],
)
def test_what_is_for_one_process_is_refused_in_several(arguments, said, variables, tmp_path):
    variables(OF_TORCHRUN)
    assert said in call(*arguments, cwd=tmp_path).error
    assert list(tmp_path.glob("runs/[!.]*")) == []


def test_more_processes_than_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda", local_rank=1) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"^device: process 2 of this machine has no GPU, this torch sees 2; --np"):
        choose_device("auto", local_rank=2)
