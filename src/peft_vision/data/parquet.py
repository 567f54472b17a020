"""This module reads any image data set as Hugging Face stores it: parquet files in a folder or on the hub.

path/data/train-00000-of-00001.parquet  path/data/test-00000-of-00001.parquet
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from peft_vision.core.config import FILE, ConfigError, component
from peft_vision.data.base import Data
from peft_vision.data.divide import test_part
from peft_vision.data.parquet_files import Stored, read
from peft_vision.data.splits import LabelledSets


@component
class Parquet(Stored, Data):
    """A data set of parquet files, in exactly one of `path` and `hub`. `test_fraction` is for one without a test
    split."""

    path: Annotated[str | None, FILE]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]

    def open(self) -> LabelledSets:
        """Return the splits; class ids follow the data set's own numbering, or the sorted names if labels are names."""
        if (self.path is None) == (self.hub is None):
            raise ConfigError("data: set data.path to a folder of parquet files, or data.hub to a data set's name")
        folder = None if self.path is None else self._folder(self.path)
        opened = read(self, folder, prefix="data.")
        train, test, remark = opened.train, opened.test, ""
        if test is None:
            train, test = test_part(train, self.test_fraction)
            remark = f"test part drawn, {self.test_fraction:g} of each class"
        return LabelledSets(
            name=self.hub or str(folder),
            train=train,
            val=opened.val,
            test=test,
            classes=opened.classes,
            remark=remark,
            provenance={"source": f"{self.hub} on the Hugging Face hub" if self.hub else "parquet files"},
        )

    def _folder(self, path: str) -> Path:
        folder = Path(path).expanduser().absolute()
        if not folder.is_dir():
            raise ConfigError(f"data.path: no folder {folder}, of files such as train-00000-of-00001.parquet")
        return folder
