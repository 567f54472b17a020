"""Every method that `conf/method/` ships, on the tiny backbone."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import peft_vision
from conftest import tiny_vit
from peft_vision.core.config import CONFIG_DIR
from peft_vision.models.model import Model

METHODS = sorted(
    path.relative_to(CONFIG_DIR / "method").with_suffix("") for path in Path(CONFIG_DIR / "method").rglob("*.yaml")
)
METHODS = [method.as_posix() for method in METHODS if not method.as_posix().startswith("hf_peft")]
"""All but those of another package, which `test_hf_peft.py` looks at."""


def adapted(method: str, *, architecture: dict | None = None, **options: object) -> Model:
    """`adapted_to` the tiny backbone, of this architecture."""
    return adapted_to(tiny_vit(**(architecture or {})), method, **options)


def adapted_to(backbone: nn.Module, method: str, *, num_classes: int = 4, **options: object) -> Model:
    """A model, in training mode, behind a probe if there is one in front."""
    model = peft_vision.adapt(backbone, method=method, num_classes=num_classes, **options)
    if model.phase.group == "probe":
        model.begin_next_phase(seed=0)
    return model.train()


def train(model: Model, images: Tensor, labels: Tensor, *, steps: int = 2) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01, eps=1e-30)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
