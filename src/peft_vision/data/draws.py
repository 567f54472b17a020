"""This module draws numbers and images by seed; every draw is a function of (seed, index, stream) and of nothing else.

    h = mix(mix(mix(seed) + index) + stream),   mix = the finaliser of SplitMix64 (Steele et al., 2014)

There is no state: the draw of an image never depends on worker, batch or order, so a resumed run repeats it exactly.

A part of a labelled set keeps the share of every class, exact to the image: share_c is close to count * n_c / n,
rounded by largest remainder so that the shares sum to `count`. With the same seed a smaller part lies within a larger
one, up to rounding.
"""

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def bits(indices: Tensor, *, seed: int, stream: int) -> np.ndarray:
    """Return 64 random bits, uint64 (n,), for each of the indices (n,)."""
    key = _mix(np.array([seed & _MASK], dtype=np.uint64))
    return _mix(_mix(key + indices.numpy().astype(np.uint64)) + np.uint64(stream))


def below(limit: int | np.ndarray, indices: Tensor, *, seed: int, stream: int) -> np.ndarray:
    """Return integers (n,) in [0, limit); `limit` < 2**32 is one number for all indices or an array (n,)."""
    high = bits(indices, seed=seed, stream=stream) >> np.uint64(32)
    return ((high * np.asarray(limit, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)


def _mix(words: np.ndarray) -> np.ndarray:
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def draw(labels: Tensor, count: int, *, seed: int, least: int, leave: int) -> tuple[Tensor, Tensor]:
    """Return the positions of the `count` drawn images and of the rest, both ascending; at least `least` images of
    every class are drawn and at least `leave` stay. ValueError if `count` does not allow that."""
    sizes = torch.bincount(labels).numpy()
    shares = _shares(sizes, count, least=least, leave=leave, seed=seed)
    drawn = ranks(labels, seed=seed) < shares[labels.numpy()]
    return torch.from_numpy(np.flatnonzero(drawn)), torch.from_numpy(np.flatnonzero(~drawn))


def ranks(labels: Tensor, *, seed: int) -> np.ndarray:
    """Return (n,): the rank of each image, from 0, in a random order of its class."""
    sizes = torch.bincount(labels).numpy()
    order = np.argsort(bits(torch.arange(len(labels)), seed=seed, stream=0), kind="stable")
    by_class = order[np.argsort(labels.numpy()[order], kind="stable")]
    places = np.empty(len(labels), dtype=np.int64)
    places[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places


def most_drawable(labels: Tensor, *, leave: int) -> int:
    """Return the largest number of images that can be drawn when `leave` of every class must stay."""
    return int((torch.bincount(labels) - leave).clamp(min=0).sum())


def _shares(sizes: np.ndarray, count: int, *, least: int, leave: int, seed: int) -> np.ndarray:
    low = np.minimum(least, sizes)
    high = np.maximum(sizes - leave, 0)
    if not low.sum() <= count <= high.sum():
        raise ValueError(f"cannot draw {count} images; {low.sum()} to {high.sum()} are possible")
    # the jitter breaks ties by the seed, else the first classes would always get the odd image
    jitter = bits(torch.arange(len(sizes)), seed=seed, stream=1) / 2.0**64 * 1e-6
    wanted = sizes * count / sizes.sum() + jitter
    shares = np.clip(np.floor(wanted).astype(np.int64), low, high)
    while shares.sum() < count:
        shares[np.argmax(np.where(shares < high, wanted - shares, -np.inf))] += 1
    while shares.sum() > count:
        shares[np.argmin(np.where(shares > low, wanted - shares, np.inf))] -= 1
    return shares
