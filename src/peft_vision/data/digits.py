"""This module reads handwritten digits without a network: the 1797 grey 8 x 8 pictures in scikit-learn (Alpaydin,
1998).

They have no official test split: 20 % are drawn with a fixed seed, whatever the `split_seed`.
"""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

from peft_vision.core.config import component
from peft_vision.data.arrays import Arrays
from peft_vision.data.base import Data
from peft_vision.data.divide import test_part
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.reading import reading
from peft_vision.data.splits import LabelledSets

TEST_FRACTION = 0.2


def read_digits() -> Labelled:
    """Return all digits, their grey values 0 to 16 spread over 0 to 255."""
    # the file that load_digits reads: importing sklearn for it would take seconds
    sklearn = Path(importlib.util.find_spec("sklearn").origin).parent
    file = sklearn / "datasets" / "data" / "digits.csv.gz"
    with reading(file, "the digits of scikit-learn, 65 numbers a line", key="data", remedy="install it again"):
        table = _table(file)
    values, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64].astype(np.int64)
    grey = np.round(values * (255 / 16)).astype(np.uint8)
    return labelled(Arrays(np.repeat(grey[..., None], 3, axis=-1)), labels)


@cache  # a run reads it twice, to check it and to train, and each run of a sweep does
def _table(file: Path) -> np.ndarray:
    """Return one row for each digit: 64 grey values, then the label."""
    table = np.loadtxt(file, delimiter=",").reshape(-1, 65)
    table.flags.writeable = False
    return table


@component
class Digits(Data):
    """A data set that comes with scikit-learn and needs no files of the user."""

    def open(self) -> LabelledSets:
        """Return the digits, with a test part that is always the same."""
        train, test = test_part(read_digits(), TEST_FRACTION)
        return LabelledSets(
            name="digits",
            train=train,
            val=None,
            test=test,
            classes=tuple(str(digit) for digit in range(10)),
            remark="test part drawn by peft-vision (not an official split)",
        )
