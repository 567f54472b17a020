"""This module lists the ImageNet classes in each class of BREEDS (Santurkar et al., 2021, arXiv:2008.04859).

A class is a superclass; half of its subclasses, the source, is trained on, the other half, the target, is the shift.
breeds.json holds the splits of github.com/MadryLab/robustness 1.2.1, `make_living17(info_dir, split="rand")` and so on,
which draw with a seed of their own from the hierarchy of github.com/MadryLab/BREEDS-Benchmarks; LP-FT uses the same.
"""

import json
from pathlib import Path
from typing import Literal

NAMES = ("living17", "nonliving26", "entity13", "entity30")


def superclasses(name: str) -> tuple[str, ...]:
    """Return the class names in the order of their labels."""
    return tuple(_table(name))


def subclass_labels(name: str, which: Literal["source", "target"]) -> dict[str, int]:
    """Return the label, the position in `superclasses`, of each source or target subclass by its WordNet id."""
    return {wnid: label for label, halves in enumerate(_table(name).values()) for wnid in halves[which]}


def _table(name: str) -> dict[str, dict[str, list[str]]]:
    return json.loads(Path(__file__).with_name("breeds.json").read_text(encoding="ascii"))[name]
