"""`task=serve`: adapters on one backbone, asked over HTTP as clients ask them."""

import asyncio
import io
import json
import re
import shlex
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

import peft_vision
from chromium import BROWSER, Page
from command import call, start
from conftest import tiny_vit
from digit_folders import write_digits
from peft_vision import AdapterSet
from peft_vision.core.config import ConfigError
from peft_vision.data.pictures import Files
from peft_vision.runs.saved import Saved
from peft_vision.serve.pictures import Refused, ServedAdapter, Service, image_of

uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is not installed")
app = pytest.importorskip("peft_vision.serve.app", reason="the extra serve is not installed")

CLASSES = {"one": ("cat", "<b>dog</b>", "ä"), "several": ("red", "tall"), "numbers": ("height", "width")}
OBJECTIVES = {"one": "single_label", "several": "multi_label", "numbers": "regression"}
METHODS = {"one": "lora", "several": "vpt_deep", "numbers": "ssf"}
LIMITS = app.Limits(
    most_bytes=20_000,
    most_pixels=10_000,
    most_requests=64,
    seconds=1.0,
    hosts=app.host_names("127.0.0.1", ()),
    batch_size=8,
    wait_seconds=0.02,
)


def picture(kind: str = "PNG", *, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Service:
    folder, vit = tmp_path_factory.mktemp("served"), tiny_vit()
    adapters, served = AdapterSet(vit), {}
    for name, classes in CLASSES.items():
        options = {"objective": OBJECTIVES[name], "num_classes": classes}
        peft_vision.save(peft_vision.adapt(vit, method=METHODS[name], **options), folder / f"{name}.safetensors")
        model = adapters.add(name, folder / f"{name}.safetensors")
        saved = Saved(folder, model, {"data": {"resize": "squash"}}, home=folder)
        served[name] = ServedAdapter.of(name, saved, resize=None)
    return Service(adapters, served, "tiny")


@pytest.fixture(scope="module")
def address(service) -> Iterator[str]:
    """A server in this process, and its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    began = threading.Event()
    answering = app.application(service, LIMITS, began.set)
    server = uvicorn.Server(uvicorn.Config(answering, log_config=None, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert began.wait(60)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def asked(address: str, body: bytes | None = None, **headers: str) -> tuple[int, dict]:
    """Status and content of an answer, which is JSON whatever happened."""
    request = urllib.request.Request(
        address, data=body, headers={"Content-Type": "application/octet-stream", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_each_adapter_answers_by_what_it_learned(address, service):
    status, found = asked(f"{address}/predict?top=2", picture())
    assert status == 200
    one, several, numbers = found["answers"]
    image = image_of(picture(), service.served["one"].geometry, most_pixels=10_000)[None]
    with torch.no_grad():
        logits = {name: service.adapters.model(name)(image)[0] for name in CLASSES}
    shares = sorted(logits["one"].softmax(dim=0).tolist(), reverse=True)
    assert [line["probability"] for line in one["classes"]] == pytest.approx(shares[:2], abs=1e-4)
    assert one["class"] == one["classes"][0]["class"] == CLASSES["one"][int(logits["one"].argmax())]
    shares = dict(zip(CLASSES["several"], logits["several"].sigmoid().tolist(), strict=True))
    assert {line["class"]: line["probability"] for line in several["classes"]} == pytest.approx(shares, abs=1e-4)
    assert set(several["present"]) == {name for name, share in shares.items() if share >= several["threshold"]}
    alone = dict(zip(CLASSES["numbers"], logits["numbers"].tolist(), strict=True))
    assert numbers["values"] == pytest.approx(alone, abs=1e-5)


def test_without_a_name_all_answer_however_many_there_are(address, monkeypatch):
    monkeypatch.setattr(app, "_MOST_NAMES", 1)
    assert len(asked(f"{address}/predict", picture())[1]["answers"]) == len(CLASSES)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "YCbCr", "L", "I;16"])
def test_a_tiff_is_the_image_that_training_sees(service, tmp_path, mode):
    colours = Image.open(io.BytesIO(picture())).convert("RGB")
    deep = Image.fromarray(np.asarray(colours.convert("L")).astype(np.uint16) * 200)
    (deep if mode == "I;16" else colours.convert(mode)).save(tmp_path / "a.tif")
    geometry = service.served["one"].geometry
    answered = image_of((tmp_path / "a.tif").read_bytes(), geometry, most_pixels=10_000)
    assert np.array_equal(answered.numpy(), Files(tmp_path, ["a.tif"]).shaped(0, geometry))
    with pytest.raises(Refused, match="at most 10 are taken"):
        image_of((tmp_path / "a.tif").read_bytes(), geometry, most_pixels=10)


def test_it_says_what_it_serves_and_how_it_is(address):
    status, found = asked(f"{address}/adapters")
    assert (status, found["backbone"]) == (200, "tiny")
    assert {adapter["name"]: tuple(adapter["classes"]) for adapter in found["adapters"]} == CLASSES
    assert asked(f"{address}/health")[1]["status"] == "ok"


def test_requests_of_one_moment_are_one_batch(address):
    before = asked(f"{address}/health")[1]
    threads = [
        threading.Thread(target=asked, args=(f"{address}/predict?adapter={name}", picture()))
        for name in [*CLASSES, *CLASSES]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = asked(f"{address}/health")[1]
    assert after["images"] - before["images"] == 6
    assert after["batches"] - before["batches"] < 6


REFUSED = {
    "no picture": ("/predict", b"GIF8 no picture", {}, 415, "the body is no picture that can be read: "),
    "nothing": ("/predict", b"", {}, 400, "the body is empty; it should be a picture"),
    "half a picture": ("/predict", picture()[:-40], {}, 415, "the body is no picture that can be read: "),
    "a large body": ("/predict", bytes(30_000), {}, 413, "the body is larger than 20,000 bytes"),
    "many pixels": ("/predict", picture(size=(101, 100)), {}, 413, "the picture has 101 x 100 pixels, at most 10,000"),
    "an unknown adapter": ("/predict?adapter=two", picture(), {}, 404, "no adapter 'two'; there are one, several, num"),
    "an option": ("/predict?top=0", picture(), {}, 400, "top: Input should be greater than or equal to 1"),
    "a URL": ("/predict", b'{"url": 1}', {"Content-Type": "application/json"}, 415, "the body should be the picture"),
    "an address": ("/etc/passwd", None, {}, 404, "no such address"),
    "a method": ("/predict", None, {}, 405, "this address takes no GET"),
    "another name": ("/health", None, {"Host": "evil.example"}, 421, "this server is not called 'evil.example'"),
    "another site": ("/predict", picture(), {"Sec-Fetch-Site": "cross-site"}, 403, "a page of another site may not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_is_said_in_a_line(case, address):
    path, body, headers, status, words = REFUSED[case]
    found, answer = asked(address + path, body, **headers)
    assert (found, list(answer)) == (status, ["error"])
    assert answer["error"].startswith(words)
    assert "\n" not in answer["error"]
    assert "/home" not in answer["error"]
    assert "Traceback" not in answer["error"]


def test_a_body_that_never_ends_and_one_that_never_comes(address):
    """Neither says how long it is, or says the truth."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=30)
    pieces = iter([bytes(9_000)] * 5)
    connection.request("POST", "/predict", pieces, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["error"]) == (413, "the body is larger than 20,000 bytes")
    slow = HTTPConnection(urlsplit(address).netloc, timeout=30)
    slow.putrequest("POST", "/predict")
    slow.putheader("Content-Length", "100")
    slow.endheaders(b"few")
    answer = slow.getresponse()
    assert (answer.status, json.load(answer)["error"]) == (408, "the body did not arrive within 1 seconds")
    for ended in (connection, slow):
        ended.close()


def test_a_client_that_leaves_before_its_body_has_arrived_is_no_fault_of_the_server(service):
    messages = iter([{"type": "http.request", "body": b"few", "more_body": True}])
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "http_version": "1.1"}
    sent = []

    async def receive() -> dict:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(app.application(service, LIMITS)({**scope, "headers": [(b"host", b"LocalHost:80")]}, receive, send))
    assert (sent[0]["status"], json.loads(sent[1]["body"])["error"]) == (
        400,
        "the client left before its body had arrived",
    )


