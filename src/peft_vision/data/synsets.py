"""The classes of ImageNet by their WordNet ids (wnids), as timm lists them.

all  the 1,000 of ILSVRC2012, in the order of their labels, which is that of the wnids
r    the 200 of them that ImageNet-R has (Hendrycks et al., 2021, arXiv:2006.16241)
a    the 200 of them that ImageNet-A has (Hendrycks et al., 2021, arXiv:1907.07174)
"""

from importlib.resources import files
from typing import Literal

_FILES = {"all": "imagenet_synsets.txt", "r": "imagenet_r_synsets.txt", "a": "imagenet_a_synsets.txt"}


def synsets(which: Literal["all", "r", "a"]) -> tuple[str, ...]:
    """wnids, sorted."""
    return tuple((files("timm.data") / "_info" / _FILES[which]).read_text(encoding="ascii").split())
