"""The runs that the protocols in conf/experiment ask for, composed once for all tests of a process."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from command import call
from peft_vision.runs.experiment import Experiment
from peft_vision.sweep.point import Point, PointResult
from peft_vision.sweep.points import PointSweeper

# by method, on one data set: settings that are tried, then final runs
PROTOCOLS = {
    "vtab/vpt": {"vpt_deep": (240, 5), "vpt_shallow": (240, 5), "linear": (1, 5), "full": (16, 5), "bitfit": (16, 5)},
    "vtab/vpt_paper": {
        "vpt_deep": (240, 5),
        "vpt_shallow": (240, 5),
        "linear": (1, 5),
        "full": (8, 5),
        "bitfit": (8, 5),
    },
    "vtab/vpt_convnext": {"vpt_shallow": (144, 5), "linear": (1, 5), "full": (32, 5)},
    "vtab/vpt_convnext_paper": {"vpt_shallow": (144, 5), "linear": (1, 5), "full": (16, 5)},
    "vtab/vqt": {"vqt": (60, 5), "linear": (1, 5), "head2toe": (20, 5), "full": (16, 5)},
    "vtab/vqt_paper": {"vqt": (60, 5), "linear": (1, 5), "head2toe": (20, 5), "full": (16, 5)},
    "vtab/lora": {"lora": (6, 5)},
    "vtab/lora_paper": {"lora": (1, 0)},
    "vtab/adapters": {
        **dict.fromkeys(
            ("adapter_plus", "adapter_houlsby", "adapter_pfeiffer", "lora", "bitfit", "layer_norm"), (1, 3)
        ),
        "adaptformer": (3, 3),
        "repadapter": (5, 3),
        "convpass": (10, 3),
        "fact_tk": (10, 3),
        "fact_tt": (15, 3),
        "ssf": (42, 3),
    },
    "fgvc/vpt": {"vpt_deep": (216, 3), "vpt_shallow": (216, 3), "linear": (40, 3), "full": (16, 3), "bitfit": (16, 3)},
    "fgvc/vpt_paper": {
        "vpt_deep": (216, 0),
        "vpt_shallow": (216, 0),
        "linear": (40, 0),
        "full": (8, 0),
        "bitfit": (8, 0),
    },
    "lp_ft_vs_ft_paper": {"linear": (3, 0), "full": (30, 0), "lp_ft": (30, 0), "vpt_deep": (9, 0), "lora": (9, 0)},
    "lp_ft_resnet50_paper": {"linear": (3, 0), "full": (30, 0), "lp_ft": (30, 0)},
}
PROTOCOLS["vtab/adapters_paper"] = {method: (tried, 0) for method, (tried, _) in PROTOCOLS["vtab/adapters"].items()}
ON_OTHER_WEIGHTS = {
    f"vtab/vpt_{weights}{suffix}": f"vtab/vpt{suffix}"
    for weights in ("mae", "moco_v3", "swin")
    for suffix in ("", "_paper")
}
"""Protocols that are another one but for the weights and what depends on them."""
RELEASED_FILE = f"backbone.checkpoint={__file__}"
"""Any file, which stands for weights that a user downloads and that no test here reads."""
ONE = {"vtab": "data=vtab/dtd", "fgvc": "data=fgvc/cars"}


def needs_a_file(name: str) -> bool:
    """Whether the weights of a protocol are a file that timm does not have."""
    return "moco" in name or "resnet50" in name


CROSSED = ("optimizer.lr=", "optimizer.weight_decay=")
STANDING = PointSweeper.standing


def without_the_cross(sweeper: PointSweeper, points: Sequence[Sequence[str]]) -> list[tuple[Point, PointResult | None]]:
    """Look at the first rate with every decay and at the first decay with every rate, and count the other points as
    the first: hundreds take long to compose, and no test depends on both at a time."""
    alike: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for point in dict.fromkeys(map(tuple, points)):
        alike.setdefault(apart_from_the_cross(point), []).append(point)
    looked, counted = [], []
    for key, (first, *others) in alike.items():
        near = [point for point in others if len({*point} - {*first}) == 1]
        looked += [first, *near]
        counted += [key] * (len(others) - len(near))
    standing = STANDING(sweeper, looked)
    of = {apart_from_the_cross(found[0].overrides): found for found in reversed(standing)}
    return [*standing, *(of[key] for key in counted)]


def apart_from_the_cross(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if not word.startswith(CROSSED))


@cache
def asked(name: str, *words: str) -> tuple[tuple[Experiment, float], ...]:
    """The experiments and how often each would run, on one data set."""
    with (
        mock.patch("peft_vision.task.plan.Plan.tell") as tell,
        mock.patch.object(PointSweeper, "standing", without_the_cross),
        TemporaryDirectory() as folder,
    ):
        data = ONE.get(name.partition("/")[0], "data=digits")
        file = (RELEASED_FILE,) if needs_a_file(name) else ()
        outcome = call("task=plan", f"experiment={name}", data, *file, *words, cwd=Path(folder))
    assert (outcome.code, outcome.err) == (0, "")
    ((runs,), _) = tell.call_args
    return tuple((run.experiment, run.times) for run in runs)