@pytest.mark.parametrize(
    ("host", "named", "allowed", "refused"),
    [
        ("127.0.0.1", ("Models.Lab",), {"127.0.0.1", "localhost", "[::1]", "models.lab"}, {"evil.example"}),
        ("10.0.0.7", ("models.lab",), {"127.0.0.1", "localhost", "10.0.0.7", "models.lab"}, {"evil.example"}),
        ("fd00::7", ("models.lab",), {"localhost", "[fd00::7]", "models.lab"}, {"evil.example"}),
    ],
)
def test_further_names_are_beside_those_of_this_machine(host, named, allowed, refused):
    names = app.host_names(host, named)
    assert names >= allowed
    assert not names & refused
    assert app.host_names("0.0.0.0", ()) == frozenset()  # any


def test_a_fault_of_the_server_is_not_told_to_clients(address, service, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(AdapterSet, "__call__", broken)
    status, answer = asked(f"{address}/predict", picture())
    assert (status, answer) == (500, {"error": "the server failed at this request; its own output says why"})
    monkeypatch.undo()
    assert asked(f"{address}/predict", picture())[0] == 200


@pytest.fixture
def two_runs(trained, tmp_path) -> Path:
    """The same run twice, one of them by a name of its own."""
    for name in ("first", "second"):
        shutil.copytree(trained, tmp_path / name)
    return tmp_path


def test_the_command_serves_runs_until_it_is_told_to_end(two_runs, tmp_path):
    digit = tmp_path / "digit.png"
    digit.write_bytes(picture())
    process = start("task=serve", "runs={first: first, other: second}", "task.port=0", cwd=two_runs)
    try:
        line = process.stdout.readline().split() or [""]
        assert line[0] == "serving", (line, process.stderr.read())
        status, found = asked(f"{line[1]}/predict?adapter=first&adapter={quote('other')}", digit.read_bytes())
        assert status == 200
        first, second = found["answers"]
        assert (first["adapter"], second["adapter"]) == ("first", "other")
        assert first["classes"] == second["classes"]
        if BROWSER is not None:
            the_page_shows(line[1], digit, first, tmp_path)
    finally:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        last = process.stdout.readline()
        seconds = time.monotonic() - began  # without what Python does at its end
        out, err = process.communicate(timeout=60)
    assert seconds < 8
    assert (process.returncode, last, out, err) == (0, "stopped\n", "", "")
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome here: the page was not looked at")


def test_four_commands_lead_from_a_folder_of_pictures_to_a_card_and_an_answer(tmp_path):
    """The page's own, but for a tiny backbone, a free port and the client, which is Python's."""
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text().partition("curl ")[0]
    train, push, serve = re.findall(r"^    peft-vision (.*)$", page, re.MULTILINE)
    write_digits(tmp_path)
    (tmp_path / "digits").rename(tmp_path / "pictures")
    tiny = ("backbone=vit_micro", "backbone.architecture.depth=1", "backbone.pretrained=false")
    few = ("backbone.checkpoint=null", "trainer.epochs=1", "tracker=none", "data.workers=0")
    assert call(*train.split(), *tiny, *few, cwd=tmp_path).code == 0
    (run,) = (tmp_path / "mine").glob("lora-*")
    push, serve = (line.replace("$(ls -d mine/lora-*)", f"mine/{run.name}") for line in (push, serve))
    assert call(*push.split(), cwd=tmp_path).code == 0
    assert "peft_vision.load" in (tmp_path / "card/README.md").read_text()
    process = start(*shlex.split(serve), "task.port=0", cwd=tmp_path)
    try:
        address = process.stdout.readline().split()[1]
        status, found = asked(f"{address}/predict", picture())
        assert (status, found["answers"][0]["class"] in "01234") == (200, True)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def the_page_shows(address: str, file: Path, answer: dict, folder: Path) -> None:
    page = Page(folder)
    try:
        page.open(address)
        page.wait("document.body && document.body.dataset.ready")
        assert "first (10)" in page.value("document.body.innerText")
        page.drop(file, "#drop")
        page.wait("document.querySelectorAll('section').length == 2")
        shown = page.value("document.querySelector('section').innerText").split()
        assert shown[:2] == ["first", answer["class"]]
        assert f"{100 * answer['classes'][0]['probability']:.1f}" in shown
        assert page.value("document.getElementById('shown').naturalWidth") == 40
        file.write_bytes(b"no picture")
        page.drop(file, "#drop")
        said = page.wait("document.getElementById('error').hidden ? '' : document.getElementById('error').textContent")
        assert said.startswith("the body is no picture that can be read")
    finally:
        page.close()


def test_what_cannot_be_served_is_said_before_it_begins(two_runs, tmp_path):
    def said(*arguments: str) -> str:
        return call("task=serve", *arguments, cwd=two_runs).error

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = f"task.port: cannot listen on port {port} of 127.0.0.1"
        assert said("runs=[first]", f"task.port={port}").startswith(words)
    assert said("task.port=0").startswith("runs: names no run")
    assert said("runs=[first,./first]", "task.port=0").startswith("runs: two folders are called first")
    assert said("runs=[nothing]", "task.port=0") == f"run: no folder {tmp_path}/nothing"
    assert said("runs=[first]", "task.host=nowhere.invalid").startswith("task.host: nowhere.invalid: ")
    peft_vision.save(
        peft_vision.adapt(tiny_vit(), method="lora", num_classes=10), two_runs / "second/adapter.safetensors"
    )
    found = said("runs=[first,second]", "task.port=0").splitlines()
    assert "second/adapter.safetensors was trained on other weights" in found[0]
    assert found[1].startswith("one backbone serves all runs, that of first; ")


def test_a_run_that_segments_is_not_served(tmp_path, vit):
    model = peft_vision.adapt(vit, method="linear", num_classes=2, head="segment_linear")
    with pytest.raises(ConfigError, match="gives a class to each pixel, which task=serve does not answer"):
        ServedAdapter.of("masks", Saved(tmp_path, model, {"data": {"resize": "squash"}}, home=tmp_path), resize=None)
