"""This module reads every picture of a set once, with threads, and decodes it into memory or only verifies it.

Corrupt pictures raise an error that names one and counts the rest, or are left out with a warning.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.core.preprocessing import sides_of
from peft_vision.core.progress import track
from peft_vision.data.arrays import Arrays
from peft_vision.data.bands import OtherChannels
from peft_vision.data.decode import UNREADABLE, Geometry, Misfit
from peft_vision.data.images import UncroppedImages
from peft_vision.data.pictures import Labelled

_CHUNK = 64  # pictures a thread takes at a time
_log = logging.getLogger("peft_vision")
_NAMED = 20


def decode(images: Labelled, geometry: Geometry, *, threads: int, label: str) -> tuple[Tensor, dict[int, str]]:
    """Return uint8 (n, C, H, W) of the readable pictures, with a mask as one more channel if they are masked, and the
    error of each unreadable one by its position in `images`."""
    channels = geometry.channels + images.pictures.masked
    pixels = torch.empty((len(images), channels, *sides_of(geometry.size)), dtype=torch.uint8)
    rows = pixels.numpy()
    indices = images.indices.tolist()

    def fill(position: int) -> None:
        rows[position] = images.pictures.shaped(indices[position], geometry)

    faults = _faults(fill, len(images), threads=threads, label=f"decode {label} images")
    if not faults:
        return pixels, faults
    kept = [position for position in range(len(images)) if position not in faults]
    for place, position in enumerate(kept):  # in place: a second tensor might not fit
        rows[place] = rows[position]
    return pixels[: len(kept)], faults


def decode_whole(
    images: Labelled, geometry: Geometry, *, threads: int, label: str
) -> tuple[UncroppedImages, dict[int, str]]:
    """Return the readable pictures before their centres are cut out, and the error of each unreadable one by its
    position."""
    arrays: list[np.ndarray | None] = [None] * len(images)
    indices = images.indices.tolist()

    def fill(position: int) -> None:
        arrays[position] = np.ascontiguousarray(images.pictures.shaped(indices[position], geometry, whole=True))

    faults = _faults(fill, len(images), threads=threads, label=f"decode {label} images")
    return UncroppedImages([whole for whole in arrays if whole is not None], geometry.size), faults


def whole_bytes(images: Labelled, geometry: Geometry, *, threads: int, label: str) -> int:
    """Return the bytes that `decode_whole` would take, from the sizes in the files' headers; 0 for unreadable files."""
    sizes = [0] * len(images)  # 0 remains for a picture that cannot be read
    indices = images.indices.tolist()

    def measure(position: int) -> None:
        width, height = geometry.extent(*images.pictures.sides(indices[position]))
        sizes[position] = (geometry.channels + images.pictures.masked) * width * height

    _faults(measure, len(images), threads=threads, label=f"measure {label} images")
    return sum(sizes)


def verify(images: Labelled, *, threads: int, label: str, geometry: Geometry | None = None) -> dict[int, str]:
    """Return the error of each unreadable picture by its position in `images`. OtherChannels for one that has not the
    channels of `geometry`."""
    indices = images.indices.tolist()

    def attempt(position: int) -> None:
        if geometry is None or geometry.channels == 3:
            # one of other channels is whole, which is all that is asked without a geometry
            with suppress(OtherChannels) if geometry is None else named(images, indices[position]):
                images.pictures.verify(indices[position])
        else:
            images.pictures.shaped(indices[position], geometry, whole=True)

    return _faults(
        attempt,
        len(images),
        threads=threads,
        label=f"verify {label} images",
    )


def glance(images: Labelled, *, threads: int, label: str) -> dict[int, str]:
    """Return the error of each picture whose header shows it to be unreadable, by its position; nothing is decoded."""
    if isinstance(images.pictures, Arrays):
        return {}
    indices = images.indices.tolist()
    return _faults(
        lambda position: images.pictures.sides(indices[position]),
        len(images),
        threads=threads,
        label=f"look at {label} images",
    )


@contextmanager
def named(images: Labelled, index: int) -> Iterator[None]:
    """Raise OtherChannels with the picture's name where it is raised in the block."""
    try:
        yield
    except OtherChannels as error:
        raise OtherChannels(images.pictures.name(index), error.found, error.wanted) from error


def _faults(task: Callable[[int], None], count: int, *, threads: int, label: str) -> dict[int, str]:
    """Return the error of each position at which `task` fails. ConfigError, after all are tried, if any is a Misfit."""

    def attempt(position: int) -> str | Misfit | None:
        try:
            task(position)
        except Misfit as error:
            return error
        except UNREADABLE as error:
            return f"{type(error).__name__}: {error}"
        return None

    def chunk(start: int) -> list[str | Misfit | None]:
        return [attempt(position) for position in range(start, min(start + _CHUNK, count))]

    pool = ThreadPoolExecutor(max(1, threads))
    try:
        reasons = chain.from_iterable(pool.map(chunk, range(0, count, _CHUNK)))
        reasons = track(reasons, label=label, total=count, unit="images")
        found = {position: reason for position, reason in enumerate(reasons) if reason is not None}
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    if misfits := [reason for reason in found.values() if isinstance(reason, Misfit)]:
        raise misfits[0].among(len(misfits), count)
    return found


def left_out(
    parts: Mapping[str, Labelled], faults: Mapping[str, Mapping[int, str]], *, skip: bool
) -> tuple[dict[str, Labelled], int]:
    """Return `parts` without the positions in `faults`, and the number of these. ConfigError for any unless `skip`."""
    corrupt = [
        (parts[split].pictures.name(int(parts[split].indices[position])), one_line(reason))
        for split, found in faults.items()
        for position, reason in found.items()
    ]
    if not corrupt:
        return dict(parts), 0
    if not skip:
        (name, reason), more = corrupt[0], len(corrupt) - 1
        also = f", and {more} more {'is' if more == 1 else 'are'} corrupt" if more else ""
        raise ConfigError(
            f"data: cannot read {name} ({reason}){also}\nrepair or remove, or data.on_corrupt=skip leaves out"
        )
    shown = ", ".join(name for name, _ in corrupt[:_NAMED])
    unnamed = f" and {len(corrupt) - _NAMED} more" if corrupt[_NAMED:] else ""
    _log.warning("left out %d corrupt images: %s%s", len(corrupt), shown, unnamed)
    return {split: _without(part, faults[split]) for split, part in parts.items()}, len(corrupt)


def _without(part: Labelled, positions: Mapping[int, str]) -> Labelled:
    kept = torch.ones(len(part), dtype=torch.bool)
    kept[list(positions)] = False
    return part.subset(kept.nonzero().squeeze(1))
