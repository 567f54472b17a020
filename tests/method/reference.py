"""What methods are compared with: untouched timm modules, plain torch around them, and gradients through both."""

from collections.abc import Callable

import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

from conftest import tiny_vit
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.outline import shapes_alone
from peft_vision.core.composition import complete, option
from peft_vision.core.config import build
from peft_vision.method.base import Method
from peft_vision.method.lora import LowRankUpdate
from peft_vision.models.model import Model
from shipped import adapted

ARCHITECTURES = {
    "class token": {},
    "average pooling": {"global_pool": "avg"},
    "register tokens": {"reg_tokens": 2},
    "layer scale": {"init_values": 0.1},
    "query and key norms": {"qk_norm": True},
}
LORA_PLACES = {"attn.qkv": ["q", "k", "v", "qkv"], "attn.proj": ["proj"], "mlp.fc1": ["fc1"], "mlp.fc2": ["fc2"]}


def fused_rows(outputs: int, *targets: str) -> dict[str, slice]:
    """The rows of q, k and v in a fused projection, and all rows for any other target."""
    third = outputs // 3
    thirds = {name: slice(number * third, (number + 1) * third) for number, name in enumerate("qkv")}
    return {target: thirds.get(target, slice(0, outputs)) for target in targets}


Through = Callable[[int, Block, Tensor], Tensor]


def randomised(method: str, **options: object) -> Model:
    """In evaluation mode, with nothing left at the zero or the one that it starts from."""
    model = adapted(method, **options).eval()
    noise = torch.Generator().manual_seed(11)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("head."):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=noise)
    return model


def tuned(model: Model) -> dict[str, nn.Parameter]:
    """What trains."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def gradients(logits: Tensor, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Of a scalar that weighs every logit differently."""
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    loss = (weights * logits + logits.square()).sum()
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


def assert_computes(model: Model, images: Tensor, expected: Tensor) -> None:
    """The model's logits and the gradients of all that trains are those of `expected`, made of its parameters."""
    assert_equal(model(images), expected, tuned(model))


def assert_equal(found: Tensor, expected: Tensor, parameters: dict[str, nn.Parameter]) -> None:
    """Logits, and the gradients of `parameters` through both; relative to the largest value of each tensor."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    other = gradients(expected, parameters)
    for name, gradient in gradients(found, parameters).items():
        size = other[name].abs().max().item()
        torch.testing.assert_close(gradient, other[name], rtol=1e-4, atol=1e-5 * max(size, 0.1), msg=name)


def assert_changes_nothing(model: Model, images: Tensor) -> None:
    """As a probe with the same head, while it does not train."""
    probe = adapted("linear").eval()
    probe.head = model.head
    torch.testing.assert_close(model.eval()(images), probe(images), rtol=1e-6, atol=1e-6)


def features_through(vit: VisionTransformer, images: Tensor, through: Through) -> Tensor:
    """Pooled features where `through(index, block, tokens)` stands for each block; every row of every layer."""
    tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    for index, block in enumerate(vit.blocks):
        tokens = through(index, block, tokens)
    return vit.forward_head(vit.norm(tokens), pre_logits=True)


def logits_with(model: Model, architecture: dict, changed: dict[str, Tensor], images: Tensor) -> Tensor:
    """timm's own forward with `changed` weights, and the model's head."""
    return model.head(functional_call(tiny_vit(**architecture), changed, (images,)))


def attend(block: Block, queries: Tensor, context: Tensor) -> Tensor:
    """What attention adds to queries (B, Q, D) that look at a context (B, N, D), neither of them normed yet."""
    attention = block.attn

    def projected(tokens: Tensor, number: int) -> Tensor:
        rows = attention.qkv(block.norm1(tokens)).chunk(3, dim=-1)[number]
        return rows.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)

    query, key = attention.q_norm(projected(queries, 0)), attention.k_norm(projected(context, 1))
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
    return block.ls1(attention.proj((weights @ projected(context, 2)).transpose(1, 2).flatten(2)))


def lora_weights(model: Model, architecture: dict, *, scale: float) -> dict[str, Tensor]:
    """W + scale * up @ down of every matrix with an update, by timm's names; with a magnitude, rows of that length."""
    weights = {}
    plain = tiny_vit(**architecture).state_dict()
    for index, layer in enumerate(model.encoder.layers):
        for place, names in LORA_PLACES.items():
            wrapper, name = layer.get_submodule(place), f"blocks.{index}.{place}.weight"
            if not isinstance(wrapper, LowRankUpdate):
                continue
            chunks = list(plain[name].chunk(3)) if place == "attn.qkv" and "qkv" not in wrapper.up else [plain[name]]
            for target in wrapper.up:
                number = names.index(target) if len(chunks) == 3 else 0
                rows = chunks[number] + scale * wrapper.up[target] @ wrapper.down[target]
                if target in wrapper.magnitude:
                    rows = wrapper.magnitude[target].unsqueeze(1) * rows / rows.norm(dim=1, keepdim=True).detach()
                chunks[number] = rows
            weights[name] = torch.cat(chunks)
    return weights


def size_on_vit_b16(method: str, **options: object) -> int:
    """Trained parameters beside the head's, counted on a ViT-B/16 without memory."""
    with shapes_alone():
        vit = timm.create_model("vit_base_patch16_224", num_classes=0).requires_grad_(False)
        encoder = Encoder(vit)
        build(complete({**option("method", method), **options}), Method, "method").attach(encoder)
    return sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
