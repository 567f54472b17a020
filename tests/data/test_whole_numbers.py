from pathlib import Path

import numpy as np
import pytest

from peft_vision.core.config import ConfigError
from peft_vision.data.reading import whole_numbers

FILE = Path("labels.bin")


@pytest.mark.parametrize("kind", [np.uint8, np.int64, ">i2", np.uint64])
def test_whole_numbers_are_labels(kind: str):
    found = whole_numbers(np.array([3, 1, 2], kind), FILE, within=(1, 3), per=(3, ""))
    assert found.tolist() == [3, 1, 2]
    assert found.dtype == np.int64


def test_floats_are_where_they_may_be():
    assert whole_numbers(np.array([1.0, 2.0]), FILE, within=(1, 2), floats=True).dtype == np.int64
    with pytest.raises(ConfigError, match=r"^data.root: labels.bin holds float64 \(2,\), should be whole numbers$"):
        whole_numbers(np.array([1.0, 2.0]), FILE, within=(1, 2))


@pytest.mark.parametrize(
    "values",
    [[1.5], [np.nan], [np.inf], [], [[1, 2]], 3, ["1"], [True, False], [None], [10**30], [1 + 0j]],
)
def test_what_is_no_list_of_whole_numbers_is_refused(values: object):
    with pytest.raises(ConfigError, match=r"^data.root: labels.bin holds .*should be"):
        whole_numbers(values, FILE, within=(0, 10), floats=True)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ([0, 1, 2], "holds labels 0 to 2, should be 1 to 2"),
        ([1, 2, 3], "holds labels 1 to 3, should be 1 to 2"),
        ([1, 2], r"holds int64 \(2,\), should be 3 whole numbers, one for each image of data.bin"),
    ],
)
def test_numbers_beyond_and_too_few_are_refused(values: list[int], complaint: str):
    with pytest.raises(ConfigError, match=f"^path: labels.bin {complaint}$"):
        whole_numbers(values, FILE, within=(1, 2), per=(3, "data.bin"), key="path")
