"""Every method works on every family that gives what it needs."""

import pytest
import torch
from torch.nn import functional as F
from variants import CONVNEXT, SWIN, TOKENS, small

import peft_vision
from peft_vision.backbone.attention import look
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.eva import EvaTrunk
from peft_vision.backbone.merge import merged, unmergeable
from peft_vision.core.config import ConfigError
from peft_vision.models.model import Model
from peft_vision.training.probe import check_drops
from shipped import METHODS, adapted_to, train

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(4)
FEW = ("ssf", "vpt_deep", "vqt_lora")
APART = ("adapter_houlsby", "bitfit", "convpass", "fact_tk", "full", "layer_norm", "lora", "repadapter", *FEW)
SHIFTING = ("repadapter", "ssf")  # where a projection has no bias, timm's model has no place for what they add
TOKEN_METHODS = {"DINOv3": METHODS, "post-norm, rotary, apart": APART}
SAVED = ("fact_tk", "full", "lora", "pad", "ssf", "vpt_shallow", "vqt_lora")
"""Methods that share, replace, wrap and surround what a family has: of the others a file is not another one there."""
PAIRS = [(variant, method) for variant in TOKENS for method in TOKEN_METHODS.get(variant, FEW)]
GRIDS = ("Swin", "ConvNeXt-V2, 1x1 convolutions")  # with every method that they do not lack
MORE = {
    "Swin-V2": ("adapter_houlsby", "convpass", "lora", "repadapter", "ssf", "vpt_deep", "vpt_shallow"),
    "ConvNeXt": ("adapter_houlsby", "convpass", "lora", "repadapter", "ssf"),
}
LACKING = ("combined", "vqt", "vqt_adaptformer", "vqt_lora", "vqt_vpt", "fact_tk", "fact_tt")
PROMPTED = ("vpt_bias", "vpt_deep", "vpt_lora", "vpt_shallow")  # which ConvNeXt has only as pixels
PAIRS += [
    (variant, method)
    for variant in GRIDS
    for method in METHODS
    if method not in LACKING and (variant in SWIN or method not in PROMPTED)
]
OTHERS = {**dict.fromkeys(SWIN, ("lora", "ssf", "vpt_deep")), **dict.fromkeys(CONVNEXT, ("lora", "ssf")), **MORE}
PAIRS += [(variant, method) for variant in OTHERS if variant not in GRIDS for method in OTHERS[variant]]
PAIRS += [(variant, "pad") for variant in ("ViT", "EVA", "relative", *GRIDS, *MORE)]


def adapted(variant: str, method: str, **options: object) -> Model:
    if method == "repadapter" and variant in (*SWIN, *CONVNEXT):
        options = {"rank": 4, **options}
    if method == "pad":
        method, options = "vpt_shallow", {"location": "pad", "num_prompts": 8, **options}
    return adapted_to(small(variant), method, **options)


