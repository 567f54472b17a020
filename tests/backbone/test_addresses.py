"""Weights at an address of their own, from a server on this machine."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants

from peft_vision.backbone import hub, source
from peft_vision.core.config import ConfigError

NAME = "gcvit_xxtiny.in1k"


class Handler(SimpleHTTPRequestHandler):
    """A handler that says nothing and claims one byte more of files called short*."""

    def log_message(self, *_):
        """Nothing is printed."""

    def send_header(self, keyword, value):
        if keyword == "Content-Length" and "short" in self.path:
            value = str(int(value) + 1)
        super().send_header(keyword, value)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The address of a folder `site`, and an empty folder of PyTorch's files."""
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def held(tmp_path):
    folder = tmp_path / "torch/hub/checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_file_is_downloaded_once_to_where_pytorch_keeps_it(tmp_path, site, monkeypatch):
    content = b"weights" * 1000
    name = f"model-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / "site" / name).write_bytes(content)
    path = hub.address_file(NAME, f"{site}/{name}")
    assert path == Path(torch.hub.get_dir()) / "checkpoints" / name
    assert path.read_bytes() == content
    assert held(tmp_path) == [name]
    monkeypatch.setattr(hub, "unreachable", lambda _: pytest.fail("asked the network"))
    assert hub.address_file(NAME, f"{site}/{name}") == path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model-0123abcd.pth", "its sha256 begins with [0-9a-f]{8}, not as its name says"),
        ("short.pth", "7,000 of 7,001 bytes came|IncompleteRead"),
        ("none.pth", "HTTP Error 404"),
    ],
)
def test_file_that_is_not_the_announced_one_is_refused_and_not_kept(tmp_path, site, name, reason):
    if name != "none.pth":
        (tmp_path / "site" / name).write_bytes(b"weights" * 1000)
    with pytest.raises(ConfigError, match=rf"cannot get the weights {NAME}: {site}/{name} failed: ({reason})"):
        hub.address_file(NAME, f"{site}/{name}")
    assert held(tmp_path) == []


def test_without_a_network_the_address_is_named_with_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"no network to https://.*gcvit.*HF_HUB_OFFLINE is set.*\n?.*checkpoint=FILE"
    ):
        source.find(NAME).weights_file()


def test_names_without_a_page_of_the_hub_have_an_address():
    without = [name for name in timm.list_pretrained() if not timm.get_pretrained_cfg(name).hf_hub_id]
    assert all(source.find(name).config.url.startswith("https://") for name in without)
    for name in without:
        source.find(name).check_weights()
