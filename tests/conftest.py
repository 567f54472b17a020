"""A backbone that is small enough to train in milliseconds, and a machine on which nobody has used W&B."""

# ruff: noqa: E402
import gc

gc.disable()  # while torch and all tests are imported

import copy
import os
import signal
from functools import cache
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from command import SMOKE, call, run_folder
from composed_once import composed_once
from module_copies import copied_quickly
from peft_vision.backbone import load
from peft_vision.core.collector import leave_out
from peft_vision.testing import tiny_backbone
from wandb_server import KEY, WandbServer

STORES = count()


def pytest_collection_finish():
    """What was imported and collected stays to the end, and the collector need not look through it time and again, here
    and in the processes that tests fork: a twentieth of the CPU."""
    leave_out()


@cache
def _tiny_vit(**architecture: object) -> VisionTransformer:
    return tiny_backbone(**architecture)


def tiny_vit(**architecture: object) -> VisionTransformer:
    """A copy of the backbone of this architecture, which is made once."""
    return copy.deepcopy(_tiny_vit(**architecture))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """As the processes have that tests start: sums of another order have other last bits. Tests share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard():
    """Also where the tests run in the background of a shell, which makes them and their processes ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def configs_composed_once():
    with composed_once():
        yield


@pytest.fixture(autouse=True, scope="session")
def no_seeds_for_devices_that_are_not_there():
    """torch keeps one for each kind, with the stack of its caller, which takes 2 ms within a test."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (torch.cuda, torch.xpu, torch.mtia):
            if not kind.is_available():
                patch.setattr(kind, "manual_seed_all", lambda seed: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def modules_copied_quickly():
    with copied_quickly():
        yield


@pytest.fixture(autouse=True, scope="session")
def nobodys_store(tmp_path_factory):
    """No test reads or fills the feature store of the person who runs it ..."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFT_VISION_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def own_store(request, nobodys_store, monkeypatch):
    """... or of another test. Most tests have no folder, which takes the longer to make the more there are."""
    has_folder = "tmp_path" in request.fixturenames
    folder = request.getfixturevalue("tmp_path") if has_folder else nobodys_store / str(next(STORES))
    monkeypatch.setenv("PEFT_VISION_CACHE", str(folder / "store"))


@pytest.fixture
def vit() -> VisionTransformer:
    return tiny_vit()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, 0])


@pytest.fixture
def variables(tmp_path, monkeypatch) -> dict[str, str]:
    """The environment of a machine without key, settings or home."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "NETRC": str(home / "netrc"), "WANDB_CONFIG_DIR": str(home / "config")}
    environment |= {"WANDB_CACHE_DIR": str(home / "cache"), "WANDB_DATA_DIR": str(home / "data")}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture(scope="session")
def trained(nobodys_store, tmp_path_factory) -> Path:
    """The folder of a finished run. Nothing may change it: tests take a copy."""
    folder = tmp_path_factory.mktemp("trained")
    assert call(*SMOKE, "trainer.epochs=5", cwd=folder).code == 0
    return run_folder(folder / "runs")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> str:
    """What gives the backbone of `experiment=smoke` weights that no seed changes: the shipped ones, of two layers."""
    whole = load_file(Path(load.__file__).with_name("vit_micro.safetensors"))
    kept = {name: tensor for name, tensor in whole.items() if name.partition("blocks.")[2][:1] not in set("2345")}
    path = tmp_path_factory.mktemp("pretrained") / "two_layers.safetensors"
    save_file(kept, path)
    return f"backbone.checkpoint={path}"


@pytest.fixture
def client(variables):
    """The client in this process, which reads its variables once: torn down before the test and for the next one."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()
    gc.collect()


@pytest.fixture
def server(client, monkeypatch):
    with WandbServer() as served:
        monkeypatch.setenv("WANDB_BASE_URL", served.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield served
