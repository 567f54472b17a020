"""This module identifies the images that a run reads without decoding them; equal ones are stored once for all runs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from peft_vision.core.config import ConfigError
from peft_vision.core.identity import digest, hashed
from peft_vision.core.user_code import source_of
from peft_vision.data.extent import Extent
from peft_vision.data.pictures import Labelled
from peft_vision.runs.experiment import Experiment

_DIVIDES = ("stage", "augment")  # keys of data that do not change which pictures there are
_ROLES = {
    "all": {"train": "train", "val": "val", "test": "test"},
    "tune": {"train": "train", "val": "val"},
    "final": {"train": "train and val", "test": "test"},
    "peek": {"train": "train and val", "val": "test", "test": "test"},
}


@dataclass(frozen=True)
class Content:
    """The images that one config of data reads. `parts`: the pictures by split, None if they are not here; `marks`: for
    each split a digest that is equal for equal pictures."""

    extent: Extent
    parts: Mapping[str, Labelled] | None
    marks: Mapping[str, str]

    def keys(self, experiment: Experiment) -> dict[str, str]:
        """Return a key for the observations of each split, which stands for the store's own key and is made of the same
        inputs without reading weights or pixels."""
        data, backbone = experiment.data, experiment.backbone
        views = experiment.features.views if data.augment != "none" else 0
        common = [
            hashed(backbone),
            [experiment.features.dtype, experiment.trainer.precision, data.resize, data.crop],
            None if backbone.pretrained or backbone.checkpoint else experiment.seed,  # which decides random weights
        ]
        view_facts = {
            split: [views, source_of(data.augment)] if views and split == "train" else [] for split in self.marks
        }
        return {split: digest([common, view_facts[split], mark]) for split, mark in self.marks.items()}


def contents(experiment: Experiment) -> Content:
    """Return the images that an experiment reads. ConfigError if they are not here and their number is not known."""
    data = experiment.data
    extent = data.extent()
    try:
        parts = data.parts()
    except ConfigError:  # then the plan goes by the known numbers of images
        described = {key: value for key, value in hashed(data).items() if key not in _DIVIDES}
        roles = _ROLES[data.stage]
        return Content(extent, None, {split: digest([described, roles[split]]) for split in extent.images})
    return Content(extent, parts, {split: _seen(part) for split, part in parts.items()})


def _seen(part: Labelled) -> str:
    """Return a digest of the pictures, whatever their labels."""
    sha = hashlib.sha256()
    for content in part.pictures.identify(part.indices):
        sha.update(content)
    return sha.hexdigest()
