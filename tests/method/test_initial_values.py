"""All that a method adds begins as its published code has it: which distribution, and how wide."""

import re
from dataclasses import dataclass
from math import sqrt

import pytest
import torch
from torch import Tensor

from peft_vision.core.composition import option
from peft_vision.method.fact import Factors
from shipped import METHODS, adapted

WIDTH, RANK, PATCH, LAYERS = 64, 8, 8, 3
ARCHITECTURE = {"embed_dim": WIDTH, "patch_size": PATCH, "depth": LAYERS}


@dataclass(frozen=True)
class Uniform:
    """Between -bound and bound."""

    bound: float

    def check(self, values: Tensor) -> None:
        assert values.abs().max() <= self.bound * (1 + 1e-6)
        assert values.abs().max() > self.bound * (1 - 10 / len(values))
        _check_moments(values, mean=0.0, std=self.bound / sqrt(3))


@dataclass(frozen=True)
class Normal:
    """Cut off at `cut` standard deviations, which makes it narrower."""

    mean: float
    std: float
    cut: float | None = None

    def check(self, values: Tensor) -> None:
        _check_moments(values, mean=self.mean, std=self.std * (1.0 if self.cut is None else 0.87963))
        furthest = (values - self.mean).abs().max() / self.std
        assert furthest <= self.cut if self.cut is not None else furthest > 2.5


@dataclass(frozen=True)
class Constant:
    value: float

    def check(self, values: Tensor) -> None:
        assert torch.equal(values, torch.full_like(values, self.value))


@dataclass(frozen=True)
class Identity:
    """Convolutions that pass each channel on."""

    def check(self, values: Tensor) -> None:
        for kernel in values.view(-1, RANK, RANK, 3, 3):
            expected = torch.zeros_like(kernel)
            expected[:, :, 1, 1] = torch.eye(RANK)
            assert torch.equal(kernel, expected)


def _check_moments(values: Tensor, *, mean: float, std: float) -> None:
    """Within five standard errors, of a normal distribution's at most."""
    assert len(values) >= 100
    assert abs(values.mean() - mean) < 5 * std / sqrt(len(values))
    assert abs(values.std() / std - 1) < 5 / sqrt(2 * len(values))


ZERO, ONE = Constant(0.0), Constant(1.0)
TOKENS = Uniform(sqrt(6 / (3 * PATCH**2 + WIDTH)))
SMALL = {r"down\.weight": Normal(0.0, 0.01, cut=2), r"up\.weight": Normal(0.0, 0.01, cut=2), r"\.bias": ZERO}
XAVIER = Uniform(sqrt(6 / (WIDTH + RANK)))  # of the first map, WIDTH to RANK
BOTTLENECK = ("adapter_houlsby", "adapter_pfeiffer", "adapter_plus")
EVERY = ("q", "k", "v", "proj", "fc1", "fc2")
SOURCES = {
    "microsoft/LoRA and peft: Kaiming with a=sqrt(5), which is 1/sqrt(inputs); zero": [
        ("lora", {"targets": EVERY}, {r"fc2\.down": Uniform(1 / sqrt(4 * WIDTH)), r"\.up": ZERO}),
        ("lora", {"targets": EVERY[:-1]}, {r"\.down": Uniform(1 / sqrt(WIDTH)), r"\.up": ZERO}),
    ],
    "JieShibo/PETL-ViT, FacT/fact_tt.py: torch's linear layers": [
        (
            "fact_tt",
            {"rank": RANK},
            {
                r"fact_tt\.u": Uniform(1 / sqrt(WIDTH)),
                r"fact_tt\.v": ZERO,
                r"(qkv|proj|fc1)\.own": Uniform(1 / sqrt(RANK)),
                r"fc2\.own": Uniform(1 / sqrt(4 * RANK)),
            },
        )
    ],
    "JieShibo/PETL-ViT, FacT/fact_tk.py: Xavier of (rank, rank, rank), and of (rank, blocks)": [
        (
            "fact_tk",
            {"rank": RANK},
            {
                r"fact_tk\.u": Uniform(1 / sqrt(WIDTH)),
                r"fact_tk\.v": ZERO,
                r"core": Uniform(sqrt(3) / RANK),
                r"\.own": Uniform(sqrt(6 / (RANK + 12 * LAYERS))),
            },
        )
    ],
    "luogen1996/RepAdapter, repadapter.py: Xavier; zero": [
        ("repadapter", {}, {r"down\.weight": XAVIER, r"down\.bias|\.up$|(qkv|fc1)\.bias": ZERO})
    ],
    "JieShibo/PETL-ViT, convpass/vtab/convpass.py: Xavier; the identity; zero": [
        ("convpass", {}, {r"down\.weight": XAVIER, r"convolution\.weight": Identity(), r"up\.weight|\.bias": ZERO})
    ],
    "JieShibo/PETL-ViT, convpass/vtab/convpass.py: xavier_init": [
        ("convpass", {"initial": "xavier"}, {r"convolution\.weight": Uniform(sqrt(6 / (2 * 9 * RANK)))})
    ],
    "ZhangYuanhan-AI/NOAH, supernet_vision_transformer_timm.py: init_weights, over Kaiming, Xavier and zero": [
        ("lora", {"targets": ["qkv"], "initial": "backbone"}, {r"\.down|\.up": Normal(0.0, 0.02)}),
        (
            "adapter_pfeiffer",
            {"initial": "backbone"},
            {r"down\.weight|up\.weight": Normal(0.0, 0.02), r"\.bias": ZERO},
        ),
    ],
    "visinf/adapter_plus, adapter_plus/vit_adapter.py: houlsby": [
        (method, {}, SMALL | ({r"\.scale": ONE} if method == "adapter_plus" else {})) for method in BOTTLENECK
    ],
    "ShoufaChen/AdaptFormer, models/adapter.py: lora": [
        ("adaptformer", {}, {r"down\.weight": Uniform(1 / sqrt(WIDTH)), r"up\.weight|\.bias": ZERO})
    ],
    "visinf/adapter_plus, adapter_plus/vit_adapter.py: a learned scale begins at the fixed one": [
        (
            "adapter_plus",
            {"scale": 0.5, "initial": "zero_up"},
            {r"down\.weight": Uniform(1 / sqrt(WIDTH)), r"up\.weight|\.bias": ZERO, r"\.scale": Constant(0.5)},
        )
    ],
    "dongzelian/SSF, models/vision_transformer.py: init_ssf_scale_shift": [
        ("ssf", {}, {r"\.scale": Normal(1.0, 0.02), r"\.shift": Normal(0.0, 0.02)})
    ],
    "KMnP/vpt, src/models/vit_prompt/vit.py": [
        ("vpt_shallow", {"num_prompts": 40}, {r"prompts": TOKENS}),
        ("vpt_deep", {"num_prompts": 40}, {r"prompts": TOKENS}),
        (
            "vpt_deep",
            {"num_prompts": 40, "projection": 100},
            {
                r"prompts\.prompts|context\.prompts": Uniform(sqrt(6 / (3 * PATCH**2 + 100))),
                r"project\.weight": Normal(0.0, sqrt(2 / WIDTH)),  # Kaiming's fan-out, for a slope of 0
            },
        ),
    ],
    "andytu28/VQT": [
        ("vqt", {"num_queries": 40, "summary": "weighted_sum"}, {r"queries": TOKENS, r"readout\.weights": ONE})
    ],
}
CASES = [(source, *case) for source, cases in SOURCES.items() for case in cases]


