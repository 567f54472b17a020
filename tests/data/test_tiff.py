"""TIFF files of any number of samples: what is written is read, and what is broken is an error of a known kind."""

import struct
import time
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from peft_vision.data.tiff import UnknownTiff, read_tiff
from tiff_writer import tiff


def drawn(channels, kind=np.uint16, height=13, width=10):
    most = np.iinfo(kind).max
    return np.random.default_rng(channels).integers(0, most, (height, width, channels), dtype=kind, endpoint=True)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("place", [{}, {"rows": 4}, {"tile": (8, 16)}, {"tile": (5, 3)}])
@pytest.mark.parametrize("packed", [{}, {"deflate": True}, {"deflate": True, "differences": True}])
def test_every_layout_gives_the_values_that_were_written(kind, order, planes, place, packed):
    values = drawn(13, kind)
    read = read_tiff(tiff(values, order=order, planes=planes, **place, **packed))
    assert read.dtype == kind
    assert np.array_equal(read, values)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate"])
def test_what_pillow_writes_is_read_as_pillow_reads_it(mode, compression):
    image = Image.fromarray(drawn(len(mode), np.uint8), mode=None)
    file = BytesIO()
    image.save(file, "TIFF", compression=compression)
    assert np.array_equal(read_tiff(file.getvalue()), np.asarray(image))


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"t259": 5}, "compression 5; none and deflate are read"),
        ({"t339": [3, 3]}, "no whole numbers of 8 or 16 bits"),
        ({"t258": [16, 8]}, "no whole numbers of 8 or 16 bits"),
        ({"t258": [32, 32]}, "no whole numbers of 8 or 16 bits"),
        ({"t274": 6}, "another orientation"),
        ({"t317": 3}, "predictor 3"),
    ],
)
def test_other_kinds_are_named(tags, reason):
    with pytest.raises(UnknownTiff, match=reason):
        read_tiff(tiff(drawn(2), **tags))


@pytest.mark.parametrize(
    "tags",
    [
        {"t256": 2**32 - 1, "t257": 2**32 - 1},
        {"t256": 60_000, "t257": 60_000},
        {"t277": 60_000},
        {"t277": 0},
        {"t257": 0},
        {"t278": 0},
        {"t279": 2**31},
        {"t273": 2**31},
    ],
)
def test_sizes_are_not_taken_on_trust(tags):
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"\d"):
        read_tiff(tiff(drawn(2), **tags))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("layout", [{}, {"deflate": True, "rows": 4}, {"tile": (8, 8), "planes": True}])
def test_no_damage_raises_anything_else_than_what_readers_expect(layout):
    whole = tiff(drawn(3, height=8, width=8), **layout)
    generator = np.random.default_rng(0)
    spoilt = [whole[:length] for length in range(4, len(whole), 3)]
    for _ in range(400):
        content = bytearray(whole)
        for place in generator.integers(4, len(whole), 3):
            content[place] = generator.integers(256)
        spoilt.append(bytes(content))
    for content in spoilt:
        try:
            read_tiff(content)
        except (ValueError, struct.error, zlib.error):
            continue
