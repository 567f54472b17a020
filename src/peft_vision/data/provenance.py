"""Where pictures are from, in short texts that a result keeps: how they are encoded, and checksums."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from peft_vision.data.pictures import Labelled
from peft_vision.data.reading import reading
from peft_vision.regular import open_regular

_SAMPLE = 100  # of each split: to look at every picture of ImageNet would take a while
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
    """Such as "PNG", or "JPEG 998, PNG 2"."""
    return worded(Counter(kind(content) for content in contents))


def worded(counts: Counter[str]) -> str:
    """The most frequent first."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def each(part: Labelled) -> Iterator[bytes]:
    """Yield the bytes that each picture is read from; a picture derived from another has the bytes of the other."""
    for index in part.indices:
        *_, content = part.pictures.contents(index[None])
        yield content


def sample(part: Labelled) -> Labelled:
    """At most 100 pictures, evenly spread."""
    if len(part) <= _SAMPLE:
        return part
    return part.subset(torch.arange(_SAMPLE) * len(part) // _SAMPLE)


def file_sum(path: Path) -> str:
    """sha256 of a file, as a checksum is usually written."""
    with reading(path, "the file that was read before", key="data", remedy=""), open_regular(path) as file:
        return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
