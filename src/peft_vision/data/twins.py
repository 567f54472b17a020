"""This module finds twins: pictures of one split whose bytes are also in another, so that a model is selected or tested
on its training images.

No more of a picture is read than needed: first lengths are compared, then a few bytes from the middle of pictures of
equal length, and at last the whole of those that are still equal.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import torch

from peft_vision.core.progress import track
from peft_vision.data.pictures import Labelled

_CHUNK = 256  # pictures a thread takes at a time


@dataclass(frozen=True)
class Twins:
    """The number of pictures of a split that are also in another, and the name of one of them."""

    count: int
    example: str


def find_twins(parts: Mapping[str, Labelled], *, threads: int) -> dict[str, Twins] | None:
    """Return the pictures of each split that are also in an earlier one, by keys such as "test in train"; None if that
    cannot be determined at little cost. `parts` are in the order train, val, test."""
    pairs = [(first, then) for first, then in combinations(parts, 2) if not _same(parts[first], parts[then])]
    if not pairs:
        return None
    left, keys = dict(parts), {split: _lengths(part, threads, split) for split, part in parts.items()}
    if any(None in lengths for lengths in keys.values()):
        return None
    for look in (_middles, _digests):
        left = _alike(left, keys, pairs)
        keys = {split: look(part, threads, split) for split, part in left.items()}
    found: dict[str, Twins] = {}
    for first, then in pairs:
        seen = set(keys[first])
        twins = [place for place, key in enumerate(keys[then]) if key in seen]
        if twins:
            example = left[then].pictures.name(int(left[then].indices[twins[0]]))
            found[f"{then} in {first}"] = Twins(len(twins), example)
    return found


def worded(twins: Mapping[str, int]) -> list[str]:
    """Return a sentence for each pair of splits, with the number of twins that `find_twins` counted."""
    said = []
    for pair, count in twins.items():
        then, _, first = pair.partition(" in ")
        are = f"{count:,} {then} image is" if count == 1 else f"{count:,} {then} images are"
        said.append(f"{are} among the {first} images too")
    return said


def _same(one: Labelled, other: Labelled) -> bool:
    """Return whether two splits are the same selection of pictures, as with data.stage=peek."""
    return one.pictures is other.pictures and torch.equal(one.indices, other.indices)


def _alike(
    parts: Mapping[str, Labelled], keys: Mapping[str, list[Hashable]], pairs: Iterable[tuple[str, str]]
) -> dict[str, Labelled]:
    """Return, for each split, the pictures whose key also occurs in another split of a pair."""
    shared: dict[str, set[Hashable]] = {split: set() for split in parts}
    for first, then in pairs:
        common = set(keys[first]) & set(keys[then])
        shared[first] |= common
        shared[then] |= common
    kept = {split: [place for place, key in enumerate(keys[split]) if key in shared[split]] for split in parts}
    return {split: part.subset(torch.tensor(kept[split], dtype=torch.int64)) for split, part in parts.items()}


def _lengths(part: Labelled, threads: int, label: str) -> list[Hashable]:
    return _of_each(part, part.pictures.length, threads, f"compare {label} images by length")


def _middles(part: Labelled, threads: int, label: str) -> list[Hashable]:
    def middle(index: int) -> Hashable:
        return part.pictures.length(index), part.pictures.middle(index)

    return _of_each(part, middle, threads, f"compare {label} images by their middle")


def _digests(part: Labelled, threads: int, label: str) -> list[Hashable]:
    contents = track(part.contents(), label=f"compare {label} images", total=len(part), unit="images")
    return [hashlib.sha256(content).digest() for content in contents]


def _of_each(part: Labelled, look: Callable[[int], Hashable], threads: int, label: str) -> list[Hashable]:
    indices = part.indices.tolist()

    def chunk(start: int) -> list[Hashable]:
        return [look(index) for index in indices[start : start + _CHUNK]]

    def chunks() -> Iterator[Hashable]:
        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(chunk, range(0, len(indices), _CHUNK)):
                yield from found

    return list(track(chunks(), label=label, total=len(indices), unit="images"))
