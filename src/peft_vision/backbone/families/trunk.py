"""This module defines a trunk, a timm model seen by what methods need of it.

A family of models is one module in this folder, with one trunk class. What a method can do on a family follows from
what its trunk gives, never from a list of names; see docs/families.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from timm.layers import to_2tuple
from torch import Tensor, nn

from peft_vision.backbone.stage import Need, Stage, Tap
from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import one_size, size_in_words

DROPS_PATCHES = "it drops patches (patch_drop_rate), so that the number of tokens changes"


class Trunk(ABC):
    """A timm model as a sequence of stages between a stem and a pooling. It owns nothing: it refers to `model`.

    `family`: name of the family; `version`: counted up when the same weights compute other values, so that stored
    observations of before are not read; `builds`: timm's class of its models; `lacks`: for each thing that the family
    cannot give, the reason, which follows the model's name in the message: "has windows, not one context that ...".
    `divides`: whether the forward pass can be stopped between stages and go on from there. `shows_grid`: whether a grid
    is read of the tokens that leave the last stage, so that all of them are computed.
    """

    family: ClassVar[str]
    version: ClassVar[int] = 1
    builds: ClassVar[type[nn.Module]]
    lacks: Mapping[Need, str] = {}
    divides: ClassVar[bool] = True

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.shows_grid = False

    @property
    def mark(self) -> dict[str, str]:
        """Return what the key of a stored observation holds of the family."""
        return {"family": f"{self.family} {self.version}"}

    @classmethod
    @abstractmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return why this trunk would compute something else than `model`, an instance of `builds`; None if it would
        not."""

    @abstractmethod
    def adopt(self) -> None:
        """Put layers with ports in the place of timm's blocks, under the same names; called once, before anything is
        attached."""

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """Return the modules of the stages, first to last, which map (tokens, positions) to tokens."""

    @property
    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Return the description of each stage, first to last."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Return D, the width of a feature."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Return height and width of the images that the model takes; None where it takes any."""
        return made_for(self.model)

    @classmethod
    def resize(cls, model: nn.Module, size: tuple[int, int]) -> None:
        """Make a `model` of fixed image size, not yet adopted, take images of `size`, by timm's own rules."""
        model.set_input_size(img_size=size)

    @abstractmethod
    def token_shape(self, depth: int, image_size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape, without the batch, of the tokens that enter layer `depth`, or leave the last one where
        `depth` is the number of layers, for images of `image_size`."""

    def pool_added(self) -> None:
        """Let the pooling read the tokens too that a method has added. Raise ConfigError where it cannot."""
        raise ConfigError("method.pool_prompts: got true, but this backbone does not pool tokens")

    @property
    @abstractmethod
    def final_tap(self) -> Tap | None:
        """Return the norm of all tokens behind the last stage, or None where there is none."""

    @property
    @abstractmethod
    def patch_size(self) -> tuple[int, int]:
        """Return height and width of a patch in pixels."""

    @abstractmethod
    def stem(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to what enters the first stage."""

    def positions(self) -> Sequence[Tensor | None]:
        """Return what each stage is told of positions in one pass, such as its table of rotary positions."""
        return [None] * len(self.layers)

    @property
    def steps(self) -> Sequence[Callable[[Tensor, Tensor | None], Tensor]]:
        """Return what a forward pass calls one after the other between stem and pooling: the stages, unless the family
        leaves the forward pass to timm."""
        return self.layers

    def checkpoint(self, enable: bool) -> bool:
        """Let timm's own forward pass compute its activations again in the backward pass, or not. Return whether it
        does so by itself, so that the steps need not.
        Raise ConfigError where neither can."""
        return False

    def misfit_size(self, size: tuple[int, int]) -> str | None:
        """Return why the model cannot take images of this height and width, where the family finds out; otherwise
        None."""
        return None

    def check_size(self, found: tuple[int, int], taken: tuple[int, int] | None) -> None:
        """Raise ValueError where images are of another size than those that are `taken`. timm's own forward takes them
        with dynamic_img_size; here positions, rows that are computed and grids are of the size that is taken."""
        if taken is not None and found != taken:
            found_said, taken_said = (size_in_words(one_size(*size)) for size in (found, taken))
            raise ValueError(
                f"these images are {found_said}, and the model takes {taken_said}; "
                f"timm.create_model(..., img_size={found}) makes one that takes them"
            )

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """Map what leaves the last stage to features (B, D)."""

    def show_grid(self, image_size: tuple[int, int]) -> None:
        """Let the last stage compute every token of images of this size, so that `grid` can be asked; called at most
        once, before anything is attached."""
        self.shows_grid = True

    @property
    def grid_layers(self) -> tuple[int, ...]:
        """Return the layers, at most four and the last one among them, whose outputs are shown together as `grids`."""
        return spread(len(self.layers))

    @abstractmethod
    def grid(self, tokens: Tensor, layer: int) -> Tensor:
        """Map the tokens that leave `layer` to features at each place of the image, (B, D, h, w), as timm's
        forward_intermediates(norm=True): without class, register and added tokens, behind the final norm where it fits
        them."""

    @abstractmethod
    def grid_shape(self, layer: int, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """Return (D, h, w) of the grid that leaves `layer`, for images of `image_size`."""

    def pooling(self) -> list[nn.Parameter]:
        """Return the parameters that features are computed with and a grid is not."""
        return []

    @abstractmethod
    def behind(self) -> list[nn.Module]:
        """Return the modules after the last stage; all others outside the stages are before the first."""

    def before(self) -> list[nn.Module | nn.Parameter] | None:
        """Return the modules and single parameters before the first stage, or None where that is all that is neither in
        a stage nor behind the last one."""
        return None

    @property
    @abstractmethod
    def stem_operations(self) -> tuple[str, ...]:
        """Return the paths of the modules before the first stage whose output SSF scales."""

    @property
    @abstractmethod
    def end_operations(self) -> tuple[str, ...]:
        """Return the paths of the norms after the last stage that have parameters."""


def made_for(model: nn.Module) -> tuple[int, int] | None:
    """Return the height and width of the images that a model's patches are made for, or None where timm says none."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return None if size is None else to_2tuple(size)


def spread(depth: int) -> tuple[int, ...]:
    """Return the last layer of each quarter of `depth` layers, or all layers of fewer than four: 2, 5, 8, 11 of 12, as
    DINOv3's released code for segmentation calls FOUR_EVEN_INTERVALS. That code takes 4 instead of 5 of 24 layers, with
    which its paper was measured."""
    return tuple(sorted({-(-depth * quarter // 4) - 1 for quarter in range(1, 5)}))


def norms_last(operations: tuple[str, ...]) -> tuple[str, ...]:
    """Return the operations of a pre-norm block as those of a post-norm block, whose norms follow their branches."""
    first, *rest = operations
    middle = next(number for number, path in enumerate(rest) if path.endswith(".norm2"))
    return (*rest[:middle], first, *rest[middle + 1 :], rest[middle])


def strangers(said: str, modules: Iterable[nn.Module], known: Sequence[type[nn.Module]]) -> str | None:
    """Return the classes of the modules that are none of `known` themselves, behind what is `said` of them, or None."""
    found = {type(module).__name__ for module in modules if type(module) not in known}
    return f"{said} {', '.join(sorted(found))}" if found else None


def unknown_parts(said: str, modules: Iterable[nn.Module], known: Sequence[str]) -> str | None:
    """Return the names of the children and own parameters of the modules that are not `known`, behind what is `said` of
    them, or None: a later timm may compute with parts that a family would leave out."""
    found: set[str] = set()
    for module in modules:
        found |= {name for name, _ in module.named_children()}
        found |= {name for name, _ in module.named_parameters(recurse=False)}
    unknown = sorted(found - set(known))
    return f"{said} {', '.join(unknown)}, which is not known here" if unknown else None
