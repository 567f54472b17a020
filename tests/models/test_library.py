"""peft-vision as a library."""

import re
from dataclasses import replace

import pytest
import timm
import torch

import peft_vision
from conftest import tiny_vit
from peft_vision.core.config import ConfigError, shortened
from peft_vision.models.adapter import read_adapter


def test_options_override_the_shipped_values(vit):
    model = peft_vision.adapt(vit, method="vpt_deep", num_classes=4, num_prompts=7)
    assert model.parameter_counts().method == 3 * 7 * 32


def test_uint8_images_are_normalised_and_floats_are_taken_as_they_are(vit):
    model = peft_vision.adapt(vit, method="linear", num_classes=4).eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    config = timm.data.resolve_data_config({}, model=vit)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(model(pixels), model((pixels / 255 - mean) / std))


@pytest.mark.parametrize(
    "device", ["meta", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_what_is_added_is_where_the_backbone_is(device, monkeypatch):
    monkeypatch.setattr("peft_vision.library.weights_hash", lambda _: "0" * 64)  # of shapes alone there is none
    model = peft_vision.adapt(tiny_vit().to(device), method="vpt_lora", num_classes=4)
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {device}


def test_a_head_on_the_backbone_is_replaced(images):
    vit = tiny_vit()
    vit.reset_classifier(1000)
    assert peft_vision.adapt(vit, method="linear", num_classes=4)(images).shape == (5, 4)
    assert vit.num_classes == 1000


@pytest.mark.parametrize("head", [{}, {"norm": "batch"}, {"norm": "layer"}, {"hidden": [16]}])
def test_heads_of_every_kind_save_and_load(head, vit, images, tmp_path):
    model = peft_vision.adapt(vit, method="linear", num_classes=4, head=head)
    model.train()(images)  # moves the statistics of a batch norm
    peft_vision.save(model, tmp_path / "a.safetensors")
    assert torch.equal(peft_vision.load(tmp_path / "a.safetensors", vit)(images), model.eval()(images))


def test_an_adapter_holds_class_names_and_recipe(vit, tmp_path):
    model = peft_vision.adapt(vit, method="vpt_deep", num_classes=("cat", "dog"), num_prompts=3)
    peft_vision.save(model, tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors")
    recipe = adapter.recipe
    assert adapter.phases == 1
    assert recipe.classes == ("cat", "dog")
    assert recipe.method["num_prompts"] == 3
    written = {name: shortened(getattr(model.recipe, name)) for name in ("method", "head")}
    assert recipe == replace(model.recipe, **written, objective={"_target_": "SingleLabel"})
    assert adapter.tensors.keys() == model.tuned_state().keys()


def test_an_adapter_is_refused_by_a_backbone_of_other_weights(vit, tmp_path):
    peft_vision.save(peft_vision.adapt(vit, method="vpt_deep", num_classes=2), tmp_path / "a.safetensors")
    vit.norm.bias.data += 1
    with pytest.raises(ValueError, match="trained on other weights"):
        peft_vision.load(tmp_path / "a.safetensors", vit)


def test_full_fine_tuning_brings_all_weights_so_any_will_do(vit, images, tmp_path):
    model = peft_vision.adapt(vit, method="full", num_classes=2)
    peft_vision.save(model, tmp_path / "a.safetensors")
    vit.norm.bias.data += 1
    assert torch.equal(peft_vision.load(tmp_path / "a.safetensors", vit)(images), model.eval()(images))


@pytest.mark.parametrize("content", [b"", b"no adapter at all"])
def test_a_file_that_is_no_adapter_is_refused(content, vit, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^cannot read .*a\.safetensors: it is no safetensors file"):
        peft_vision.load(path, vit)


def test_names_of_classes_beside_their_number_still_work_and_say_so(vit):
    with pytest.warns(DeprecationWarning, match=r"adapt\(classes=\.\.\.\) is now num_classes=\.\.\."):
        model = peft_vision.adapt(vit, method="linear", num_classes=2, classes=("cat", "dog"))
    assert model.recipe.classes == ("cat", "dog")
    deprecated = pytest.warns(DeprecationWarning, match="adapt")
    with deprecated, pytest.raises(ValueError, match="1 class names for num_classes=2"):
        peft_vision.adapt(vit, method="linear", num_classes=2, classes=("cat",))


@pytest.mark.parametrize("num_classes", [0, -3, 2.0, "10", True, None, (), []])
def test_a_number_of_classes_that_is_none_is_refused(vit, num_classes):
    expected = f"num_classes: got {num_classes!r}, should be a whole number, 1 or more, or names"
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        peft_vision.adapt(vit, method="linear", num_classes=num_classes)


def test_the_public_names_are_those_that_dir_shows():
    assert dir(peft_vision) == ["AdapterSet", "__version__", "adapt", "load", "merged", "save"]
    assert all(callable(getattr(peft_vision, name)) for name in peft_vision.__all__)


def test_a_wrong_option_is_refused_in_the_users_words(vit):
    with pytest.raises(ConfigError, match="unknown rank; VPT takes"):
        peft_vision.adapt(vit, method="vpt_deep", num_classes=2, rank=4)
    with pytest.raises(ValueError, match="unknown method 'vpt_dep'; there are"):
        peft_vision.adapt(vit, method="vpt_dep", num_classes=2)


def test_what_maps_no_image_to_features_is_refused():
    with pytest.raises(ConfigError, match="no family matches Linear: timm's Linear has no forward_features"):
        peft_vision.adapt(torch.nn.Linear(2, 2), method="linear", num_classes=2)


def test_merged_weights_compute_the_same_and_are_gone_behind_the_block(vit, images, tmp_path):
    model = peft_vision.adapt(vit, method="lora", num_classes=4).eval()
    for name, parameter in model.named_parameters():
        if ".up." in name:
            parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    before, logits, features = model.state_dict(), model(images), model.features(images)
    with peft_vision.merged(model) as plain:
        assert plain.state_dict().keys() == vit.state_dict().keys()
        torch.testing.assert_close(model(images), logits)
        torch.testing.assert_close(plain(images), features)
    assert torch.equal(model(images), logits)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_what_is_no_change_of_weights_is_not_merged(vit):
    model = peft_vision.adapt(vit, method="vpt_lora", num_classes=4)
    with (
        pytest.raises(ValueError, match=r"blocks\.0\.context.*no weight of a plain backbone"),
        peft_vision.merged(model),
    ):
        pass


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        peft_vision.train  # noqa: B018