@pytest.mark.parametrize(("variant", "method"), PAIRS)
def test_a_method_trains_what_it_tunes_and_nothing_else_and_is_saved_and_merged(variant, method, tmp_path):
    model = adapted(variant, method)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, IMAGES, LABELS)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(model.tuned_state())
    model.eval()
    with torch.no_grad():
        if method in SAVED:
            logits = model(IMAGES)
            peft_vision.save(model, tmp_path / "adapter.safetensors")
            assert torch.equal(peft_vision.load(tmp_path / "adapter.safetensors", small(variant))(IMAGES), logits)
        if model.encoder.added() and not unmergeable(model.encoder):
            features = model.encoder(IMAGES)
            with merged(model.encoder):
                torch.testing.assert_close(model.encoder(IMAGES), features, rtol=1e-4, atol=1e-4)
            if method not in SHIFTING:
                with peft_vision.merged(model) as plain:
                    timms = small(variant)
                    timms.load_state_dict(plain.state_dict())
                    torch.testing.assert_close(plain(IMAGES), features, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(timms.eval()(IMAGES), features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", TOKENS)
@pytest.mark.parametrize("method", ["vpt_deep", "vqt_lora"])
def test_checkpointing_changes_no_gradient(variant, method):
    assert_checkpointing_changes_no_gradient(adapted(variant, method), IMAGES)


def assert_checkpointing_changes_no_gradient(model: Model, images: torch.Tensor) -> None:
    found = []
    for recomputed in (False, True):
        model.encoder.set_checkpointing(recomputed)
        model.zero_grad()
        torch.manual_seed(0)
        F.cross_entropy(model(images), LABELS).backward()
        found.append({name: parameter.grad for name, parameter in model.trained().items()})
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", TOKENS)
def test_a_deep_prompt_is_context_and_loses_nothing_to_concatenation(variant):
    """As if the prompts were tokens of the layer whose outputs are thrown away."""
    encoder = Encoder(small(variant)).eval()
    layer, positions = encoder.layers[0], encoder.trunk.positions()[0]
    tokens, prompts = encoder.trunk.stem(IMAGES), torch.randn(1, 3, 32)
    with torch.no_grad():
        whole = layer(torch.cat([tokens, prompts.expand(4, -1, -1)], dim=1), positions)[:, : tokens.shape[1]]

        class Given(torch.nn.Module):
            def forward(self, batch: int) -> torch.Tensor:
                return prompts

        layer.context = Given()
        torch.testing.assert_close(layer(tokens, positions), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", TOKENS)
def test_a_query_sees_what_an_added_token_sees(variant):
    """One more token behind those of the image sees them and itself: without itself it is a query."""
    encoder = Encoder(small(variant).requires_grad_(False)).eval()
    layer, positions = encoder.layers[0], encoder.trunk.positions()[0]
    tokens, queries = encoder.trunk.stem(IMAGES), torch.randn(1, 2, 32)
    context = layer.attended(tokens)
    folded = look(layer, queries, context, positions)
    context = context.clone().requires_grad_(True)
    plain = look(layer, queries, context, positions)  # keys and values one by one, since a gradient reaches the context
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(plain.square().sum(), context)
    assert gradient.abs().amax(dim=(0, 2)).min() > 0  # of every token


def test_bitfit_trains_the_biases_that_are_parameters_of_attention():
    model = adapted("EVA", "bitfit")
    names = {name.rpartition(".")[2] for name in model.trained()}
    assert {"q_bias", "v_bias", "bias"} <= names


def test_a_shift_of_what_has_no_bias_is_no_weight_of_timms():
    model = adapted("DINOv3", "ssf")
    with pytest.raises(ValueError, match=r"qkv\.bias"), peft_vision.merged(model):
        pass


def test_what_a_family_lacks_is_said_with_its_reason(monkeypatch):
    monkeypatch.setattr(EvaTrunk, "lacks", {"contexts": "has windows, not one context that a query could see"})
    message = r"it needs one context a layer, .*; vit_small_patch16_dinov3 has windows, not one context"
    with pytest.raises(ConfigError, match=message):
        adapted("DINOv3", "vqt_lora")
    adapted("DINOv3", "lora")


def test_a_site_that_is_apart_is_named():
    model = adapted("EVA-02 base (normed SwiGLU and attention)", "lora", targets=["qkv", "fc1"], layers="first-1")
    wrapped = {name for name, module in model.encoder.added().items() if hasattr(module, "down")}
    matrices = [*(f"attn.{name}_proj" for name in "qkv"), "mlp.fc1_g", "mlp.fc1_x"]
    assert wrapped == {f"blocks.0.{matrix}" for matrix in matrices}


@pytest.mark.parametrize("variant", ["relative, Swin's MLP", "Swin-V2Cr"])
def test_what_timm_drops_from_the_table_of_positions_is_nobodys_option(variant):
    """timm gives the MLP of the table a dropout of 0.125 that no option sets."""
    for method in ("linear", "lora"):
        model = adapted(variant, method)
        check_drops(model, method=method)
        assert torch.equal(model(IMAGES), model(IMAGES))
        assert model.encoder.asked_to_drop == []
    model = adapted(variant, "full")
    assert not torch.equal(model(IMAGES), model(IMAGES))
