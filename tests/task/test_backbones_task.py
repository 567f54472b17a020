"""`peft-vision task=backbones`: the families in a table, and what one backbone is."""

import json
import re
from collections import Counter
from io import StringIO

import pytest
import timm
import torch
from safetensors.torch import save_file

import peft_vision
from backbone.families.any_variants import small_any
from backbone.families.variants import small
from command import call
from peft_vision.backbone.outline import outline_of, shapes_alone
from peft_vision.backbone.source import find
from peft_vision.core.composition import compared_methods
from peft_vision.core.config import CONFIG_DIR
from peft_vision.core.output import Console
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.task.backbones import families, print_facts, print_families, working_methods

HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic", "crop": 1.0}
MODELS = {
    "vit": lambda: small("ViT"),
    "distilled_vit": lambda: small("distilled DeiT"),
    "eva": lambda: small("DINOv3"),
    "beit": lambda: small("BEiT"),
    "relative_vit": lambda: small("relative"),
    "swin": lambda: small("Swin"),
    "convnext": lambda: small("ConvNeXt", depths=(1, 1, 1, 2)),
    "any": lambda: small_any("ResNet"),
}
"""A small model of each family of the table in docs/backbones.md."""


def shown(tmp_path, *arguments):
    outcome = call("task=backbones", *arguments, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


def test_table_counts_every_pretrained_model_by_family_and_method(tmp_path):
    lines = shown(tmp_path).splitlines()
    assert max(map(len, lines)) <= 80
    heads, *rows = (line.split() for line in lines[2:])
    assert heads == ["method", *(family.removesuffix("_vit") for family in families().families), "all"]
    by_method = {row[0]: row[1:] for row in rows if len(row) == len(heads)}
    assert set(compared_methods()) <= by_method.keys()
    if timm.__version__ == families().timm:
        assert by_method["linear"][-1] == f"{len(timm.list_pretrained()):,}"
    assert by_method["vqt"][-2] == "-"
    assert "with method.location=pad" in {line.partition(": ")[2] for line in lines}
    assert any("ResNet 170, EfficientNet 119" in line for line in lines)
    assert lines[-1].startswith("backbone=NAME, or backbone=timm backbone.name=NAME")


@pytest.mark.parametrize("width", [80, 120])
def test_table_fits_a_terminal(width):
    file = StringIO()
    print_families(families(), Console(width=width, file=file))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < 60


@pytest.mark.parametrize("family", list(MODELS))
def test_counts_follow_the_documented_table(family):
    """scripts/backbone_table.py writes the counts; docs/backbones.md says what works on a family."""
    row = families().families[family]
    assert row.methods.keys() == documented()[family].keys() == set(compared_methods())
    for method, cell in documented()[family].items():
        with_option = row.options.get(method)
        if cell == "yes":
            assert row.methods[method] > 0.95 * row.names
        elif cell.startswith("`"):
            assert (with_option.option, with_option.names) == (cell.strip("`"), row.names)
        else:
            assert (row.methods[method], with_option) == (0, None)
    assert sum(row.classes.values()) == row.names
    assert find(row.example).in_registry


def test_classes_of_the_table_are_those_of_timm():
    counts = Counter(
        name.partition(".")[0] for name in timm.list_pretrained(["beit_*", "beitv2_*", "dbot*", "xception*"])
    )
    by_class = Counter()
    for architecture, count in counts.items():
        by_class[outline_of(architecture, repr({})).cls] += count
    if timm.__version__ == families().timm:
        held = {cls: count for row in families().families.values() for cls, count in row.classes.items()}
        assert all(held[cls] == count for cls, count in by_class.items())


def test_a_backbone_is_described_without_its_weights(tmp_path):
    text = shown(tmp_path, "backbone=vit_b14_dinov2_reg")
    said = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert said["name"] == "vit_base_patch14_reg4_dinov2.lvd142m"
    assert said["class"].startswith("VisionTransformer of timm ")
    assert said["class"].endswith("patches of 14 px")
    with shapes_alone():
        vit = timm.create_model("vit_base_patch14_reg4_dinov2.lvd142m", num_classes=0)
    assert said["parameters"] == f"{sum(p.numel() for p in vit.parameters()):,}, without a classifier"
    assert said["images"].startswith("518 px, bicubic, crop 1, mean 0.485/0.456/0.406")
    assert said["weights"].startswith("timm/vit_base_patch14_reg4_dinov2.lvd142m on the hub")
    assert said["weights"].endswith("/timm/vit_base_patch14_reg4_dinov2.lvd142m)")
    assert said["features"] == "768 numbers of an image; family vit, 12 layers"
    assert said["licence"] == "apache-2.0"
    assert "vpt_deep" in said["methods"].split(", ")


def test_a_backbone_on_which_no_method_works_is_described_with_the_reason(tmp_path):
    (tmp_path / "own").mkdir()
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "out_features": 16, "global_pool": "merge"}
    held = {"architecture": "qwen3_vit_88m_enc", "model_args": sizes, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    (tmp_path / "own/config.json").write_text(json.dumps(held))
    words = ("backbone=timm", "backbone.name=local-dir:own", "backbone.pretrained=false")
    text = shown(tmp_path, *words)
    assert "none: backbone: no family matches qwen3_vit_88m_enc: timm's Qwen3VitEncoder, built with glob" in text
    assert "linear, " in shown(tmp_path, *words, "backbone.pool=avg")


def test_a_folder_is_described_by_its_config(tmp_path):
    (tmp_path / "own").mkdir()
    sizes = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    own = {"input_size": [5, 32, 32], "fixed_input_size": True, "mean": [0.5], "std": [0.5], "license": "mit"}
    held = {"architecture": "vit_tiny_patch16_224", "model_args": sizes, "pretrained_cfg": own}
    (tmp_path / "own/config.json").write_text(json.dumps(held))
    vit = timm.create_model("vit_tiny_patch16_224", **sizes, img_size=32, in_chans=5)
    save_file(vit.state_dict(), tmp_path / "own/model.safetensors")
    text = shown(tmp_path, "backbone=timm", "backbone.name=local-dir:own")
    assert f"the folder {tmp_path / 'own'}" in text
    assert "5 channels" in text
    assert "licence      mit" in text


def test_a_name_that_is_none_is_refused(tmp_path):
    said = call("task=backbones", "backbone=timm", "backbone.name=vit_bse_patch16_224", cwd=tmp_path).error
    assert said == "backbone.name: timm has no model 'vit_bse_patch16_224'; did you mean vit_base_patch16_224?"


def documented() -> dict[str, dict[str, str]]:
    """What docs/backbones.md says of each method, by family: yes, an option, or nothing."""
    text = (CONFIG_DIR.parent / "docs/backbones.md").read_text()
    rows = [row.strip("| ").split(" | ") for row in re.findall(r"^\| `.*$", text[text.index("| `method=`") :], re.M)]
    heads = [re.findall(r"`(\w+)`", head) for head in rows[0][1:]]
    found: dict[str, dict[str, str]] = {family: {} for head in heads for family in head}
    for row in rows[1:]:
        for method in re.findall(r"`(\w+)`", row[0]):
            for place, head in enumerate(heads, start=1):
                cell = row[place].strip(" |") if place < len(row) else ""
                found |= {family: {**found[family], method: cell} for family in head}
    return found


@pytest.mark.parametrize("family", MODELS)
def test_documentation_says_what_works_on_a_family(family):
    reasons = working_methods(MODELS[family](), Preprocessing(size=32, **HALVES))
    table = documented()[family]
    assert table.keys() == reasons.keys()
    assert {method for method, cell in table.items() if cell == "yes"} == {
        method for method, reason in reasons.items() if reason is None
    }


OPTIONS = [
    (family, method, cell)
    for family, table in documented().items()
    for method, cell in table.items()
    if cell.startswith("`")
]


@pytest.mark.parametrize(("family", "method", "cell"), OPTIONS)
def test_options_that_the_documentation_names_make_a_method_work(family, method, cell):
    key, _, value = cell.strip("`").partition("=")
    values = {key: value.strip("[]").split(",") if value.startswith("[") else value}
    if method == "vpt_shallow":
        values["num_prompts"] = 4
    model = peft_vision.adapt(MODELS[family](), method=method, num_classes=3, **values)
    size = model.encoder.preprocessing.size
    logits = model(torch.rand(2, 3, size, size))
    logits.sum().backward()
    assert logits.shape == (2, 3)
    assert any(parameter.grad is not None for parameter in model.encoder.parameters())


def test_the_backbone_says_which_methods_work_and_why_others_do_not(tmp_path):
    text = shown(tmp_path, "backbone=resnet50", "backbone.pretrained=false")
    said = dict(re.split(r":? {1,}", line, maxsplit=1) for line in text.splitlines() if line.startswith("methods"))
    assert {"linear", "lp_ft", "lora", "ssf", "partial"} <= set(said["methods"].split(", "))
    (line,) = [line for line in text.splitlines() if line.startswith("not head2toe:")]
    assert "resnet50 is computed by timm's own forward" in line


def test_a_terminal_breaks_texts_behind_their_labels():
    file = StringIO()
    found = {"name": "x", "methods": ", ".join(["adapter_pfeiffer"] * 12), "not vqt:": "windows"}
    print_facts(found, Console(width=80, file=file, force_terminal=True, color_system=None))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines[0] == "name     x"
    assert all(line.startswith(" " * 9) for line in lines[2:-1])
    assert lines[-1] == "not      vqt: windows"


def test_weights_at_an_address_are_named_by_it(tmp_path):
    text = shown(tmp_path, "backbone=timm", "backbone.name=legacy_seresnet18.in1k")
    assert re.search(r"^weights +the file at https://\S+seresnet18\S+\.pth$", text, re.M)
