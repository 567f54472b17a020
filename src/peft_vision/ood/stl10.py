"""STL-10's test images as a shift of CIFAR-10: nine classes in common, photographs of ImageNet (Coates et al., 2011).

path/test_X.bin  uint8 (n, 3, 96, 96), each channel column by column
path/test_y.bin  uint8 (n,), from 1
path/class_names.txt

Read here rather than by torchvision, which wants 2.6 GB of unlabelled images beside them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np

from peft_vision.config import FILE, ConfigError, component
from peft_vision.data.pictures import Arrays, labelled
from peft_vision.ood.arrays import regular, require
from peft_vision.ood.base import OOD, Shift

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_SIZE = 96
_BYTES = 3 * _SIZE * _SIZE


@component
class STL10(OOD):
    """`path`: the folder that holds test_X.bin."""

    path: Annotated[str, FILE]

    def check(self) -> None:
        require(self._files(), source="https://cs.stanford.edu/~acoates/stl10, stl10_binary.tar.gz (2.6 GB)")

    def open(self) -> Mapping[str, Shift]:
        data, labels, names = self._files()
        images, found = _images(data), regular(names).read_bytes().split()
        if found != [name.encode() for name in CLASSES]:
            raise ConfigError(f"path: {names} holds other lines than {', '.join(CLASSES)}; fetch it again")
        return {"": Shift(labelled(Arrays(images), _class_ids(labels, len(images), data)), CLASSES)}

    def _files(self) -> tuple[Path, Path, Path]:
        folder = Path(self.path).expanduser().absolute()
        return folder / "test_X.bin", folder / "test_y.bin", folder / "class_names.txt"


def _images(path: Path) -> np.ndarray:
    """(n, 96, 96, 3), mapped rather than read."""
    size = regular(path).stat().st_size
    if not size or size % _BYTES:
        raise ConfigError(
            f"path: {path} has {size} bytes, should be {_BYTES} an image; it is cut short: fetch it again"
        )
    columns = np.memmap(path, dtype=np.uint8, mode="r", shape=(size // _BYTES, 3, _SIZE, _SIZE))
    return columns.transpose(0, 3, 2, 1)


def _class_ids(path: Path, count: int, images: Path) -> np.ndarray:
    """(count,) places in CLASSES."""
    labels = np.fromfile(regular(path), dtype=np.uint8)
    if len(labels) != count:
        raise ConfigError(f"path: {path} has {len(labels)} labels, should be {count}, one for each of {images.name}")
    if not 1 <= labels.min() <= labels.max() <= len(CLASSES):
        raise ConfigError(f"path: {path} holds labels {labels.min()} to {labels.max()}, should be 1 to {len(CLASSES)}")
    return labels - 1
