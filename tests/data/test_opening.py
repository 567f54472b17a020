"""Pictures are opened in one place, of known formats, and only where they are regular files."""

import ast
import os
import re
import socket
from io import BytesIO
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

import peft_vision
from damage import DAMAGES, refused
from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular, read_regular
from peft_vision.data.decode import UNREADABLE
from peft_vision.data.opening import FORMATS, endings, open_bytes, open_file

SOURCE = Path(peft_vision.__file__).parent
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"
OPENERS = {
    "Image.open",
    "PIL.Image.open",
    "read_image",
    "io.read_image",
    "decode_image",
    "plt.imread",
    "default_loader",
}


def test_one_place_opens_pictures_and_names_the_formats():
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        if not re.search("PIL|imread|read_image|decode_image|default_loader", text):
            continue
        nodes = list(ast.walk(ast.parse(text)))
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "PIL.Image"], path
        opened = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in OPENERS]
        if opened:
            found[path.relative_to(SOURCE).as_posix()] = [[key.arg for key in node.keywords] for node in opened]
    assert found == {"data/opening.py": [["formats"]]}


@pytest.mark.parametrize("content", [POSTSCRIPT, b"\xc5\xd0\xd3\xc6" + bytes(26) + POSTSCRIPT], ids=["text", "binary"])
def test_postscript_never_reaches_ghostscript(content: bytes, tmp_path: Path, monkeypatch):
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **_: ran.append(args))
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "__init__", lambda *args, **_: ran.append(args))
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(OSError, match="no picture, or of no known format; JPEG"), open_file(tmp_path / "x.jpg"):
        pass
    with pytest.raises(OSError, match="no picture, or of no known format"), open_bytes(content):
        pass
    assert ran == []


def test_formats_that_programs_decode_or_that_are_no_pictures_are_not_known():
    assert not {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS", "SPIDER"} & set(FORMATS)
    assert not {".ps", ".eps", ".pdf", ".h5", ".mpg", ".wmf"} & set(endings())
    assert {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"} <= set(endings())


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "PSD"])  # which Pillow never writes
def test_a_known_format_is_read_by_what_it_is(form: str, tmp_path: Path, picture):
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {form}")
    written = BytesIO()
    picture(3, 16, 16).save(written, format=form)
    (tmp_path / "x.jpg").write_bytes(written.getvalue())
    with open_file(tmp_path / "x.jpg") as image, open_bytes(written.getvalue()) as other:
        assert image.size == other.size == (16, 16)
        assert image.convert("RGB").tobytes() == other.convert("RGB").tobytes()


def a_fifo(path: Path) -> str:
    os.mkfifo(path)
    return "a FIFO"


def a_socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    return "a socket"


def a_device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "a device"


def a_folder(path: Path) -> str:
    path.mkdir()
    return "a folder"


@pytest.mark.parametrize("make_it", [a_fifo, a_socket, a_device, a_folder])
def test_what_is_no_regular_file_is_named_and_never_waited_for(make_it, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    path = tmp_path / "x.jpg"
    kind = make_it(path)

    def read(how):
        try:
            with how(path):
                pass
        except UNREADABLE as error:
            raise ConfigError(f"{path}: {error}") from error

    for how in (open_file, open_regular, read_regular):
        assert refused(lambda how=how: read(how), path) == f"{path}: {kind}, should be a regular file"


def test_a_link_to_a_file_is_that_file(tmp_path: Path, picture):
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert read_regular(tmp_path / "b.png") == (tmp_path / "a.png").read_bytes()


def test_a_picture_that_would_fill_the_memory_is_refused(make, folder: Path, preprocessing):
    path = folder / "train" / "cat" / "3.png"
    DAMAGES["huge_length"](path)
    said = refused(lambda: make("image_folder", path=str(folder)).load(preprocessing), path)
    assert "DecompressionBombError" in said
    assert make("image_folder", path=str(folder), on_corrupt="skip").load(preprocessing).skipped == 1
