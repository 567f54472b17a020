"""Say for all pretrained names of timm on how many of them each method works, over shapes alone.

    nice python scripts/backbone_scan.py             all names, which takes about ten minutes of one core
    nice python scripts/backbone_scan.py 'resnet*'   the names that match patterns
    nice python scripts/backbone_scan.py --wrapped   one architecture of each class: every method that works is
                                                     attached, and the adapted model maps an image to features

Every architecture is built once, without numbers, and maps an image to features.
"""

import copy
import sys
from collections import Counter, defaultdict
from functools import cache

import timm
import torch
from torch import nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.match import trunk_of
from peft_vision.backbone.source import find
from peft_vision.core.composition import complete, option
from peft_vision.core.config import ConfigError, build
from peft_vision.core.output import say
from peft_vision.method.base import Method

ALL = ("linear", "full", "lp_ft", "bitfit")
OTHERS = ("layer_norm", "ssf", "lora", "vpt_deep", "vqt", "adaptformer", "head2toe")
LISTED = 20  # names that are listed with their reasons
FAILURES = (ConfigError, RuntimeError, AttributeError, TypeError, AssertionError, NotImplementedError)


@cache
def method(name: str) -> Method:
    """Return the method of an option of conf/method."""
    return build(complete(option("method", name)), Method, "method")


def built(name: str) -> nn.Module:
    """Return timm's model of an architecture without numbers."""
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0).eval()


def adapted(encoder: Encoder, name: str) -> str | None:
    """Attach a method and return why it does not work on this encoder, or None."""
    try:
        encoder.require(method(name).needs())
        with torch.device("meta"):
            method(name).attach(encoder)
            if name not in ALL:
                size = encoder.vit.pretrained_cfg["input_size"]
                encoder.eval()(torch.empty(1, size[0], *(encoder.trunk.image_size or size[1:])))
    except FAILURES as error:
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        return f"{kind}{error}".splitlines()[0]
    return None


def reasons_of(name: str) -> tuple[str, dict[str, str | None]]:
    """Return the family of an architecture, and for each method why it does not work, or None. Those for every model
    are attached; the others work where the family lacks nothing that they need."""
    encoder = Encoder(built(name))
    found = {method_name: adapted(encoder, method_name) for method_name in ALL}
    for method_name in OTHERS:
        lacking = sorted(method(method_name).needs() & encoder.trunk.lacks.keys())
        found[method_name] = encoder.trunk.lacks[lacking[0]] if lacking else None
    return encoder.trunk.family, found


def scan(names: list[str]) -> None:
    """Print the number of names for each method, and those on which a method for every model does not work."""
    known: dict[str, tuple[str, dict[str, str | None]]] = {}
    families: Counter[str] = Counter()
    failing: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    elsewhere = 0
    for name in names:
        architecture = name.partition(".")[0]
        elsewhere += not find(name).config.hf_hub_id
        try:
            if architecture not in known:
                known[architecture] = reasons_of(architecture)
            family, reasons = known[architecture]
        except FAILURES as error:
            family, reasons = "none", dict.fromkeys((*ALL, *OTHERS), str(error).splitlines()[0].replace(name, "NAME"))
        families[family] += 1
        for method_name, reason in reasons.items():
            if reason is not None:
                failing[method_name][reason].append(name)
    say(f"timm {timm.__version__}: {len(names):,} pretrained names of {len(known):,} architectures")
    say(f"not on the hub, so that backbone.checkpoint=FILE takes what timm's address has: {elsewhere}")
    say("families: " + ", ".join(f"{family} {count:,}" for family, count in families.most_common()))
    for method_name in (*ALL, *OTHERS):
        say(f"{method_name}: {len(names) - sum(map(len, failing[method_name].values())):,}")
    for method_name in ALL:
        for reason, where in sorted(failing[method_name].items(), key=lambda item: -len(item[1])):
            say(f"{method_name} not on {len(where)}: {reason[:300]}: {', '.join(where[:LISTED])}")


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
        for method_name in OTHERS:
            encoder = Encoder(copy.deepcopy(model))
            if not method(method_name).needs() & encoder.trunk.lacks.keys():
                reason = adapted(encoder, method_name)
                if reason is not None:
                    say(f"{method_name} not on {architecture} ({type(model).__name__}): {reason[:300]}")
    say(f"timm {timm.__version__}: one architecture of each of {len(seen)} classes")


def main(arguments: list[str]) -> None:
    """Scan the names that match the patterns among the arguments, or all."""
    patterns = [argument for argument in arguments if not argument.startswith("--")]
    names = timm.list_pretrained(patterns or "*")
    (wrapped if "--wrapped" in arguments else scan)(names)


if __name__ == "__main__":
    main(sys.argv[1:])
