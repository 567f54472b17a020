"""Attach every method that works to one architecture of each class of timm, over shapes alone, and map an image to
features; print what fails, though its family says that it works.

    nice python scripts/backbone_scan.py             all classes
    nice python scripts/backbone_scan.py 'resnet*'   the classes of the names that match patterns
"""

import copy
import sys
from functools import cache

import timm
import torch
from torch import nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.match import trunk_of
from peft_vision.backbone.outline import shapes_alone
from peft_vision.core.composition import complete, option
from peft_vision.core.config import ConfigError, build
from peft_vision.core.output import say
from peft_vision.method.base import Method

METHODS = ("layer_norm", "ssf", "lora", "vpt_deep", "vqt", "adaptformer", "head2toe")
FAILURES = (ConfigError, RuntimeError, AttributeError, TypeError, AssertionError, NotImplementedError)


@cache
def method(name: str) -> Method:
    """Return the method of an option of conf/method."""
    return build(complete(option("method", name)), Method, "method")


def built(name: str) -> nn.Module:
    """Return timm's model of an architecture without numbers."""
    with shapes_alone():
        return timm.create_model(name, num_classes=0).eval()


def adapted(encoder: Encoder, name: str) -> str | None:
    """Attach a method and return why it does not work on this encoder, or None."""
    try:
        encoder.require(method(name).needs())
        with torch.device("meta"):
            method(name).attach(encoder)
            size = encoder.vit.pretrained_cfg["input_size"]
            encoder.eval()(torch.empty(1, size[0], *(encoder.trunk.image_size or size[1:])))
    except FAILURES as error:
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        return f"{kind}{error}".splitlines()[0]
    return None


def wrapped(names: list[str]) -> None:
    """Print for one architecture of each of timm's classes which methods fail, though its family says they work."""
    seen: set[str] = set()
    for architecture in dict.fromkeys(name.partition(".")[0] for name in names):
        model = built(architecture)
        if type(model).__name__ in seen:
            continue
        seen.add(type(model).__name__)
        try:
            trunk_of(model)
        except ConfigError:
            continue
        for method_name in METHODS:
            encoder = Encoder(copy.deepcopy(model))
            if not method(method_name).needs() & encoder.trunk.lacks.keys():
                reason = adapted(encoder, method_name)
                if reason is not None:
                    say(f"{method_name} not on {architecture} ({type(model).__name__}): {reason[:300]}")
    say(f"timm {timm.__version__}: one architecture of each of {len(seen)} classes")


def main(arguments: list[str]) -> None:
    """Try the classes of the names that match the patterns in `arguments`, or of all."""
    names = timm.list_pretrained(arguments or "*")
    wrapped(names)


if __name__ == "__main__":
    main(sys.argv[1:])
