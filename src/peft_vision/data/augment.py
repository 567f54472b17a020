"""This module augments uint8 images during training; every draw is a function of (seed, index of the image).

crop_flip        a random window of the whole resized image; mirrored half the time (for FGVC, as Jia et al., 2022)
flip_crop        mirrored half the time; a reflected margin of an eighth; then a random window (He et al., 2016)
scale_crop_flip  the whole resized image at 0.5 to 2 times its size; a random window; mirrored half the time
rand_augment     flip_crop, then 2 operations of magnitude 9, torchvision's defaults (Cubuk et al., 2020)
a.function       the user's function: it gets an image, uint8 (C, H, W), and a torch.Generator seeded for that image,
                 and returns an image of the same shape

The first three move a mask, the last channel of an image, with the image: MOVE_MASKS names them.
"""

import importlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from peft_vision.core.config import ConfigError, nearest
from peft_vision.core.preprocessing import Size, sides_of
from peft_vision.data.draws import below, bits

AUGMENTS = ("none", "crop_flip", "flip_crop", "scale_crop_flip", "rand_augment")
OF_WHOLES = ("crop_flip", "scale_crop_flip")
"""The augmentations that cut windows out of whole images, before their centres are cut out."""
MOVE_MASKS = ("none", "crop_flip", "flip_crop", "scale_crop_flip")
_SCALES = (0.5, 2.0)
_IGNORED = 255  # the mask beyond the edges of an image
_FLIP, _TOP, _LEFT, _OPERATIONS, _OWN, _SCALE = range(6)


def augmented(images: Tensor, indices: Tensor, *, augment: str, seed: int) -> Tensor:
    """Augment images (B, C, H, W), keeping their shape; `indices` (B,) are the images' positions in their split."""
    if augment == "none" or not len(indices):
        return images
    if augment not in AUGMENTS:
        return by_function(images, indices, augment=augment, seed=seed)
    images = flip_crop(images, indices, seed=seed)
    return rand_augment(images, indices, seed=seed) if augment == "rand_augment" else images


def crop_flip(wholes: Sequence[np.ndarray], indices: Tensor, *, size: Size, seed: int) -> Tensor:
    """Return random windows (B, C, *size) of uint8 images (C, H, W) with sides of at least `size`, half of them
    mirrored."""
    height, width = sides_of(size)
    room = np.array([whole.shape[1:] for whole in wholes]).reshape(-1, 2) - (height, width) + 1
    tops, lefts, flips = drawn_windows(room[:, 0], room[:, 1], indices, seed=seed)
    out = torch.empty((len(wholes), len(wholes[0]) if len(wholes) else 3, height, width), dtype=torch.uint8)
    for image, whole, top, left, flip in zip(out.numpy(), wholes, tops, lefts, flips, strict=True):
        window = whole[:, top : top + height, left : left + width]
        image[:] = window[..., ::-1] if flip else window
    return out


def scale_crop_flip(wholes: Sequence[np.ndarray], indices: Tensor, *, size: Size, seed: int, masked: bool) -> Tensor:
    """Return random windows (B, C, *size) of uint8 images (C, H, W), each scaled by a number drawn evenly from 0.5 to
    2, half of them mirrored. Where a scaled image is smaller than a window it lies at a random place in it, amid its
    mean colour. If `masked`, the last channel is a mask, scaled by nearest pixels and amid 255, which is ignored."""
    height, width = sides_of(size)
    least, most = _SCALES
    drawn = (bits(indices, seed=seed, stream=_SCALE) >> np.uint64(11)) / 2.0**53
    sides = np.array([whole.shape[1:] for whole in wholes]).reshape(-1, 2)
    scaled = np.maximum(1, np.floor(sides * (least + (most - least) * drawn)[:, None])).astype(np.int64)
    room = np.abs(scaled - (height, width)) + 1
    tops, lefts, flips = drawn_windows(room[:, 0], room[:, 1], indices, seed=seed)
    out = torch.empty((len(wholes), len(wholes[0]) if len(wholes) else 3, height, width), dtype=torch.uint8)
    for image, whole, (rows, columns), top, left, flip in zip(
        out.numpy(), wholes, scaled.tolist(), tops.tolist(), lefts.tolist(), flips, strict=True
    ):
        (above, below_), vertical = _span(whole.shape[1], rows, top, height)
        (before, after), horizontal = _span(whole.shape[2], columns, left, width)
        for channel, plane in enumerate(whole):
            is_mask = masked and channel == len(whole) - 1
            image[channel] = _IGNORED if is_mask else round(plane.mean())
            image[channel, vertical, horizontal] = Image.fromarray(np.ascontiguousarray(plane)).resize(
                (horizontal.stop - horizontal.start, vertical.stop - vertical.start),
                Image.Resampling.NEAREST if is_mask else Image.Resampling.BILINEAR,
                box=(before, above, after, below_),
            )
        if flip:
            image[:] = image[..., ::-1].copy()
    return out


