"""A data set is a collection of labelled pictures, split by seed and decoded at the size that a backbone expects.

A subclass opens its pictures and labels without decoding them; the rest is the same for all data sets.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace
from itertools import chain
from math import prod
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from peft_vision.core.config import FUNCTION, NOT_HASHED, ConfigError, HashDefault, component
from peft_vision.core.device_memory import DeviceGiB
from peft_vision.core.preprocessing import Preprocessing, sides_of
from peft_vision.data.augment import AUGMENTS, MOVE_MASKS, OF_WHOLES, known
from peft_vision.data.decode import Geometry, Misfit, format_of, worded_formats
from peft_vision.data.divide import divided, refuse_unlearnable, tested_on, with_test_part, without_images
from peft_vision.data.fill import decode, decode_whole, glance, left_out, verify, whole_bytes
from peft_vision.data.images import Images, MaskedImages, UncroppedImages, Undecoded, usable
from peft_vision.data.pictures import Labelled
from peft_vision.data.reading import file_sum
from peft_vision.data.splits import Extent, LabelledSets, Splits, fingerprint
from peft_vision.data.twins import find_twins

_log = logging.getLogger("peft_vision")
_GIB = 2**30
_SAMPLE = 100  # pictures of each split: reading every picture of ImageNet would take a while
SPLITS = frozenset(("train", "val", "test"))


@component
class Data(ABC):
    """A data set with the options that all data sets share.

    `train_size`: the total number of labelled images a run may use: its training images and the validation part carved
    from them. A data set's official validation split is used whole and in addition, and `val_fraction` is then ignored.
    `shots`: instead, the number of training images per class, the same in every stage (divide.py).
    `test_size`: the most test images to score, drawn from all of them, the same for every `split_seed`; None: all.
    `stage`: all: all splits; tune: no test images; final: the validation images are trained on, unless `shots` is set;
    peek: as final, and the test images are the validation images too.
    `device_memory_gib`: how much of a device's memory decoded images that are read in every epoch may take.
    `full_scale`: the value of 16-bit pixels that becomes 255; None: their lower 8 bits are dropped.
    `crop`: the share of the resized short side that a centre crop keeps; None: the share the weights were made for.
    """

    train_size: Annotated[int, Field(ge=2)] | None
    shots: Annotated[Annotated[int, Field(ge=1)] | None, HashDefault(None)]
    test_size: Annotated[Annotated[int, Field(ge=1)] | None, HashDefault(None)]
    val_fraction: Annotated[float, Field(ge=0, lt=1)]
    split_seed: Annotated[int, Field(ge=0)]
    stage: Annotated[Literal["all", "tune", "final", "peek"], HashDefault("all")]
    augment: Annotated[Literal[*AUGMENTS] | str, AfterValidator(known), FUNCTION]
    resize: Literal["squash", "crop"]
    full_scale: Annotated[Annotated[int, Field(ge=1, le=65535)] | None, HashDefault(None)]
    crop: Annotated[Annotated[float, Field(gt=0, le=1)] | None, HashDefault(None)]
    on_corrupt: Literal["error", "skip"]
    cache: Annotated[bool, NOT_HASHED]
    memory_gib: Annotated[float, Field(ge=0), NOT_HASHED]
    device_memory_gib: Annotated[DeviceGiB, NOT_HASHED, HashDefault("auto")]
    workers: Annotated[int, Field(ge=0), NOT_HASHED]

    @model_validator(mode="after")
    def _goes_together(self) -> "Data":
        if self.resize == "squash" and self.augment == "crop_flip":
            raise ValueError("augment=crop_flip takes windows of what resize=crop makes; with squash there is no room")
        if self.resize == "squash" and self.crop is not None:
            raise ValueError(f"crop={self.crop:g} is for resize=crop; with squash nothing is cropped (crop=null)")
        if self.shots is not None and self.train_size is not None:
            raise ValueError(f"shots={self.shots} and train_size={self.train_size} both say how many; one must be null")
        return self

    @abstractmethod
    def open(self) -> LabelledSets:
        """Return pictures and labels without decoding anything; may download."""

    def check(self) -> None:
        """Raise ConfigError for every fault found by opening the data set and dividing it. This may download;
        subclasses override it where a cheaper check is possible."""
        self._divide()

    def without_download(self) -> "Data":
        """Return this data set in a form that raises ConfigError instead of downloading, or raise it at once; by
        default itself."""
        return self

    def extent(self) -> Extent:
        """Return how many images and classes a run reads. ConfigError if the images are not on disk and their number is
        not known."""
        try:
            sets, parts = self._divide()
        except ConfigError:
            known = self.known()
            if known is None or self.shots is not None or self.train_size is not None:
                raise
            return known.tested_on(self.test_size).at(self.stage)
        return Extent({split: len(part) for split, part in parts.items()}, len(sets.classes))

    def known(self) -> Extent | None:
        """Return the numbers of images in train, val and test of a published data set, whether or not it is on disk;
        None if unknown."""
        return None

    def parts(self) -> dict[str, Labelled]:
        """Return the pictures of each split without decoding them."""
        return self._divide()[1]

    def adjusted(self, preprocessing: Preprocessing) -> Preprocessing:
        """Return the preprocessing of some weights as this data set applies it, with `crop` replaced if it is set."""
        return preprocessing if self.crop is None else replace(preprocessing, crop=self.crop)

    def load(self, preprocessing: Preprocessing, *, read: Set[str] = SPLITS) -> Splits:
        """Read every picture of the splits in `read` once, so that a corrupt one never stops a run midway, and return
        the splits; other splits are read later."""
        sets, parts = self._divide()
        parts, images, skipped = self._decoded(parts, read, preprocessing)
        refuse_unlearnable(parts, sets)
        return Splits(
            train=images["train"],
            val=images.get("val"),
            test=images.get("test"),
            classes=sets.classes,
            fingerprint=fingerprint(parts, sets.classes),
            skipped=skipped,
            source=_source(sets, parts, read),
            group=sets.group,
            provenance=self.provenance(sets, [part for split, part in parts.items() if split in read]),
            twins=find_twins(
                {split: part for split, part in parts.items() if split in read}, threads=max(1, usable(self.workers))
            ),
            pictures=parts,
            labels_are=sets.labels_are,
        )

    def fingerprint(self, *, skipped: int) -> str:
        """Return the fingerprint of the splits that `load` returns, for data on disk, through `without_download`.
        Pictures are read only if corrupt ones were left out (`skipped` > 0)."""
        sets, parts = self.without_download()._divide()
        if skipped:
            threads = max(1, usable(self.workers))
            faults = {split: verify(part, threads=threads, label=split) for split, part in parts.items()}
            parts, _ = left_out(parts, faults, skip=True)
        return fingerprint(parts, sets.classes)

    def provenance(self, sets: LabelledSets, seen: Sequence[Labelled]) -> dict[str, str]:
        """Return the source of the pictures, their encoding and checksums of the data set's files; `seen` holds
        pictures that are known to be readable."""
        sampled = chain.from_iterable(part.sampled(_SAMPLE).contents() for part in seen)
        encoding = worded_formats(Counter(map(format_of, sampled)))
        names = Counter(file.name for file in sets.files)
        sums = {"/".join(file.parts[-1 if names[file.name] == 1 else -2 :]): file_sum(file) for file in sets.files}
        return {**sets.provenance, "encoding": encoding, **sums}

    def load_other(self, part: Labelled, preprocessing: Preprocessing, *, label: str) -> tuple[Labelled, Images, int]:
        """Read pictures of another source with this data set's geometry and without augmentation. Return the readable
        ones, their images, and the number of unreadable ones; `label` names them to the user."""
        parts, images, skipped = self._decoded({label: part}, {label}, preprocessing)
        return parts[label], images[label], skipped

    def foreseen(self, part: Labelled, *, label: str) -> int:
        """Return how many pictures of another source `load_other` would read, judged by the headers of their files:
        this finds files that are missing, not regular or not pictures, but not truncated ones. ConfigError if
        `load_other` would stop at one."""
        faults = glance(part, threads=max(1, usable(self.workers)), label=label)
        if self.on_corrupt == "error":
            left_out({label: part}, {label: faults}, skip=False)
        return len(part) - len(faults)

    def _decoded(
        self, parts: dict[str, Labelled], read: Set[str], preprocessing: Preprocessing
    ) -> tuple[dict[str, Labelled], dict[str, Images], int]:
        """Return `parts` without the corrupt pictures of the splits in `read`, their images, and the number of pictures
        left out. Only the images of "train" are augmented."""
        if preprocessing.channels not in (1, 3) and self.augment == "rand_augment":
            raise ConfigError(
                f"data.augment: rand_augment changes colours, and the backbone takes {preprocessing.channels} "
                "channels; flip_crop, or crop_flip with data.resize=crop, takes any number"
            )
        geometry = Geometry(
            size=preprocessing.size,
            resize=self.resize,
            crop=self.adjusted(preprocessing).crop,
            interpolation=preprocessing.interpolation,
            channels=preprocessing.channels,
            full_scale=self.full_scale,
        )
        threads = max(1, usable(self.workers))
        names = list(parts)
        shared = read >= {"val", "test"} <= parts.keys() and parts["val"] is parts["test"]  # with stage=peek
        if shared:
            parts = {split: part for split, part in parts.items() if split != "val"}
        wanted = {split: part for split, part in parts.items() if split in read}
        in_memory = self._in_memory(wanted, geometry, threads=threads)
        pixels, faults, misfits = {}, {split: {} for split in parts}, []
        for split, part in wanted.items():
            try:
                if split in in_memory:
                    into_memory = decode_whole if self._whole(split) else decode
                    pixels[split], faults[split] = into_memory(part, geometry, threads=threads, label=split)
                else:
                    faults[split] = verify(part, threads=threads, label=split, geometry=geometry)
            except Misfit as error:
                misfits.append(error)
        if misfits:
            raise misfits[0].among(sum(error.count for error in misfits), sum(map(len, wanted.values())))
        parts, skipped = left_out(parts, faults, skip=self.on_corrupt == "skip")
        if shared:
            parts = {split: parts["test" if split == "val" else split] for split in names}
            pixels |= {"val": pixels["test"]} if "test" in pixels else {}
        images = {
            split: _images(part, pixels.get(split), geometry, self.augment if split == "train" else "none")
            for split, part in parts.items()
        }
        return parts, images, skipped

    def _divide(self) -> tuple[LabelledSets, dict[str, Labelled]]:
        try:
            sets = self.open()
        except OSError as error:
            raise ConfigError(f"data: {error.filename or type(self).__name__}: {error.strerror or error}") from error
        if sets.labels_are == "classes" and len(sets.classes) == 1:
            raise ConfigError(f"data: {sets.name} has one class, {sets.classes[0]!r}; at least two are needed")
        sets = with_test_part(sets)
        if sets.labels_are == "masks" and self.augment not in MOVE_MASKS:
            raise ConfigError(f"data.augment: {self.augment} does not move masks; {', '.join(MOVE_MASKS)} do")
        if sets.val is not None and not len(sets.val):
            sets = replace(sets, val=None)
        if self.test_size is not None:
            sets = tested_on(sets, self.test_size)
        parts = divided(
            sets,
            train_size=self.train_size,
            shots=self.shots,
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
            stage=self.stage,
        )
        refuse_unlearnable(parts, sets)
        return sets, parts

    def _whole(self, split: str) -> bool:
        """Return whether images of `split` are random crops, which need more of the pictures than their centres."""
        return split == "train" and self.resize == "crop" and self.augment in OF_WHOLES

    def _in_memory(self, parts: dict[str, Labelled], geometry: Geometry, *, threads: int) -> set[str]:
        """Return the splits to decode once and keep in memory. They are tried in the order train, val, test, the most
        often read first, and each is kept if it fits into the rest of `memory_gib`."""
        left = self.memory_gib
        kept = set()
        for split, part in parts.items() if self.cache else ():
            num_bytes = (
                whole_bytes(part, geometry, threads=threads, label=split)
                if self._whole(split)
                else len(part) * (geometry.channels + part.pictures.masked) * prod(sides_of(geometry.size))
            )
            gib = num_bytes / _GIB
            if gib <= left:
                kept.add(split)
                left -= gib
            else:
                _log.info("%s images not cached: %.1f GiB, of data.memory_gib %.1f are left", split, gib, left)
        return kept


def _images(part: Labelled, pixels: Tensor | UncroppedImages | None, geometry: Geometry, augment: str) -> Images:
    """Return the images of a split, decoded at each access if `pixels` is None."""
    pixels = Undecoded(part.pictures, part.indices, geometry) if pixels is None else pixels
    if part.labels_are == "masks":
        return MaskedImages(part, pixels, augment, geometry)
    return Images(part.labels, pixels, augment)


def _source(sets: LabelledSets, parts: dict[str, Labelled], read: Set[str]) -> str:
    """Return what a run says of its data. ConfigError if masks were read for training, and none shows a class."""
    counts = " + ".join(f"{len(part)} {split}" for split, part in parts.items())
    number, train = len(sets.classes), parts["train"]
    missing = without_images(train, sets.classes)
    match sets.labels_are:
        case "classes":
            labels = f"of {number} classes"
        case "several":
            labels = f"with any of {number} labels"
        case "numbers":
            labels = f"with {number} numbers each" if number > 1 else "with a number each"
        case "masks":
            labels = f"with masks of {number} classes"
            missing = np.flatnonzero(~train.pictures.shown(train.indices)) if "train" in read else []
            if len(missing) == number:
                raise ConfigError(f"data: every pixel of the {len(train)} training masks is ignored (data.ignore)")
    gaps = f", {len(missing)} of them without a training image" if len(missing) else ""
    remark = f"; {sets.remark}" if sets.remark else ""
    return f"{sets.name}: {counts} images {labels}{gaps}{remark}"
