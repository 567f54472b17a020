"""STL-10's test images as a shift of CIFAR-10: nine classes in common, photographs of ImageNet (Coates et al., 2011).

path/test_X.bin  uint8 (n, 3, 96, 96), each channel column by column
path/test_y.bin  uint8 (n,), from 1
path/class_names.txt

The files are read here rather than by torchvision, which also requires 2.6 GB of unlabelled images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from peft_vision.core.config import FILE, ConfigError, component
from peft_vision.data.pictures import Arrays, labelled
from peft_vision.data.reading import located
from peft_vision.data.torchvision_arrays import stl10_classes, stl10_images, stl10_labels
from peft_vision.ood.base import OOD, Shift, require_files

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@component
class STL10(OOD):
    """A set of STL-10's test images. `path`: the folder that holds test_X.bin."""

    path: Annotated[str, FILE]

    def check(self) -> None:
        source = "STL-10 is at https://cs.stanford.edu/~acoates/stl10, stl10_binary.tar.gz (2.6 GB)"
        require_files(self._files(), what="STL-10", source=source)

    def open(self) -> Mapping[str, Shift]:
        data, labels, names = self._files()
        images, found = stl10_images(data, key="path"), stl10_classes(names, key="path")
        if found != CLASSES:
            raise ConfigError(f"path: {names} holds other lines than {', '.join(CLASSES)}; fetch it again")
        ids = stl10_labels(labels, of=data, count=len(images), key="path")
        return {"": Shift(labelled(Arrays(images), ids), CLASSES)}

    def _files(self) -> tuple[Path, Path, Path]:
        folder = located(self.path)
        return folder / "test_X.bin", folder / "test_y.bin", folder / "class_names.txt"