def _span(length: int, scaled: int, offset: int, window: int) -> tuple[tuple[float, float], slice]:
    """Return which pixels of a side of `length`, scaled to `scaled`, a window shows that begins at `offset`, and where
    in the window they lie. A side that is shorter than the window begins at `offset` of the window."""
    if scaled < window:
        return (0.0, float(length)), slice(offset, offset + scaled)
    pixel = length / scaled
    return (offset * pixel, min(float(length), (offset + window) * pixel)), slice(0, window)


def drawn_windows(
    rows: int | np.ndarray, columns: int | np.ndarray, indices: Tensor, *, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the top and the left of the window of each image (n,), below `rows` and `columns`, and 1 where it is
    mirrored, else 0."""
    return (
        below(rows, indices, seed=seed, stream=_TOP),
        below(columns, indices, seed=seed, stream=_LEFT),
        below(2, indices, seed=seed, stream=_FLIP),
    )


def flip_crop(images: Tensor, indices: Tensor, *, seed: int) -> Tensor:
    """Mirror half of the images (B, C, H, W) and cut windows from their padded versions; the input stays unchanged."""
    height, width = images.shape[-2:]
    above, beside = margins(height, width)
    padded = F.pad(images, (beside, beside, above, above), mode="reflect")
    tops, lefts, flips = drawn_windows(2 * above + 1, 2 * beside + 1, indices, seed=seed)
    out = torch.empty_like(images)
    for i, (top, left, flip) in enumerate(zip(tops.tolist(), lefts.tolist(), flips.tolist(), strict=True)):
        window = padded[i, :, top : top + height, left : left + width]
        out[i] = window.flip(-1) if flip else window
    return out


def margins(height: int, width: int) -> tuple[int, int]:
    """Return how many pixels `flip_crop` adds above and below, and on the left and the right."""
    return height // 8, width // 8


def rand_augment(images: Tensor, indices: Tensor, *, seed: int) -> Tensor:
    """Apply torchvision's RandAugment to each image; it draws from torch's global generator, so that one is seeded for
    each image and restored afterwards."""
    transform = v2.RandAugment()
    seeds = bits(indices, seed=seed, stream=_OPERATIONS)
    with torch.random.fork_rng(devices=[]):
        drawn = []
        for image, image_seed in zip(images, seeds.tolist(), strict=True):
            torch.default_generator.manual_seed(image_seed)  # torch.manual_seed would reseed CUDA too
            drawn.append(transform(image))
    return torch.stack(drawn)


def by_function(images: Tensor, indices: Tensor, *, augment: str, seed: int) -> Tensor:
    """Augment with the user's function at the dotted path `augment`. ConfigError if it returns anything but an image of
    the shape and dtype it was given."""
    function, generator, drawn = own_function(augment), torch.Generator(), []
    for image, image_seed in zip(images, bits(indices, seed=seed, stream=_OWN).tolist(), strict=True):
        made = function(image.clone(), generator.manual_seed(image_seed))
        if not isinstance(made, Tensor) or (made.shape, made.dtype) != (image.shape, image.dtype):
            got = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise ConfigError(f"data.augment: {augment} returned {got}, should be {image.dtype} {tuple(image.shape)}")
        drawn.append(made)
    return torch.stack(drawn)


def known(augment: str) -> str:
    """Return `augment` if it is the name of an augmentation or the dotted path of a function, else raise ValueError."""
    if augment not in AUGMENTS:
        own_function(augment)
    return augment


def own_function(path: str) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Return the function at a dotted path. ValueError if there is none."""
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError(f"should be {', '.join(AUGMENTS)}, or the dotted path of a function{nearest(path, AUGMENTS)}")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"no module {module} for the function {path} ({error})") from error
    if not callable(found):
        raise ValueError(f"{module} has no function {name}")
    return found
