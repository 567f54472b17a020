"""Several adapters on one backbone, and batches whose images belong to any of them."""

from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from variants import small

import peft_vision
from conftest import tiny_vit
from peft_vision import AdapterSet
from peft_vision.backbone.linear import Wrapper, innermost, part
from peft_vision.core.config import component
from peft_vision.method.base import Method
from peft_vision.models.model import Model
from shipped import METHODS, adapted_to

OTHERS = {
    "lora of rank 4": ("lora", {"rank": 4, "targets": ("qkv", "fc2")}),
    "dora": ("lora", {"dora": True}),
    "lora on a convolution": ("lora", {"targets": ("q", "*.fc1")}),
    "vpt_deep of 3": ("vpt_deep", {"num_prompts": 3, "layers": "last-1"}),
    "vpt_deep, projected": ("vpt_deep", {"projection": 5}),
    "vpt_shallow of 4": ("vpt_shallow", {"num_prompts": 4, "layers": "last-1"}),
    "vqt, weighted": ("vqt", {"num_queries": 2, "summary": "weighted_sum", "layers": "last-1"}),
    "ssf, lora": ("combined", {"parts": {"lora": {}, "ssf": {}}}),
    "bitfit, lora": ("combined", {"parts": {"bitfit": {}, "lora": {}}}),
    "partial on one": ("partial", {"layers": "last-1"}),
    "mlp head": ("adaptformer", {"head": {"hidden": [8], "norm": "batch"}}),
    "numbers": ("layer_norm", {"objective": "regression"}),
    "8 bit": ("lora", {"frozen_bits": 8}),
    "pad": ("vpt_shallow", {"location": "pad", "num_prompts": 8}),
    "segments": ("lora", {"head": "segment_linear"}),
}
APART = {"full": "it trains", "lp_ft": "it trains", "pad": "a border", "segments": "its head reads a grid"} | {
    "8 bit": "its frozen matrices are held in 8 bit"
}
CASES = {**{method: (method, {}) for method in METHODS}, **OTHERS}


def moved(model: Model) -> Model:
    """The model with other values of all that it tunes."""
    generator = torch.Generator().manual_seed(len(model.recipe.classes))
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def written(folder: Path, vit: nn.Module, name: str, number: int) -> tuple[Path, Model]:
    """The file of an adapter of `number` more classes than two, and the model that it was saved of."""
    method, options = CASES[name]
    options = {key: value for key, value in options.items() if key not in ("parts",)} | (
        {"parts": {part: method_values(part) for part in options["parts"]}} if "parts" in options else {}
    )
    path = folder / f"{len(list(folder.iterdir()))}.safetensors"
    model = moved(adapted_to(vit, method, num_classes=2 + number, **options))
    peft_vision.save(model, path)
    return path, model


def all_written(folder: Path, vit: nn.Module, names: list[str]) -> tuple[AdapterSet, dict[str, Path], dict[str, Model]]:
    """A set of the adapters of these names, each of a case and a number; their files, and the models alone."""
    adapters, files, alone = AdapterSet(vit), {}, {}
    for name in names:
        files[name], alone[name] = written(folder, vit, name[:-2], int(name[-1]))
        adapters.add(name, files[name])
    return adapters, files, alone


def method_values(name: str) -> dict:
    return peft_vision.library.component_values(name, Method, "method", {})


def pixels(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(4))


def differences(adapters: AdapterSet, models: dict[str, Model]) -> dict[str, float]:
    """How far answers in one batch of two images of each adapter, in a mixed order, are from those of single models."""
    order = torch.randperm(2 * len(models), generator=torch.Generator().manual_seed(5)).tolist()
    names = [list(models)[place % len(models)] for place in order]
    images = pixels(len(names))
    answers = adapters(images, names)
    found = {}
    with torch.no_grad():
        for name, model in models.items():
            places = [place for place, other in enumerate(names) if other == name]
            alone = model(images[places])
            mixed = torch.stack([answers[place] for place in places])
            assert mixed.shape == alone.shape, name
            found[name] = float((mixed - alone).abs().max())
    return found


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> tuple[AdapterSet, dict[str, Path], dict[str, Model]]:
    """A set of two adapters of every method, which differ in values and in the number of classes, and of every case."""
    names = [*(f"{name} 1" for name in CASES), *(f"{name} 2" for name in METHODS)]
    return all_written(tmp_path_factory.mktemp("adapters"), tiny_vit(depth=2), names)


def test_a_mixed_batch_gives_what_each_adapter_gives_alone(everything):
    adapters, _, alone = everything
    found = differences(adapters, alone)
    assert {name: far for name, far in found.items() if far > 1e-5} == {}


def test_all_methods_share_passes_but_those_that_change_what_the_backbone_is(everything):
    adapters, _, _ = everything
    assert {name.rpartition(" ")[0] for name in adapters.apart} == set(APART)
    for name, reason in adapters.apart.items():
        assert reason.startswith(APART[name.rpartition(" ")[0]]), reason


def test_one_backbone_is_in_memory_and_each_adapter_once(everything):
    adapters, files, _ = everything
    adapters(pixels(len(files)), list(files))  # so that there are stacks
    models = [adapters.model(name) for name in adapters.names]
    mixture = adapters._mixed()[1]
    tensors = chain.from_iterable([*m.parameters(), *m.buffers()] for m in [*models, mixture.encoder])
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    backbone = sum(tensor.nbytes for tensor in tiny_vit(depth=2).state_dict().values())
    tuned = sum(path.stat().st_size for path in files.values())
    assert sum(held.values()) <= backbone + tuned


