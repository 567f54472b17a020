"""The adapted model: images to logits, with a frozen part and a tuned part that `requires_grad` tells apart."""

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.head import Head
from peft_vision.method.base import Method
from peft_vision.preprocessing import Normalize, Preprocessing


class Model(nn.Module):
    """`encoder`: images to features, with the method attached; `head`: features to logits."""

    def __init__(self, encoder: Encoder, head: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.normalize = Normalize(preprocessing)
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S), uint8 or normalised floats, to logits (B, num_classes)."""
        return self.head(self.encoder(self.normalize(images)))

    def tuned_state(self) -> dict[str, Tensor]:
        """What trains, and the buffers that training moves; what an adapter file holds."""
        state = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        kept = self.state_dict()
        held = set(self.encoder.held())
        for prefix, module in self.named_modules():
            if module in held:
                continue
            for name, _ in module.named_buffers(prefix=prefix, recurse=False):
                if name in kept:  # a non-persistent buffer is derived, not state
                    state[name] = kept[name]
        return {name: tensor.detach() for name, tensor in state.items()}

    def parameter_counts(self) -> "ParameterCounts":
        """Of what trains now."""
        return ParameterCounts(
            method=_count(p for p in self.encoder.parameters() if p.requires_grad),
            head=_count(p for p in self.head.parameters() if p.requires_grad),
            frozen=_count(p for p in self.parameters() if not p.requires_grad),
        )


@dataclass(frozen=True)
class ParameterCounts:
    """`method`: trained in or beside the backbone; `head`: trained in the head; `frozen`: the rest."""

    method: int
    head: int
    frozen: int


def assemble(
    vit: VisionTransformer,
    *,
    method: Method,
    head: Head,
    num_classes: int,
    preprocessing: Preprocessing,
    seed: int,
) -> Model:
    """Freezes `vit`, attaches `method` and a new head; takes `vit` over. The new parameters depend on `seed` only."""
    vit.requires_grad_(False)
    encoder = Encoder(vit)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method.attach(encoder)
        model = Model(encoder, head.build(encoder.width, num_classes), preprocessing)
    return model


def _count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)
