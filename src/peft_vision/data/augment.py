"""This module augments uint8 images during training; every draw is a function of (seed, index of the image).

crop_flip     a random window of the whole resized image; mirrored half the time (for FGVC, as Jia et al., 2022)
flip_crop     mirrored half the time; a reflected margin of size/8; then a random window (He et al., 2016)
rand_augment  flip_crop, then 2 operations of magnitude 9, torchvision's defaults (Cubuk et al., 2020)
a.function    the user's function: it gets an image, uint8 (C, S, S), and a torch.Generator seeded for that image, and
              returns an image of the same shape
"""

import importlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from peft_vision.core.config import ConfigError, nearest
from peft_vision.data.counter_random import below, bits

AUGMENTS = ("none", "crop_flip", "flip_crop", "rand_augment")
_FLIP, _TOP, _LEFT, _OPERATIONS, _OWN = range(5)


def augmented(images: Tensor, indices: Tensor, *, augment: str, seed: int) -> Tensor:
    """Augment images (B, C, S, S), keeping their shape; `indices` (B,) are the images' positions in their split."""
    if augment == "none" or not len(indices):
        return images
    if augment not in AUGMENTS:
        return by_function(images, indices, augment=augment, seed=seed)
    images = flip_crop(images, indices, seed=seed)
    return rand_augment(images, indices, seed=seed) if augment == "rand_augment" else images


def crop_flip(wholes: Sequence[np.ndarray], indices: Tensor, *, size: int, seed: int) -> Tensor:
    """Return random windows (B, C, size, size) of uint8 images (C, H, W) with sides of at least `size`, half of them
    mirrored."""
    room = np.array([whole.shape[1:] for whole in wholes]).reshape(-1, 2) - size + 1
    tops = below(room[:, 0], indices, seed=seed, stream=_TOP)
    lefts = below(room[:, 1], indices, seed=seed, stream=_LEFT)
    flips = below(2, indices, seed=seed, stream=_FLIP)
    out = torch.empty((len(wholes), len(wholes[0]) if len(wholes) else 3, size, size), dtype=torch.uint8)
    for image, whole, top, left, flip in zip(out.numpy(), wholes, tops, lefts, flips, strict=True):
        window = whole[:, top : top + size, left : left + size]
        image[:] = window[..., ::-1] if flip else window
    return out


def flip_crop(images: Tensor, indices: Tensor, *, seed: int) -> Tensor:
    """Mirror half of the square images and cut windows from their padded versions; the input is left unchanged."""
    size = images.shape[-1]
    margin = size // 8
    padded = F.pad(images, (margin,) * 4, mode="reflect")
    tops = below(2 * margin + 1, indices, seed=seed, stream=_TOP)
    lefts = below(2 * margin + 1, indices, seed=seed, stream=_LEFT)
    flips = below(2, indices, seed=seed, stream=_FLIP)
    out = torch.empty_like(images)
    for i, (top, left, flip) in enumerate(zip(tops.tolist(), lefts.tolist(), flips.tolist(), strict=True)):
        window = padded[i, :, top : top + size, left : left + size]
        out[i] = window.flip(-1) if flip else window
    return out


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