def test_the_frozen_products_are_computed_once_for_all_adapters(everything):
    adapters, _, _ = everything
    names = [name for name in adapters.names if name.startswith(("lora", "ssf", "adapt", "bitfit", "linear", "vqt "))]
    adapters(pixels(len(names)), names)
    calls: list[int] = []
    weights = [innermost(adapters._mixed()[1].encoder.part(f"blocks.{index}.mlp.fc1")) for index in range(2)]
    hooks = [weight.register_forward_hook(lambda _, args, out: calls.append(len(out))) for weight in weights]
    adapters(pixels(len(names)), names)
    for hook in hooks:
        hook.remove()
    assert calls == [len(names)] * 2


def test_switching_is_what_load_gives(everything):
    adapters, files, _ = everything
    name = "lora 1"
    assert torch.equal(adapters(pixels(3), name), peft_vision.load(files[name], tiny_vit(depth=2))(pixels(3)))
    assert torch.equal(adapters(pixels(3), name), adapters.model(name)(pixels(3)))
    answers = adapters(pixels(3), [name] * 3)
    torch.testing.assert_close(torch.stack(answers), adapters(pixels(3), name))
    assert [len(answer) for answer in adapters(pixels(2), ["lora 1", "lora 2"])] == [3, 4]


FAMILIES = {
    "EVA-02": {"bitfit"},  # whose q_bias and v_bias are read by attention itself
    "BEiT": {"bitfit"},
    "relative, post-norm": {"bitfit"},  # whose MLP of positions has no images
    "Swin-V2": {"bitfit", "vpt_deep"},
    "ConvNeXt": set(),
}
"""Families, and the methods that they answer apart."""


@pytest.mark.parametrize("family", FAMILIES)
def test_it_does_so_on_every_family(family, tmp_path):
    vit = small(family).eval()
    names = [
        "lora 2",
        "linear 1",
        "lora 1",
        "ssf 1",
        "ssf 2",
        "bitfit 1",
        "layer_norm 1",
        "adaptformer 1",
        "convpass 1",
    ]
    names += [] if family == "ConvNeXt" else ["vpt_deep 1", "vpt_deep of 3 1"]
    adapters, _, alone = all_written(tmp_path, vit, names)
    found = differences(adapters, alone)
    assert {name: far for name, far in found.items() if far > 1e-5} == {}
    assert {CASES[name[:-2]][0] for name in adapters.apart} == FAMILIES[family]


class Whole(Wrapper):
    """A wrapper of an author who says only what all of it computes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.shift = nn.Parameter(torch.zeros(inner.out_features))

    def part(self, tokens: Tensor, rows: slice) -> Tensor:
        return part(self.inner, tokens, rows) + self.shift[rows]

    def merged(self) -> nn.Linear:
        raise NotImplementedError


@component
class Own(Method):
    def attach(self, encoder) -> None:
        for stage in encoder.stages:
            for place in stage.matrices("qkv"):
                encoder.replace(place, Whole(encoder.part(place)))


def test_a_method_of_an_author_needs_nothing_more(tmp_path, vit):
    adapters, _, alone = all_written(tmp_path, vit, ["lora 2"])
    for name, classes in (("a", ["a", "b"]), ("b", ["a", "b", "c"])):
        alone[name] = moved(peft_vision.adapt(vit, method=Own, num_classes=classes))
        peft_vision.save(alone[name], tmp_path / f"{name}.safetensors")
        adapters.add(name, tmp_path / f"{name}.safetensors")
    assert adapters.apart == {}
    assert max(differences(adapters, alone).values()) < 1e-5


def test_an_adapter_of_another_backbone_is_refused_and_says_which_tensors(tmp_path, vit):
    adapters = AdapterSet(vit)
    wider, _ = written(tmp_path, tiny_vit(embed_dim=48, num_heads=2), "lora", 1)
    with pytest.raises(ValueError, match=r"trained on other weights .*other shape .*attn\.qkv\.down\.q"):
        adapters.add("wider", wider)
    other = tiny_vit()
    other.norm.bias.data += 1
    with pytest.raises(ValueError, match="trained on other weights"):
        adapters.add("other", written(tmp_path, other, "linear", 1)[0])
    assert adapters.names == ()


def test_what_cannot_be_asked_is_said(everything):
    adapters, files, _ = everything
    with pytest.raises(ValueError, match=r"^no adapter 'nobody'; there are adapter_houlsby 1, "):
        adapters(pixels(1), ["nobody"])
    with pytest.raises(ValueError, match="2 names of adapters for 3 images"):
        adapters(pixels(3), ["lora 1", "lora 1"])
    with pytest.raises(ValueError, match="there is an adapter 'lora 1' already"):
        adapters.add("lora 1", files["lora 1"])
    few = AdapterSet(tiny_vit(depth=2))
    few.add("a", files["lora 1"])
    few.add("b", files["ssf 1"])
    few(pixels(2), ["a", "b"])
    few.remove("a")
    assert (few.names, len(few), "a" in few) == (("b",), 1, False)
    assert [len(answer) for answer in few(pixels(2), ["b", "b"])] == [3, 3]
