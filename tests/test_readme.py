"""What README.md shows works as it is written."""

import re
from pathlib import Path

import timm
import torch

from command import call, run_folder
from conftest import tiny_vit
from peft_vision.models.model import Model

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_in_python_runs_and_its_comments_are_true(monkeypatch, tmp_path):
    vit, asked = tiny_vit(img_size=224, patch_size=32, depth=7), []

    def small(name: str, *, pretrained: bool) -> torch.nn.Module:
        """As the real one, but neither downloaded nor large."""
        asked.append((name, pretrained))
        return vit

    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timm, "create_model", small)
    before, _, after = example.partition("peft_vision.save(")
    names: dict = {}
    exec(before, names)
    model = names["model"]
    exec(f"import peft_vision\npeft_vision.save({after}", names)
    assert asked == [("vit_base_patch16_224.orig_in21k", True)]
    assert isinstance(model, Model)
    assert model(names["images"]).shape == (2, 100)
    assert torch.equal(names["model"](names["images"]), model.eval()(names["images"]))  # "identical logits"
    assert names["features"].shape == (2, 32)


def first_example() -> list[str]:
    """The words of README's command on DINOv3."""
    (line,) = re.findall(r"^    peft-vision (backbone=dinov3_b16 .*?) +#", README, flags=re.MULTILINE)
    return line.split()


def test_the_example_on_dinov3_says_which_weights_it_cannot_get(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    outcome = call(*offline(first_example()), cwd=tmp_path)
    assert outcome.code == 1
    said = outcome.error
    assert "backbone: cannot get the weights vit_base_patch16_dinov3.lvd1689m: " in said
    assert "backbone.checkpoint=FILE" in said


def test_the_example_on_dinov3_trains_with_a_smaller_model_of_its_kind(tmp_path):
    architecture = [f"+backbone.architecture.{key}" for key in ("depth=2", "embed_dim=64", "num_heads=2")]
    smaller = ("backbone.pretrained=false", "backbone.img_size=32", *architecture)
    short = ("data.train_size=40", "trainer.epochs=1", "trainer.batch_size=20")
    assert call(*offline(first_example()), *smaller, *short, cwd=tmp_path).code == 0
    assert (run_folder(tmp_path / "runs") / "result.json").is_file()


def offline(words: list[str]) -> list[str]:
    """The words with images that are on every machine."""
    return [*(word for word in words if not word.startswith("data=")), "data=digits", "tracker=none"]
