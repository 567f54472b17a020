"""Windows that slide over pictures which are larger than what a model sees at once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from mask_miniatures import CLASSES, VOID, masked
from peft_vision.core.config import ConfigError
from peft_vision.core.distributed import World
from peft_vision.data.decode import Geometry
from peft_vision.data.pictures import Files
from peft_vision.data.windows import WindowPixels, in_windows, window_starts
from peft_vision.objective.segmentation import Pixels, confusion
from peft_vision.training.evaluate import InferencePass, judged

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
FP32 = torch.autocast("cpu", enabled=False)


@pytest.fixture
def images(make, preprocessing, tmp_path: Path):
    """Test images of these sides, as the model of 16 x 16 pixels gets them."""

    def made(sides: tuple[int, int], crop: float, seen=preprocessing):
        root = masked(tmp_path / "set", {"train": 2, "test": 3}, sides=sides)
        options = {"classes": CLASSES, "ignore": [VOID], "val_fraction": 0}
        return make("masks", path=str(root), resize="crop", crop=crop, **options).load(seen)

    return made


class Bright(nn.Module):
    """A model whose logits differ at each place of a window."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = Pixels(len(CLASSES), None, 0.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shades = images.float() / 255
        beside, below = (torch.linspace(0.5, 1.5, side) for side in images.shape[:-3:-1])
        return torch.stack([shades[:, 0], shades[:, 1] * beside, shades[:, 0] * below[:, None]], dim=1)


def columns(source, batch_size: int = 4) -> tuple[torch.Tensor, ...]:
    return judged(Bright(), source, InferencePass(batch_size, 0, ALONE, FP32, "scoring"))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("ending", ["jpg", "png", "tiff"])
def test_the_upright_sides_of_a_picture_are_those_that_are_read(tmp_path, ending, orientation):
    picture = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / f"a.{ending}", exif=exif)
    files = Files(tmp_path, [f"a.{ending}"])
    assert files.upright_sides(0) == files.read(0).size == ((20, 30) if orientation == 6 else (30, 20))


@pytest.mark.parametrize(("length", "window", "stride"), [(16, 16, 5), (17, 16, 16), (40, 16, 10), (48, 16, 16)])
def test_windows_begin_where_mmsegmentations_do(length, window, stride):
    expected = []
    for number in range(max(length - window + stride - 1, 0) // stride + 1):
        end = min(number * stride + window, length)
        expected.append(max(end - window, 0))
    assert window_starts(length, window, stride) == expected
    assert (expected[0], expected[-1] + window) == (0, length)


def test_scores_are_those_of_a_loop_over_windows(images):
    splits = images((80, 50), 0.5)
    scored = in_windows(splits.parts(), 10)["test"]
    losses, matrices = columns(scored)
    assert len(scored) == 3 * 3 * 5  # resized to 32 x 51 pixels
    assert torch.equal(in_windows(splits.parts(), 10)["train"].pixels, splits.train.pixels)
    for place in range(3):
        whole = torch.from_numpy(splits.test.whole_image(place))
        total, times = torch.zeros(len(CLASSES), 32, 51), torch.zeros(32, 51)
        for top in (0, 10, 16):
            for left in (0, 10, 20, 30, 35):
                window = (slice(top, top + 16), slice(left, left + 16))
                total[:, *window] += Bright()(whole[None, :, *window])[0]
                times[window] += 1
        mask = torch.from_numpy(splits.test.part.pictures.mask(place))
        logits = (total / times)[None]
        found = F.interpolate(logits, size=(50, 80), mode="bilinear", align_corners=False).argmax(dim=1)[0]
        assert torch.equal(matrices[place], confusion(mask, found, len(CLASSES)))
        small = Image.fromarray(mask.numpy()).resize((51, 32), Image.Resampling.NEAREST)
        expected = F.cross_entropy(logits, torch.from_numpy(np.array(small))[None].long(), ignore_index=255)
        assert losses[place].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_window_of_the_whole_picture_scores_as_no_windows_do(images, preprocessing):
    splits = images((48, 24), 1.0, replace(preprocessing, size=(16, 32)))
    windows = in_windows(splits.parts(), 7)["test"]
    assert len(windows) == 3
    assert all(map(torch.equal, columns(splits.test), columns(windows)))


def test_processes_share_the_pictures(images):
    scored = in_windows(images((80, 50), 0.5).parts(), 10)["test"]
    whole = columns(scored)
    for size in (2, 4):  # one of four has no picture
        parts = []
        for rank in range(size):
            world = World(rank=rank, size=size, device=ALONE.device)
            object.__setattr__(world, "gather", lambda value: [value])
            parts.append(judged(Bright(), scored, InferencePass(4, 0, world, FP32, "scoring")))
        order = [place for rank in range(size) for place in range(3)[rank::size]]
        assert torch.equal(torch.cat([matrices for _, matrices in parts]), whole[1][order])


def test_a_picture_that_exif_turns_is_cut_as_it_is_shown(tmp_path: Path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    geometry = Geometry(size=16, resize="crop", crop=1.0, interpolation="bicubic")
    pixels = WindowPixels(Files(tmp_path, ["a.png"]), torch.tensor([0]), geometry, 16)
    assert pixels.sides == [(48, 16)]
    whole = Files(tmp_path, ["a.png"]).shaped(0, geometry, whole=True)
    assert np.array_equal(pixels[torch.tensor([2, 0])][0], whole[:, 32:48])


def test_windows_with_gaps_are_refused(images):
    with pytest.raises(ConfigError, match=r"objective.stride: got 17; between windows of 16 x 16 it leaves gaps"):
        in_windows(images((80, 50), 0.5).parts(), 17)
