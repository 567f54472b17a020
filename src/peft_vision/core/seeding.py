"""This module derives randomness from the run's seed and a place in the run, never from what ran before.

A run resumed at epoch 7 draws what an uninterrupted one would have drawn there, with no random state to save.
"""

import hashlib


def derive(seed: int, *place: int | str) -> int:
    """Return a seed in [0, 2**63) for one place of a run, such as `derive(seed, "order", epoch)`."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