@pytest.mark.parametrize(("source", "method", "options", "published"), CASES, ids=lambda value: str(value)[:40])
def test_it_begins_as_published(source, method, options, published):
    model = adapted(method, architecture=ARCHITECTURE, seed=1, **options)
    added = {name: p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head.")}
    for pattern, distribution in published.items():
        found = [parameter.detach().flatten() for name, parameter in added.items() if re.search(pattern, name)]
        assert found, f"{pattern}: none of {', '.join(added)}"
        distribution.check(torch.cat(found))


def names(method: str) -> set[str]:
    """Itself, or what it combines."""
    parts = option("method", method).get("parts", {})
    return set().union(*map(names, [parts] if isinstance(parts, str) else parts)) if parts else {method}


@pytest.mark.parametrize("method", METHODS)
def test_nothing_that_a_method_adds_is_left_out_here(method):
    """But for a fixed start: what trains of the backbone itself begins as it is."""
    model = adapted(method, architecture=ARCHITECTURE)
    patterns = [pattern for _, name, _, published in CASES if name in names(method) for pattern in published]
    backbone_ids = {
        id(parameter) for module in model.encoder._backbone for parameter in module.parameters(recurse=False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("head.") and id(parameter) not in backbone_ids:
            assert any(re.search(pattern, name) for pattern in patterns), name


@pytest.mark.parametrize(
    ("rank", "blocks", "u", "inside", "core"),
    [(16, None, 0.036, {1: 0.25, 4: 0.125}, None), (32, 144, 0.036, {1: 0.185, 4: 0.185}, 0.054)],
    ids=["tt", "tk"],
)
def test_facts_bounds_on_vit_b16_are_those_of_its_code(rank, blocks, u, inside, core):
    factors = Factors(768, rank, num_blocks=blocks)
    drawn = {count: torch.cat([factors.own(4, added=count > 1).flatten() for _ in range(20)]) for count in inside}
    found = {"u": factors.u, "core": factors.core if core else None, **drawn}
    published = {"u": u, "core": core, **inside}
    assert {name: values.abs().max().item() for name, values in found.items() if values is not None} == pytest.approx(
        {name: bound for name, bound in published.items() if bound is not None}, rel=0.01
    )
