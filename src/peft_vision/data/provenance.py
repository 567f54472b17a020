"""This module describes where pictures are from in short texts stored in a result: their encoding, and checksums."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from peft_vision.core.records import open_regular
from peft_vision.data.pictures import Labelled
from peft_vision.data.reading import reading

_SAMPLE = 100  # pictures of each split: reading every picture of ImageNet would take a while
_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"RIFF": "WebP",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}


def kind(content: bytes) -> str:
    """Return the format of one encoded picture, recognised by its first bytes."""
    return next((name for first, name in _BEGINNINGS.items() if content.startswith(first)), "unencoded")


def encoding(contents: Iterable[bytes]) -> str:
    """Return the formats of encoded pictures in words, such as "PNG" or "JPEG 998, PNG 2"."""
    return worded(Counter(kind(content) for content in contents))


def worded(counts: Counter[str]) -> str:
    """Return names and counts in one line, the most frequent first; a single name stands without its count."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def each(part: Labelled) -> Iterator[bytes]:
    """Yield the bytes that each picture is read from; a picture derived from another has the bytes of the other."""
    for index in part.indices:
        *_, content = part.pictures.contents(index[None])
        yield content


def sample(part: Labelled) -> Labelled:
    """Return at most 100 pictures, evenly spread over `part`."""
    if len(part) <= _SAMPLE:
        return part
    return part.subset(torch.arange(_SAMPLE) * len(part) // _SAMPLE)


def file_sum(path: Path) -> str:
    """Return the sha256 of a file, written as "sha256 <hex digest>"."""
    with reading(path, "the file that was read before", key="data", remedy=""), open_regular(path) as file:
        return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
