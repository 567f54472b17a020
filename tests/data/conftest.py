"""Small builders: data components with the shipped numbers, and folders of generated pictures."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from peft_vision.core.config import CONFIG_DIR, ConfigError, build
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.data.base import Data
from peft_vision.data.vtab.originals.table import READERS


@cache
def composed(option: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        group = f"data/{option}".rpartition("/")[0].replace("/", ".")
        return OmegaConf.to_container(OmegaConf.select(compose(f"data/{option}"), group))


@pytest.fixture
def make() -> Callable[..., Data]:
    """`make("digits", train_size=100)`: conf/data/digits.yaml with overrides, built."""
    return lambda option, **overrides: build(composed(option) | overrides, Data, "data")


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing(size=16, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop=0.8)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A noisy RGB picture that only `key` decides."""

    def drawn(key: int, width: int = 20, height: int = 24) -> Image.Image:
        pixels = np.random.default_rng(key).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return drawn


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., Image.Image]) -> Path:
    """train/ and test/ with classes bird, cat, dog of 6 and 2 pictures."""
    root = tmp_path / "pictures"
    for s, (split, count) in enumerate([("train", 6), ("test", 2)]):
        for c, name in enumerate(["bird", "cat", "dog"]):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture(100 * s + 10 * c + i).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def vtab_original(tmp_path: Path, picture: Callable[..., Image.Image]) -> Callable[[str], Path]:
    """`vtab_original("kitti")`: a folder of data sets with a miniature copy of what this task was published as."""
    from vtab_originals_miniatures import WRITERS

    def copy(task: str) -> Path:
        WRITERS[task](tmp_path / "datasets", picture)
        return tmp_path / "datasets"

    return copy


@pytest.fixture
def refused_original(vtab_original) -> Callable[[str, Callable[[Path], str]], tuple[str, str]]:
    """Call it with a task and a function that spoils its copy and returns the complaint to expect: returns that, and
    the error of the reader."""

    def refused(task: str, spoil: Callable[[Path], str]) -> tuple[str, str]:
        root = vtab_original(task)
        complaint = spoil(root)
        with pytest.raises(ConfigError) as error:
            READERS[task](root)
        return complaint, str(error.value)

    return refused


@pytest.fixture
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniatures cannot have the originals' checksums; for torchvision's own readers, files must exist all the
    same."""

    def exists(path: str, md5: str | None = None) -> bool:
        return Path(path).is_file()

    monkeypatch.setattr("peft_vision.data.torchvision_sets.require_sum", lambda path, md5: None)
    for module in ("cifar", "svhn", "stl10", "flowers102", "utils"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", exists)
