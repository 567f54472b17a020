"""Every method that `conf/method/` ships, on the tiny backbone."""

from functools import cache
from pathlib import Path
from unittest.mock import patch

import peft_vision
from conftest import tiny_vit
from peft_vision import library
from peft_vision.core import composition
from peft_vision.core.config import CONFIG_DIR
from peft_vision.models.model import Model

METHODS = sorted(
    path.relative_to(CONFIG_DIR / "method").with_suffix("") for path in Path(CONFIG_DIR / "method").rglob("*.yaml")
)
METHODS = [method.as_posix() for method in METHODS]

option = cache(composition.option)  # Hydra takes longer than what is tested


def adapted(method: str, *, architecture: dict | None = None, **options: object) -> Model:
    """A model of 4 classes, in training mode, behind a probe if there is one in front."""
    with patch.object(composition, "option", option), patch.object(library, "option", option):
        model = peft_vision.adapt(tiny_vit(**(architecture or {})), method=method, num_classes=4, **options)
    if model.phase.group == "probe":
        model.begin_next_phase(seed=0)
    return model.train()
