"""Images to features: a timm Vision Transformer whose blocks are seen as queries and context."""

from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from peft_vision.backbone.attention import Layer
from peft_vision.backbone.intermediates import gathered, group_widths
from peft_vision.backbone.observation import Kind, Observation


class Encoder(nn.Module):
    """Owns `vit` and replaces its blocks by `Layer`s; the forward and all parameter names stay timm's.

    The last layer computes only what the pooling reads: the class token, or the backbone's own tokens.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit
        for index, block in enumerate(vit.blocks):
            vit.blocks[index] = Layer(block)
        self._backbone = list(vit.modules())  # a plain list: what a method adds later is not in it
        reads_class_token = vit.attn_pool is None and vit.global_pool == "token"
        self.layers[-1].rows = 1 if reads_class_token else self.num_tokens

    @property
    def layers(self) -> nn.Sequential:
        """The `Layer`s, first to last."""
        return self.vit.blocks

    @property
    def num_tokens(self) -> int:
        """N: class and register tokens and patches, as the backbone itself makes them."""
        return self.vit.num_prefix_tokens + self.vit.patch_embed.num_patches

    @property
    def width(self) -> int:
        """D, the width of a token and of a feature."""
        return self.vit.num_features

    def forward(self, images: Tensor) -> Tensor:
        """Normalised (B, 3, S, S) to features (B, D): the final norm's output, pooled as the backbone does."""
        return self.vit.forward_head(self.vit.forward_features(images), pre_logits=True)

    def observe(self, images: Tensor, kinds: Set[Kind]) -> Observation:
        """What is asked for of normalised images (B, 3, S, S), without a gradient where nothing of the encoder trains.
        An encoder that does not train keeps no activations: each layer's are gone when the next one has run."""
        with ExitStack() as held:
            if not self.trains:
                held.enter_context(torch.no_grad())
            contexts = held.enter_context(self._noted_contexts()) if "contexts" in kinds else None
            groups = held.enter_context(self._noted_intermediates()) if "intermediates" in kinds else None
            features = self(images)
        return Observation(
            features=features,
            contexts=None if contexts is None else tuple(contexts),
            intermediates=None if groups is None else torch.cat([*groups, features], dim=1),
        )

    def observed_shapes(self) -> dict[Kind, tuple[int, ...]]:
        """Of one image, packed."""
        contexts = (len(self.layers), self.num_tokens, self.vit.embed_dim)
        return {"features": (self.width,), "contexts": contexts, "intermediates": (sum(group_widths(self.vit)),)}

    @property
    def trains(self) -> bool:
        """Whether any parameter in here does, so that what it shows of an image changes from step to step."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def is_bare(self) -> bool:
        """Whether it is the backbone and nothing else, so that equal weights show equal things."""
        return set(self.vit.modules()) == set(self._backbone)

    def train(self, mode: bool = True) -> "Encoder":
        """Unless all of the backbone trains it stays in evaluation mode, so that the features a method starts from do
        not depend on drop rates; what the method added follows `mode`."""
        super().train(mode)
        for module in self.held():
            module.training = False
        return self

    def held(self) -> list[nn.Module]:
        """The backbone's own modules, unless every parameter of theirs trains: they stay in evaluation mode."""
        parameters = [own for module in self._backbone for own in module.parameters(recurse=False)]
        return [] if all(parameter.requires_grad for parameter in parameters) else self._backbone

    def insert(self, tokens: nn.Module) -> None:
        """Lets `tokens`, (B, N, D) to (B, N + P, D), act on the stream that enters the first layer."""
        self.vit.norm_pre = nn.Sequential(self.vit.norm_pre, tokens)

    def set_checkpointing(self, enable: bool) -> None:
        """Trade a second forward pass for the activations of all layers but one."""
        self.vit.set_grad_checkpointing(enable)

    @contextmanager
    def _noted_contexts(self) -> Iterator[list[Tensor]]:
        """A list that a forward pass within the block fills with each layer's context."""
        contexts: list[Tensor] = []
        try:
            for layer in self.layers:
                layer.observer = contexts.append
            yield contexts
        finally:
            for layer in self.layers:
                layer.observer = None

    @contextmanager
    def _noted_intermediates(self) -> Iterator[list[Tensor]]:
        """A list that a forward pass within the block fills; meanwhile the last layer computes every row."""
        last = self.layers[-1]
        rows, last.rows = last.rows, None
        try:
            with gathered(self.vit) as groups:
                yield groups
        finally:
            last.rows = rows
