import argparse
import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from peft_vision.backbone.weights import load_weights, recorded_preprocessing, weights_hash
from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Preprocessing


def tiny(img_size=32, num_classes=0, **architecture):
    sizes = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=img_size, num_classes=num_classes, **{**sizes, **architecture}
    )


def same(one, other):
    """Whether two models hold the same tensors under the same names."""
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Trap:
    """Pickles to a call."""

    def __reduce__(self):
        return print, ("code from a weights file ran",)


@pytest.mark.parametrize(
    "architecture",
    [
        {},
        {"reg_tokens": 2, "no_embed_class": True, "init_values": 0.1, "qk_norm": True},
        {"pre_norm": True, "global_pool": "avg"},
        {"class_token": False, "global_pool": "map"},
    ],
)
def test_safetensors_file_gives_the_features_of_the_model_that_was_saved(tmp_path, architecture):
    source, vit = tiny(num_classes=5, **architecture).eval(), tiny(**architecture).eval()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(vit, tmp_path / "w.safetensors")
    images = torch.randn(2, 3, 32, 32)
    expected = source.forward_head(source.forward_features(images), pre_logits=True)
    assert torch.equal(vit(images), expected)


def wrapped(state, wrapper, prefix):
    state = {prefix + name: tensor for name, tensor in state.items()}
    return {wrapper: state, "epoch": 3, "args": argparse.Namespace(lr=0.1)} if wrapper else state


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "teacher", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "_orig_mod.", "encoder.vit."])
def test_torch_file_is_found_in_what_trainers_wrap_around_it(tmp_path, wrapper, prefix):
    source, vit = tiny(), tiny()
    torch.save(wrapped(source.state_dict(), wrapper, prefix), tmp_path / "w.pth")
    load_weights(vit, tmp_path / "w.pth")
    assert same(vit, source)


