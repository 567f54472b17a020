"""This module surrounds pictures with a border of learned pixels: the prompts of VPT for models without tokens (Jia et
al., 2022, arXiv:2203.12119, table 7 and its location `pad`).

    picture (C, H, W)  ->  (C, H + 2 p, W + 2 p),    border = (pixels - mean) / std

The pixels are uniform in [0, 1] at first, like those of a picture, and are normalised as pictures are in every pass, as
in the authors' code.
"""

import warnings

import torch
from torch import Tensor, nn

from peft_vision.backbone.families.match import architecture, family_of
from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Preprocessing, one_size, size_in_words


class Border(nn.Module):
    """A module that surrounds normalised images (B, C, H, W) with `thickness` learned pixels on each side.

    `sides` (C, H, 2 * thickness): the columns on the left, then those on the right; `ends` (C, 2 * thickness, W + 2 *
    thickness): the rows above, then those below.
    """

    def __init__(self, thickness: int, preprocessing: Preprocessing) -> None:
        super().__init__()
        channels, height, width = preprocessing.shape
        self.thickness = thickness
        self.sides = nn.Parameter(torch.rand(channels, height, 2 * thickness))
        self.ends = nn.Parameter(torch.rand(channels, 2 * thickness, width + 2 * thickness))
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H + 2 * thickness, W + 2 * thickness)."""
        sides, ends = ((pixels - self.mean) / self.std for pixels in (self.sides, self.ends))
        left, right = sides.expand(len(images), -1, -1, -1).split(self.thickness, dim=3)
        above, below = ends.expand(len(images), -1, -1, -1).split(self.thickness, dim=2)
        return torch.cat([above, torch.cat([left, images, right], dim=3), below], dim=2)


def make_room(model: nn.Module, thickness: int) -> None:
    """Make `model`, which no encoder owns yet, take images that are larger by `thickness` pixels on each side. Raise
    ConfigError where its patches do not tile them."""
    family = family_of(model)
    size = family(model).image_size
    if size is None:
        return
    grown = tuple(side + 2 * thickness for side in size)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
    if not _tile(patch, size, thickness):
        near = range(max(1, thickness - patch[0] + 1), thickness + patch[0])
        fitting = [pixels for pixels in near if _tile(patch, size, pixels)]
        said = lambda found: size_in_words(one_size(*found))  # noqa: E731
        nearest = " and ".join(map(str, fitting)) or "none"
        raise ConfigError(
            f"method.num_prompts: a border of {thickness} px makes pictures of {said(size)} {said(grown)} wide, no "
            f"multiple of the {patch[0]} px patches of {architecture(model)}; of the widths near it, {nearest} fit"
        )
    try:
        with warnings.catch_warnings():  # which are of how timm resamples tables
            warnings.simplefilter("ignore", UserWarning)
            family.resize(model, grown)
    except (AttributeError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"method.location: {architecture(model)} cannot take larger pictures: {error}") from error


def _tile(patch: tuple[int, int], size: tuple[int, int], thickness: int) -> bool:
    """Return whether patches tile images of `size` within a border of this thickness."""
    return not any((side + 2 * thickness) % length for side, length in zip(size, patch, strict=True))
