"""This module defines the trunk of a transformer over tokens: what the families of such models share."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from timm.layers import PatchEmbed
from torch import Tensor, nn

from peft_vision.backbone.attention import Layer
from peft_vision.backbone.families.trunk import Trunk, norms_last, strangers, unknown_parts
from peft_vision.backbone.stage import Site, Stage, Tap, site
from peft_vision.core.config import ConfigError

_OF_MODEL = (
    *("patch_embed", "cls_token", "reg_token", "pos_embed", "pos_drop", "patch_drop", "norm_pre"),
    *("blocks", "norm", "attn_pool", "fc_norm", "head_drop", "head"),
)
_OF_BLOCK = ("norm1", "attn", "drop_path1", "norm2", "mlp", "drop_path2")
_OF_ATTENTION = ("qkv", "attn_drop", "proj", "proj_drop")


class TokenTrunk(Trunk):
    """A trunk of a transformer whose blocks all see the same tokens (B, N, D), the class token and registers first,
    under timm's usual names. The last layer computes only what the pooling reads: the class token, or the backbone's
    own tokens.

    `blocks`, `attentions`: timm's classes that the family's layer computes; `post_norm_blocks`: those of the blocks
    whose norms follow their branches. `of_model`, `of_block`, `of_attention`: names of the modules and parameters that
    these have besides those of every such transformer, all of which the family computes with.
    """

    blocks: ClassVar[tuple[type[nn.Module], ...]]
    attentions: ClassVar[tuple[type[nn.Module], ...]]
    post_norm_blocks: ClassVar[tuple[type[nn.Module], ...]] = ()
    of_model: ClassVar[tuple[str, ...]] = ()
    of_block: ClassVar[tuple[str, ...]] = ()
    of_attention: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._stages: tuple[Stage, ...] | None = None

    @classmethod
    def misfit(cls, model: nn.Module) -> str | None:
        """Return what of `model` is not known here, or None."""
        return (
            strangers("it embeds patches with", [model.patch_embed], (PatchEmbed,))
            or strangers("its blocks are", model.blocks, cls.blocks)
            or strangers("its attention is", attention := [block.attn for block in model.blocks], cls.attentions)
            or unknown_parts("it has", [model], (*_OF_MODEL, *cls.of_model))
            or unknown_parts("its blocks have", model.blocks, (*_OF_BLOCK, *cls.of_block))
            or unknown_parts("its attention has", attention, (*_OF_ATTENTION, *cls.of_attention))
            or next((reason for block in model.blocks if (reason := _misfit_mlp(block.mlp))), None)
        )

    def layer(self, block: nn.Module) -> Layer:
        """Return the layer that takes the place of timm's block."""
        return Layer(block)

    def adopt(self) -> None:
        for index, block in enumerate(self.model.blocks):
            self.model.blocks[index] = self.layer(block)
            self.model.blocks[index].post_norm = isinstance(block, self.post_norm_blocks)
        self._stages = tuple(self._stage(index) for index in range(len(self.layers)))
        self.layers[-1].rows = self.num_read

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self.model.blocks

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self._stages or tuple(self._stage(index) for index in range(len(self.layers)))

    @property
    def width(self) -> int:
        return self.model.num_features

    @property
    def num_tokens(self) -> int:
        """Return N, the number of tokens that the backbone itself makes."""
        return self.model.num_prefix_tokens + self.model.patch_embed.num_patches

    @property
    def num_read(self) -> int:
        """Return how many leading tokens the pooling reads."""
        reads_class_token = getattr(self.model, "attn_pool", None) is None and self.model.global_pool == "token"
        return 1 if reads_class_token else self.num_tokens

    @property
    def patch_size(self) -> tuple[int, int]:
        return tuple(self.model.patch_embed.patch_size)

    @property
    def final_tap(self) -> Tap:
        return Tap("norm", "output", self.model.embed_dim)

    def token_shape(self, depth: int, image_size: tuple[int, int]) -> tuple[int, ...]:
        last = self.layers[-1].rows
        leaving = depth == len(self.layers) and last is not None
        return (last if leaving else self.num_tokens, self.model.embed_dim)

    def pool_added(self) -> None:
        if self.num_read < self.num_tokens:
            raise ConfigError(
                "method.pool_prompts: got true, but this backbone pools its class token alone; see backbone.pool"
            )
        self.layers[-1].rows = None

    def show_grid(self, image_size: tuple[int, int]) -> None:
        super().show_grid(image_size)
        self.layers[-1].rows = self.num_tokens

    def grid(self, tokens: Tensor, layer: int) -> Tensor:
        (rows, columns), first = self.model.patch_embed.grid_size, self.model.num_prefix_tokens
        patches = self.model.norm(tokens[:, first : first + rows * columns])
        return patches.mT.unflatten(2, (rows, columns))

    def grid_shape(self, layer: int, image_size: tuple[int, int]) -> tuple[int, int, int]:
        return (self.model.embed_dim, *self.model.patch_embed.grid_size)

    def pooling(self) -> list[nn.Parameter]:
        """Return the parameters of attention pooling, and of a norm of what is pooled."""
        parts = [getattr(self.model, name, None) for name in ("attn_pool", "fc_norm")]
        return [parameter for part in parts if part is not None for parameter in part.parameters()]

    def stem(self, images: Tensor) -> Tensor:
        return self.model.norm_pre(self.model._pos_embed(self.model.patch_embed(images)))

    def pool(self, tokens: Tensor) -> Tensor:
        return self.model.forward_head(self.model.norm(tokens), pre_logits=True)

    def behind(self) -> list[nn.Module]:
        names = ("norm", "attn_pool", "fc_norm", "head_drop")
        found = [getattr(self.model, name, None) for name in names]
        return [module for module in found if module is not None]

    @property
    def stem_operations(self) -> tuple[str, ...]:
        return ("patch_embed.proj",)

    @property
    def end_operations(self) -> tuple[str, ...]:
        norms = {name: getattr(self.model, name, None) for name in ("norm", "fc_norm")}
        return tuple(name for name, norm in norms.items() if norm is not None and any(True for _ in norm.parameters()))

    def _stage(self, index: int) -> Stage:
        block = f"blocks.{index}"
        sites = {**self._attention_sites(f"{block}.attn"), **self._mlp_sites(f"{block}.mlp")}
        width, hidden = self.model.embed_dim, self.model.get_submodule(f"{block}.mlp.fc2").in_features
        taps = (
            Tap(sites["qkv"][0].path, "input", width),
            Tap(f"{block}.attn.proj", "output", width),
            Tap(f"{block}.mlp.fc2", "input", hidden),
            Tap(f"{block}.mlp", "output", width),
        )
        return Stage(
            module=self.layers[index],
            width=width,
            grid=tuple(self.model.patch_embed.grid_size),
            num_prefix=self.model.num_prefix_tokens,
            sites=sites,
            operations=self._operations(block, sites),
            taps=taps,
        )

    def _operations(self, block: str, sites: Mapping[str, tuple[Site, ...]]) -> tuple[str, ...]:
        """Return the paths of the norms and linear layers of a block in the order of computation."""
        attention = [found.path for name in ("qkv", "proj") for found in sites[name]]
        mlp = [found.path for name in ("fc1", "fc2") for found in sites[name]]
        pre_norm = (f"{block}.norm1", *attention, f"{block}.norm2", *mlp)
        module = self.model.get_submodule(block)
        post_norm = module.post_norm if isinstance(module, Layer) else isinstance(module, self.post_norm_blocks)
        return norms_last(pre_norm) if post_norm else pre_norm

    def _attention_sites(self, path: str) -> dict[str, tuple[Site, ...]]:
        """Return the sites of attention: q, k and v are thirds of timm's fused projection, or matrices of their own,
        which are then together what qkv means."""
        proj = (site(self.model, f"{path}.proj"),)
        if getattr(self.model.get_submodule(path), "qkv", None) is None:
            apart = {name: (site(self.model, f"{path}.{name}_proj"),) for name in "qkv"}
            return {**apart, "qkv": tuple(found for (found,) in apart.values()), "proj": proj}
        thirds = {name: (site(self.model, f"{path}.qkv", first=first, of=3),) for first, name in enumerate("qkv")}
        return {**thirds, "qkv": (site(self.model, f"{path}.qkv"),), "proj": proj}

    def _mlp_sites(self, path: str) -> dict[str, tuple[Site, ...]]:
        """Return the sites of the MLP. In a SwiGLU the matrices of the gate and of what it gates are together fc1."""
        apart = hasattr(self.model.get_submodule(path), "fc1_g")
        names = ("fc1_g", "fc1_x") if apart else ("fc1",)
        return {
            "fc1": tuple(site(self.model, f"{path}.{name}") for name in names),
            "fc2": (site(self.model, f"{path}.fc2"),),
        }


def _misfit_mlp(mlp: nn.Module) -> str | None:
    """Return why the matrices of an MLP cannot be named, or None."""
    names = {name for name, child in mlp.named_children() if type(child) is nn.Linear}
    if {"fc1", "fc2"} <= names or {"fc1_g", "fc1_x", "fc2"} <= names:
        return None
    return f"its MLPs are {type(mlp).__name__}, without linear layers fc1 and fc2"
