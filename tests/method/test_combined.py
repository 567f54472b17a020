"""Several methods in one run: each sees what the others changed, as the blocks written out by hand do."""

import pytest
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import peft_vision
from conftest import tiny_vit
from peft_vision.backbone.merge import merged
from peft_vision.core.config import ConfigError
from peft_vision.method.vqt import Queries
from peft_vision.models.model import Model
from reference import assert_computes, attend, lora_weights, randomised, size_on_vit_b16, tuned
from shipped import adapted


class ByHand(nn.Module):
    """timm's blocks with the model's prompts as context, its modules beside and behind, and its queries that look."""

    def __init__(self, vit: VisionTransformer, model: Model) -> None:
        super().__init__()
        self.vit = vit
        self._model = (model,)

    def forward(self, images: Tensor) -> Tensor:
        """The features that the head reads."""
        (model,) = self._model
        tokens, summaries = self.vit._pos_embed(self.vit.patch_embed(images)), []
        for index, block in enumerate(self.vit.blocks):
            layer = model.encoder.layers[index]
            context = tokens
            if layer.context is not None:
                context = torch.cat([tokens, layer.context.prompts.expand(len(images), -1, -1)], dim=1)
            if isinstance(model.readout, Queries) and index in model.readout.indices:
                prompts = model.readout.queries[model.readout.indices.index(index)].prompts
                queries = [query.expand(len(images), 1, -1) for query in prompts]  # one at a time
                outputs = torch.cat([self._through(block, layer, query, context) for query in queries], dim=1)
                summaries.append(F.normalize(outputs.flatten(1)))
            tokens = self._through(block, layer, tokens, context)
        pooled = self.vit.forward_head(self.vit.norm(tokens), pre_logits=True)
        return torch.cat([F.normalize(pooled), *summaries], dim=1) if summaries else pooled

    def _through(self, block: Block, layer: nn.Module, tokens: Tensor, context: Tensor) -> Tensor:
        attended = tokens + attend(block, tokens, context)
        for module in layer.beside_attention:
            attended = attended + module(tokens, block.norm1(tokens))
        updated = attended + block.ls2(block.mlp(block.norm2(attended)))
        for module in layer.beside_mlp:
            updated = updated + module(attended, block.norm2(attended))
        for module in layer.behind:
            updated = updated + module(updated)
        return updated


def logits_by_hand(model: Model, architecture: dict, weights: dict[str, Tensor], images: Tensor) -> Tensor:
    whole = ByHand(tiny_vit(**architecture), model)
    weights = {f"vit.{name}": weight for name, weight in weights.items()}
    return model.head(functional_call(whole, weights, (images,)))


VARIANTS = {
    "class token": {},
    "average pooling": {"global_pool": "avg"},
    "register tokens": {"reg_tokens": 2},
    "query and key norms": {"qk_norm": True},
    "layer scale": {"init_values": 0.1},
}


