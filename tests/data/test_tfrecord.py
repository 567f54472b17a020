from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from peft_vision.core.config import ConfigError
from peft_vision.data.vtab.tfrecord import Encoded, example, masked_crc, payloads, place_of, records
from tfrecord_writer import example_bytes, record, write_records


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_records(tmp_path / "a.tfrecord", [b"first", b"", b"the third"])


def test_records_are_found_by_offset_and_length(file: Path):
    assert list(records(file)) == [(12, 5), (33, 0), (49, 9)]
    assert [payload for _, payload in payloads(file)] == [b"first", b"", b"the third"]


def test_an_empty_file_has_no_records(tmp_path: Path):
    assert list(records(write_records(tmp_path / "a.tfrecord", []))) == []


def test_the_checksum_is_that_of_crc32c():
    # the check value of CRC-32C in the catalogue of CRCs is E3069283
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize("missing", [1, 4, 13, 24])
def test_a_file_that_is_cut_off_is_named(file: Path, missing: int):
    file.write_bytes(file.read_bytes()[:-missing])
    with pytest.raises(ConfigError, match=r"a\.tfrecord is cut off in its record at byte 37 of \d+; fetch it again"):
        list(records(file))


def test_other_files_are_refused(file: Path):
    file.write_bytes(b"<html>a page of a site that has moved</html>")
    with pytest.raises(ConfigError, match=r"a\.tfrecord is no TFRecord, or is damaged, at byte 0; fetch it again"):
        list(records(file))


def test_a_length_that_does_not_match_its_checksum_is_refused(file: Path):
    content = bytearray(file.read_bytes())
    content[21] ^= 1
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged, at byte 21"):
        list(records(file))


VALUES = {
    "image": [b"\x89PNG\0\xff" * 40],
    "names": [b"one", b"", b"three"],
    "label": [3],
    "numbers": [0, 1, -1, 127, 128, -300, 2**63 - 1, -(2**63)],
    "depths": [0.5, -1.25, 1e30],
}


@pytest.mark.parametrize("packed", [True, False])
def test_an_example_is_read_as_protobuf_wrote_it(packed: bool):
    read = example(example_bytes(VALUES, packed=packed))
    assert read.keys() == VALUES.keys()
    assert (read["image"], read["names"]) == (VALUES["image"], VALUES["names"])
    assert (read["label"].dtype, read["label"].tolist()) == (np.int64, [3])
    assert read["numbers"].tolist() == VALUES["numbers"]
    assert read["depths"].dtype == np.float32
    assert read["depths"].tolist() == np.float32(VALUES["depths"]).tolist()


def test_packed_and_unpacked_are_written_differently():
    assert example_bytes(VALUES) != example_bytes(VALUES, packed=False)


def test_a_feature_without_values_is_empty():
    # features { feature { key: "a" value {} } }
    assert example(b"\x0a\x07\x0a\x05\x0a\x01a\x12\x00") == {"a": []}
    assert example(b"") == {}


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_message_that_is_cut_off_is_an_error(cut: int):
    with pytest.raises(ValueError, match=r"no tf\.train\.Example, or a damaged one"):
        example(example_bytes(VALUES)[:-cut])


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0b",  # a group, which nobody writes any more
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a number of more than 64 bits
        b"\x0a\x0a\x0a\x08\x0a\x01a\x12\x03\x12\x01\x08",  # a float that is written as a varint without one
        b"\x0a\x0b\x0a\x09\x0a\x01a\x12\x04\x1a\x02\x0d\x00",  # an integer of four bytes that are not there
    ],
)
def test_no_message_is_an_error(payload: bytes):
    with pytest.raises(ValueError, match=r"no tf\.train\.Example, or a damaged one"):
        example(payload)


@pytest.fixture
def encoded(tmp_path: Path, picture) -> Encoded:
    """Two PNGs and one that is cut off, in records of one file."""
    images = []
    for key in (1, 2, 3):
        buffer = BytesIO()
        picture(key).save(buffer, "PNG")
        images.append(buffer.getvalue())
    images[2] = images[2][:200]
    file = write_records(tmp_path / "b.tfrecord", [example_bytes({"label": [0], "image": [image]}) for image in images])
    places = [place_of(example(payload)["image"][0], file, payload, offset) for offset, payload in payloads(file)]
    return Encoded(places)


def test_images_are_read_out_of_records(encoded: Encoded, picture):
    assert len(encoded) == 3
    for index, key in enumerate((1, 2)):
        image = encoded.read(index)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(picture(key)))
        encoded.verify(index)


def test_a_damaged_image_is_named(encoded: Encoded):
    with pytest.raises((OSError, SyntaxError)):
        encoded.verify(2)
    assert encoded.name(2).endswith(f"b.tfrecord (the image at byte {encoded.places[2].offset})")


def test_images_of_records_are_told_apart_wherever_they_lie(encoded: Encoded):
    first, second = encoded.identify(torch.tensor([0, 1]))
    assert first != second
    assert str(encoded.places[0].file.parent).encode() not in first
    assert list(encoded.contents(torch.tensor([2]))) == [encoded.content(2)]
    assert record(b"x")[12:13] == b"x"
    assert Image.open(BytesIO(encoded.content(0))).format == "PNG"