def test_file_of_our_own_full_fine_tuning_loads_without_its_head(tmp_path):
    source, vit = tiny(), tiny()
    state = {f"encoder.vit.{name}": tensor for name, tensor in source.state_dict().items()}
    save_file(state | {"head.linear.weight": torch.zeros(3, 32)}, tmp_path / "adapter.safetensors")
    load_weights(vit, tmp_path / "adapter.safetensors")
    assert same(vit, source)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_file_becomes_fp32(tmp_path, dtype):
    vit = tiny()
    half = {name: tensor.to(dtype) for name, tensor in tiny().state_dict().items()}
    save_file(half, tmp_path / "w.safetensors")
    load_weights(vit, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, half[name].float()) for name, tensor in vit.state_dict().items())
    assert {tensor.dtype for tensor in vit.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("size", [16, 48])
def test_position_embeddings_are_resampled_as_timm_does(tmp_path, size):
    source, vit = tiny(), tiny(img_size=size)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(vit, tmp_path / "w.safetensors")
    expected = resample_abs_pos_embed(source.pos_embed, new_size=[size // 8] * 2, num_prefix_tokens=1)
    assert torch.equal(vit.pos_embed, expected)
    file = {"file": str(tmp_path / "w.safetensors"), "num_classes": 0}
    assert same(vit, tiny(img_size=size, pretrained=True, pretrained_cfg_overlay=file))


def test_file_without_room_for_registers_does_not_pass_for_one_with_them(tmp_path):
    save_file(tiny().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="missing: reg_token"):
        load_weights(tiny(reg_tokens=2, no_embed_class=True), tmp_path / "w.safetensors")


def test_final_norm_behind_the_pool_starts_afresh_as_in_the_official_mae_code(tmp_path):
    source, vit = tiny(), tiny(global_pool="avg")
    torch.nn.init.normal_(source.norm.weight)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(vit, tmp_path / "w.safetensors")
    assert torch.equal(vit.fc_norm.weight, torch.ones(32))
    assert torch.equal(vit.fc_norm.bias, torch.zeros(32))
    assert same(vit.blocks, source.blocks)


def test_weights_without_any_final_norm_do_not_fit(tmp_path):
    state = {name: tensor for name, tensor in tiny().state_dict().items() if not name.startswith("norm.")}
    save_file(state, tmp_path / "w.safetensors")
    for vit in (tiny(), tiny(global_pool="avg")):
        with pytest.raises(ConfigError, match="2 missing"):
            load_weights(vit, tmp_path / "w.safetensors")


def test_dino_mask_token_and_mae_decoder_are_left_out(tmp_path):
    source, vit = tiny(), tiny()
    extra = {"mask_token": torch.zeros(1, 32), "decoder_embed.weight": torch.zeros(8, 32)}
    torch.save(source.state_dict() | extra, tmp_path / "w.pth")
    load_weights(vit, tmp_path / "w.pth")
    assert same(vit, source)


def google_npz(path, width=32, heads=2, depth=2, hidden=128, tokens=17, patch=8):
    """Random tensors with the names and layouts of gs://vit_models."""
    shapes = {
        "cls": (1, 1, width),
        "embedding/kernel": (patch, patch, 3, width),
        "embedding/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (1, tokens, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, 7),
        "head/bias": (7,),
        "pre_logits/kernel": (width, width),
        "pre_logits/bias": (width,),
    }
    for index in range(depth):
        block = f"Transformer/encoderblock_{index}"
        attention, mlp = f"{block}/MultiHeadDotProductAttention_1", f"{block}/MlpBlock_3"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (width,), f"{block}/{norm}/bias": (width,)}
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}/{part}/kernel": (width, heads, width // heads)}
            shapes |= {f"{attention}/{part}/bias": (heads, width // heads)}
        shapes |= {
            f"{attention}/out/kernel": (heads, width // heads, width),
            f"{attention}/out/bias": (width,),
        }
        shapes |= {f"{mlp}/Dense_0/kernel": (width, hidden), f"{mlp}/Dense_0/bias": (hidden,)}
        shapes |= {f"{mlp}/Dense_1/kernel": (hidden, width), f"{mlp}/Dense_1/bias": (width,)}
    random = np.random.default_rng(0)
    np.savez(path, **{name: random.normal(size=shape).astype("f4") for name, shape in shapes.items()})


@pytest.mark.parametrize("size", [32, 48])
def test_google_npz_loads_as_timm_loads_it_and_resamples_like_any_other_file(tmp_path, size):
    google_npz(tmp_path / "B_16.npz")
    vit, reference = tiny(img_size=size), tiny()
    load_weights(vit, tmp_path / "B_16.npz")
    reference.load_pretrained(str(tmp_path / "B_16.npz"))
    reference.set_input_size((size, size))
    assert same(vit, reference)


def test_npz_of_a_deeper_model_does_not_fit(tmp_path):
    google_npz(tmp_path / "L_16.npz", depth=3)
    with pytest.raises(ConfigError, match=r"does not fit .*: 12 unexpected\nunexpected: blocks\.2\."):
        load_weights(tiny(), tmp_path / "L_16.npz")


def test_misfit_names_file_counts_and_three_tensors_in_two_lines(tmp_path):
    state = tiny(embed_dim=48).state_dict()
    del state["cls_token"]
    save_file(state | {"foreign": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as caught:
        load_weights(tiny(), tmp_path / "w.safetensors")
    first, second = str(caught.value).splitlines()
    shaped = len(tiny().state_dict()) - 1
    assert first == (
        f"backbone.checkpoint: {tmp_path / 'w.safetensors'} does not fit vit_tiny_patch16_224: "
        f"1 missing, 1 unexpected, {shaped} of another shape"
    )
    assert second.startswith("missing: cls_token; unexpected: foreign; of another shape: ")
    assert "pos_embed (1, 17, 48) for (1, 17, 32), " in second
    assert second.count(" for ") == 3


def test_position_embeddings_that_are_no_square_are_refused(tmp_path):
    torch.save(tiny().state_dict() | {"pos_embed": torch.zeros(1, 13, 32)}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="does not fit"):
        load_weights(tiny(), tmp_path / "w.pth")


@pytest.mark.parametrize("file", ["w.safetensors", "w.npz", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 a zip that ends"])
def test_corrupt_file_is_named_in_one_line(tmp_path, file, content):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_weights(tiny(), tmp_path / file)
    assert str(caught.value).startswith(f"backbone.checkpoint: cannot read {tmp_path / file}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_code_in_a_torch_file_never_runs(tmp_path, capsys):
    torch.save({"state_dict": Trap()}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="pickled code, which is never run"):
        load_weights(tiny(), tmp_path / "w.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "held"),
    [({"epoch": 3}, "entries: epoch"), ({"model": [1]}, "a list"), (torch.ones(1), "a Tensor")],
)
def test_torch_file_without_a_state_dict_says_what_it_holds(tmp_path, content, held):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=f"holds no state dict but {held}"):
        load_weights(tiny(), tmp_path / "w.pth")


def test_preprocessing_travels_in_our_own_files_only(tmp_path):
    preprocessing = Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 1.0)
    recorded, other = tmp_path / "ours.safetensors", tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(1)}, recorded, metadata={"preprocessing": json.dumps(preprocessing.record())})
    save_file({"w": torch.zeros(1)}, other)
    assert recorded_preprocessing(recorded) == preprocessing
    assert recorded_preprocessing(other) is None
    assert recorded_preprocessing(tmp_path / "w.npz") is None


@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"size": 3, "sise": 4}'])
def test_damaged_preprocessing_is_refused(tmp_path, record):
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"preprocessing": record})
    with pytest.raises(ConfigError, match="cannot read"):
        recorded_preprocessing(tmp_path / "w.safetensors")


def test_equal_weights_have_equal_hashes_and_others_do_not(tmp_path):
    vit, copy = tiny(), tiny()
    copy.load_state_dict(vit.state_dict())
    assert weights_hash(vit) == weights_hash(copy)
    assert len(weights_hash(vit)) == 64
    with torch.no_grad():
        copy.blocks[1].mlp.fc2.bias[0] += 1e-6
    assert weights_hash(vit) != weights_hash(copy)
    assert weights_hash(vit) != weights_hash(tiny().bfloat16())


def beside(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def released(kind, state):
    """A checkpoint as the official code of a pretext task saves it."""
    mlp = {"head.mlp.0.weight": torch.zeros(8, 32), "head.last_layer.weight_v": torch.zeros(4, 8)}
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    match kind:
        case "moco_v3":
            held = beside({**state, "head.0.weight": torch.zeros(8, 32)}, "module.base_encoder.")
            held |= beside(other, "module.momentum_encoder.") | {"module.predictor.0.weight": torch.zeros(4, 4)}
            return {"epoch": 300, "arch": "vit_base", "state_dict": held, "optimizer": {"state": {}}}
        case "moco_v3_momentum":
            return {"state_dict": beside(state, "module.momentum_encoder.")}
        case "moco_v3_linear":
            return {"arch": "vit_base", "state_dict": beside({**state, "head.weight": torch.zeros(9, 32)}, "module.")}
        case "mae":
            decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 17, 8)}
            decoder |= {"decoder_blocks.0.attn.qkv.weight": torch.zeros(24, 8), "decoder_pred.bias": torch.zeros(9)}
            return {"model": {**state, **decoder}}
        case "dino":
            teacher = beside(state, "backbone.") | mlp
            student = beside(other, "module.backbone.") | beside(mlp, "module.")
            return {"student": student, "teacher": teacher, "epoch": 99, "args": argparse.Namespace(arch="vit_small")}
        case "dino_student":
            return {"student": beside(state, "module.backbone.") | beside(mlp, "module.")}
        case "ibot":
            return {"state_dict": {**state, "masked_embed": torch.zeros(1, 32)}}
        case "ibot_full":
            student = beside({**other, "masked_embed": torch.zeros(1, 32)}, "module.backbone.")
            return {"teacher": beside(state, "module.backbone.") | beside(mlp, "module."), "student": student}


@pytest.mark.parametrize(
    "kind", ["moco_v3", "moco_v3_momentum", "moco_v3_linear", "mae", "dino", "dino_student", "ibot", "ibot_full"]
)
def test_checkpoint_of_a_pretext_task_loads_as_it_was_released(tmp_path, kind):
    source, vit = tiny(), tiny()
    torch.save(released(kind, source.state_dict()), tmp_path / "checkpoint.pth.tar")
    load_weights(vit, tmp_path / "checkpoint.pth.tar")
    assert same(vit, source)


def test_sincos_positions_of_moco_v3_are_resampled_like_any_others(tmp_path):
    source, vit = tiny(), tiny(img_size=48)
    grid = torch.arange(4.0)
    angles = torch.einsum("n,d->nd", grid, 1 / 10000 ** (torch.arange(8) / 8))
    rows, columns = angles[:, None].expand(4, 4, 8), angles[None].expand(4, 4, 8)
    positions = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1).reshape(1, 16, 32)
    with torch.no_grad():
        source.pos_embed.copy_(torch.cat([torch.zeros(1, 1, 32), positions], dim=1))
    torch.save(released("moco_v3", source.state_dict()), tmp_path / "checkpoint.pth.tar")
    load_weights(vit, tmp_path / "checkpoint.pth.tar")
    assert torch.equal(vit.pos_embed, resample_abs_pos_embed(source.pos_embed, new_size=[6, 6], num_prefix_tokens=1))


