"""This module lists the classes of ImageNet by their WordNet ids (wnids), from the lists in timm.

all  the 1,000 of ILSVRC2012, in the order of their labels, which is that of the wnids
r    the 200 of them in ImageNet-R (Hendrycks et al., 2021, arXiv:2006.16241)
a    the 200 of them in ImageNet-A (Hendrycks et al., 2021, arXiv:1907.07174)
"""

from importlib.resources import files
from typing import Literal

_FILES = {"all": "imagenet_synsets.txt", "r": "imagenet_r_synsets.txt", "a": "imagenet_a_synsets.txt"}


def synsets(which: Literal["all", "r", "a"]) -> tuple[str, ...]:
    """Return the sorted wnids of one of the three sets."""
    return tuple((files("timm.data") / "_info" / _FILES[which]).read_text(encoding="ascii").split())
