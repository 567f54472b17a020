"""This module draws random numbers that are a function of (seed, index, stream) and of nothing else.

    h = mix(mix(mix(seed) + index) + stream),   mix = the finaliser of SplitMix64 (Steele et al., 2014)

There is no state: the draw of an image never depends on worker, batch or order, so a resumed run repeats it exactly.
"""

import numpy as np
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
