"""What README.md shows works as it is written."""

import re
from pathlib import Path

import timm
import torch

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