@pytest.mark.parametrize("architecture", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize(
    "parts",
    [
        {"lora": {"targets": ["q", "k", "v", "fc2"]}, "vqt": {"num_queries": 3}},
        {"vpt_deep": {"num_prompts": 4}, "vqt": {"num_queries": 3}},
        {"adaptformer": {}, "vqt": {"num_queries": 3}},
        {"convpass": {}, "vqt": {"num_queries": 20}},
        {"adapter_plus": {}, "vqt": {}},
        {"vpt_deep": {"num_prompts": 4}, "lora": {"dora": True}},
        {"vpt_deep": {}, "lora": {"layers": "first-2"}, "adaptformer": {"layers": [1]}, "vqt": {"layers": "last-2"}},
    ],
    ids=lambda parts: ",".join(parts),
)
def test_logits_and_gradients_are_those_of_all_parts_written_out(parts, architecture, images):
    model = randomised("combined", architecture=architecture, parts=parts)
    weights = lora_weights(model, architecture, scale=1.0)
    assert bool(weights) is ("lora" in parts)
    assert_computes(model, images, logits_by_hand(model, architecture, weights, images))


def test_biases_are_seen_by_prompts(images):
    model = randomised("vpt_bias")
    biases = {name: each for name, each in model.encoder.vit.named_parameters() if name.endswith("bias")}
    assert_computes(model, images, logits_by_hand(model, {}, biases, images))


@pytest.mark.parametrize("preset", ["vqt_lora", "vqt_adaptformer", "vqt_vpt", "vpt_lora", "vpt_bias"])
def test_a_preset_is_its_parts_by_name(preset, images):
    names = {"vqt": "vqt", "vpt": "vpt_deep", "bias": "bitfit"}
    parts = [names.get(part, part) for part in preset.split("_")]
    parts = parts if preset.startswith("vpt") else parts[::-1]  # queries last
    assert list(adapted(preset).recipe.method["parts"]) == parts
    assert torch.equal(adapted(preset).eval()(images), adapted("combined", parts=parts).eval()(images))


def test_lora_and_queries_are_queries_on_a_backbone_that_took_lora_in(images):
    both = randomised("vqt_lora")
    vit = tiny_vit()
    with merged(both.encoder):
        vit.load_state_dict(both.encoder.vit.state_dict())
    alone = peft_vision.adapt(vit, method="vqt", num_classes=4).eval()
    alone.readout.load_state_dict(both.readout.state_dict())
    alone.head.load_state_dict(both.head.state_dict())
    torch.testing.assert_close(both(images), alone(images), rtol=1e-5, atol=1e-5)


def test_prompts_and_lora_are_prompts_on_a_backbone_that_took_lora_in(images):
    both = randomised("vpt_lora")
    vit = tiny_vit()
    vit.load_state_dict({**vit.state_dict(), **lora_weights(both, {}, scale=1.0)})
    alone = peft_vision.adapt(vit, method="vpt_deep", num_classes=4).eval()
    for layer, other in zip(alone.encoder.layers, both.encoder.layers, strict=True):
        layer.context.load_state_dict(other.context.state_dict())
    alone.head.load_state_dict(both.head.state_dict())
    torch.testing.assert_close(both(images), alone(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", [["lora", "adaptformer"], ["vpt_deep", "bitfit"], ["ssf", "convpass"]], ids=str)
def test_the_parameters_of_the_parts_add_up(parts):
    assert size_on_vit_b16("combined", parts=parts) == sum(size_on_vit_b16(part) for part in parts)


@pytest.mark.parametrize("layers", ["last-1", (0, 2)], ids=str)
def test_layers_reach_every_part(layers):
    together = adapted("combined", parts=["lora", "adaptformer", "vqt"], layers=layers)
    names = {name for name in tuned(together) if "head" not in name}
    apart = [adapted(part, layers=layers) for part in ("lora", "adaptformer", "vqt")]
    assert names == {name for model in apart for name in tuned(model) if "head" not in name}


def test_with_all_layers_each_part_keeps_its_own():
    model = adapted("combined", parts={"lora": {"layers": "last-1"}, "adaptformer": {"layers": [0]}, "vqt": {}})
    assert {name.split(".")[3] for name in tuned(model) if "up.q" in name} == {"2"}
    assert {name.split(".")[3] for name in tuned(model) if "beside_mlp" in name} == {"0"}
    assert model.readout.indices == (0, 1, 2)


def test_the_part_that_reads_decides_the_phases():
    model = adapted("combined", parts={"vqt": {"keep_fraction": 0.5}, "lora": {}})
    assert [phase.name for phase in model.phases] == ["train", "select", "retrain"]
    assert {name.split(".")[0] for name in tuned(model)} == {"encoder", "readout", "head"}
    model.begin_next_phase(seed=0)
    assert {name.split(".")[0] for name in tuned(model)} == {"head"}


def test_parts_that_no_phase_would_train_are_refused():
    with pytest.raises(ConfigError, match=r"method\.parts: one of lora, head2toe trains the head alone"):
        adapted("combined", parts=["lora", "head2toe"])
    assert {name.split(".")[0] for name in tuned(adapted("combined", parts=["linear", "head2toe"]))} == {"head"}


def test_a_part_may_be_made_of_parts(images):
    nested = adapted("combined", parts=["vpt_lora", "vqt"])
    flat = adapted("combined", parts=["vpt_deep", "lora", "vqt"])
    assert torch.equal(nested.eval()(images), flat.eval()(images))
    nested = adapted("combined", parts=["vpt_lora", "ssf"], layers="last-1")
    flat = adapted("combined", parts=["vpt_deep", "lora", "ssf"], layers="last-1")
    assert torch.equal(nested.eval()(images), flat.eval()(images))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["vqt", "head2toe"], r"method\.parts: vqt and head2toe each decide what the head reads; take one"),
        (["vqt_lora", "head2toe"], r"method\.parts: vqt_lora and head2toe each decide what the head reads"),
        (["vpt_lora", "vpt_deep"], r"method: two of its parts fill layer"),
        (["lorra", "vqt"], r"method\.parts: unknown method 'lorra'; there are .*; did you mean lora\?"),
        (["lora", "lora"], r"method\.parts: got .*, should name each method once"),
        ([{"lora": {"rank": 4}}, "vqt"], r"method\.parts: got .*, should name each method once: "),
        (7, r"method\.parts: got 7, should name each method once"),
        ([], r"method\.parts: got .*, should name methods, such as \[lora,vqt\]"),
        (None, r"method\.parts: got None, should name methods"),
        ({"lora": {"rnk": 4}}, r"method\.parts\.lora: unknown rnk; LoRA takes .*; did you mean rank\?"),
        ({"lora": {"rank": 0}}, r"method\.parts\.lora\.rank: got 0"),
        ({"lora": 4}, r"method\.parts\.lora: got 4, should be values of it"),
        ({"fact_tt": {}, "lora": {"dora": True}}, r"method\.dora: .* let it be the first part that changes it"),
        ({"lora": {"layers": "first-4"}}, r"method\.layers: got 'first-4', but this backbone has 3 layers"),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_parts_is_said(parts, message):
    with pytest.raises(ConfigError, match=message):
        adapted("combined", parts=parts)


def test_prompts_in_different_layers_are_no_conflict(images):
    deep = {"_target_": "peft_vision.method.vpt.VPT", "deep": True, "dropout": 0.0, "projection": None, "lr": {}}
    deep["probe_first"] = False
    parts = {"few": {**deep, "num_prompts": 2, "layers": [0]}, "many": {**deep, "num_prompts": 5, "layers": [2]}}
    model = randomised("combined", parts=parts)
    assert [layer.context is not None for layer in model.encoder.layers] == [True, False, True]
    assert_computes(model, images, logits_by_hand(model, {}, {}, images))
    with pytest.raises(ConfigError, match="two of its parts fill layer"):
        adapted("combined", parts={name: {**part, "layers": [1]} for name, part in parts.items()})