def test_small_vit_of_moco_v3_does_not_load_into_other_heads(tmp_path):
    source = tiny(embed_dim=48, num_heads=12)
    torch.save(
        {"arch": "vit_small", **released("moco_v3", source.state_dict())} | {"arch": "vit_small"}, tmp_path / "w"
    )
    load_weights(tiny(embed_dim=48, num_heads=12), tmp_path / "w")
    with pytest.raises(
        ConfigError, match=r"has 12 heads, and this one 2; backbone\.architecture=\{num_heads: 12\} fits"
    ):
        load_weights(tiny(embed_dim=48), tmp_path / "w")


FAMILIES = {
    "eva": ("eva02_tiny_patch14_224", {"img_size": 28, "embed_dim": 48, "depth": 2, "num_heads": 2}),
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 2}),
    "beit": ("beitv2_base_patch16_224", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 2}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4},
    ),
    "convnext": ("convnext_atto", {"depths": (1,) * 4, "dims": (8, 8, 16, 16)}),
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}),
    "clip_resnet": ("resnet50_clip", {"img_size": 32}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_every_family_load_without_the_classifier(tmp_path, family):
    name, sizes = FAMILIES[family]
    classifying, vit, other = (timm.create_model(name, num_classes=classes, **sizes) for classes in (5, 0, 0))
    save_file(classifying.state_dict(), tmp_path / "w.safetensors")
    load_weights(vit, tmp_path / "w.safetensors")
    held = classifying.state_dict()
    assert all(torch.equal(tensor, held[key]) for key, tensor in vit.state_dict().items())
    assert not same(vit, other)
    images = torch.randn(1, 3, 28 if family == "eva" else 32, 28 if family == "eva" else 32)
    expected = classifying.eval().forward_head(classifying.forward_features(images), pre_logits=True)
    torch.testing.assert_close(vit.eval()(images), expected)


def test_moco_v2_resnet_loads_without_its_mlp_and_queue(tmp_path):
    name, sizes = FAMILIES["resnet"]
    source, vit = (timm.create_model(name, num_classes=0, **sizes) for _ in range(2))
    state = beside({**source.state_dict(), "fc.0.weight": torch.zeros(4, 8)}, "module.encoder_q.")
    state |= beside(source.state_dict(), "module.encoder_k.") | {"module.queue": torch.zeros(8, 4)}
    state = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    torch.save({"arch": "resnet50", "state_dict": state}, tmp_path / "moco.pth.tar")
    load_weights(vit, tmp_path / "moco.pth.tar")
    assert same(vit, source)


def test_weights_of_another_family_are_refused_in_a_line(tmp_path):
    name, sizes = FAMILIES["resnet"]
    save_file(timm.create_model(name, **sizes).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as caught:
        load_weights(tiny(), tmp_path / "w.safetensors")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"backbone.checkpoint: {tmp_path}/w.safetensors does not fit vit_tiny_patch16_224: none of")
    assert "bn1.weight" in line
    save_file(tiny().state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError, match="does not fit resnet18: none of its tensors"):
        load_weights(timm.create_model(name, num_classes=0, **sizes), tmp_path / "vit.safetensors")


@pytest.mark.parametrize("in_chans", [1, 2, 5, 13])
def test_first_weights_are_adapted_to_the_channels_as_timm_does(tmp_path, in_chans):
    source, vit = tiny(), tiny(in_chans=in_chans)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(vit, tmp_path / "w.safetensors", in_chans=in_chans)
    file = {"file": str(tmp_path / "w.safetensors"), "num_classes": 0}
    assert same(vit, tiny(in_chans=in_chans, pretrained=True, pretrained_cfg_overlay=file))


def test_weights_for_as_many_channels_load_unchanged_and_for_others_are_refused(tmp_path):
    source, vit = tiny(in_chans=5), tiny(in_chans=5)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(vit, tmp_path / "w.safetensors", in_chans=5)
    assert same(vit, source)
    with pytest.raises(ConfigError, match=r"they are for images of 5 channels \(backbone\.in_chans\)"):
        load_weights(tiny(), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="images of 5 channels"):
        load_weights(tiny(in_chans=2), tmp_path / "w.safetensors", in_chans=2)


def test_a_hash_tells_apart_equal_bytes_of_other_names_shapes_and_types():
    zeros = torch.zeros(2, 3)
    kinds = [{"a": zeros}, {"b": zeros}, {"a": zeros.T}, {"a": zeros.view(torch.int32)}]
    hashes = {
        weights_hash(torch.nn.ParameterDict({n: torch.nn.Parameter(t, False) for n, t in k.items()})) for k in kinds
    }
    assert len(hashes) == len(kinds)
