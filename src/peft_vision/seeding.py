"""Randomness that is a function of the run's seed and of a place in the run, never of what ran before.

A run resumed at epoch 7 draws what an uninterrupted one would have drawn there, with no random state to save.
"""

import hashlib


def derive(seed: int, *place: int | str) -> int:
    """A seed in [0, 2**63) for one place of a run, such as `derive(seed, "order", epoch)`."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
