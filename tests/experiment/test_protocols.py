"""The papers' protocols in conf/experiment: what each file tells, and how many runs of what it asks for."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import timm
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from asked_runs import ON_OTHER_WEIGHTS, PROTOCOLS, RELEASED_FILE, asked, needs_a_file
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.outline import shapes_alone
from peft_vision.backbone.source import find
from peft_vision.core.config import CONFIG_DIR
from peft_vision.costs.expected import kind

PAPER = [name for name in PROTOCOLS if name.endswith("_paper")]
FILES = [*PROTOCOLS, *ON_OTHER_WEIGHTS, "lp_ft_vs_ft", "lp_ft_resnet50"]
LP_FT = ["lp_ft_vs_ft", "lp_ft_vs_ft_paper", "lp_ft_resnet50", "lp_ft_resnet50_paper"]
PUBLISHED = {name: f"vpt_vtab_{name.removeprefix('vtab/vpt_').removesuffix('_paper')}" for name in ON_OTHER_WEIGHTS}
MAE_PROBE = "[200,100,40,20,10,4,2,1,0.4,0.2,0.1,0.02,0.01]"  # tune_vtab.py: linear_mae
ONE_SETTING = ("method.num_prompts=10", "optimizer.lr=1", "optimizer.weight_decay=0", "hydra.sweeper.seeds=[42]")


def commands(name: str) -> list[str]:
    """The commands in the head of an experiment's file, each in one line."""
    text = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text().replace(" \\\n#", "")
    return re.findall(r"^#   (peft-vision .*)", text, re.M)


@cache
def composed(name: str) -> dict[str, Any]:
    """The values of an experiment and of its sweep, by dotted key."""
    words = [f"experiment={name}", *([RELEASED_FILE] if needs_a_file(name) else [])]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("config", words, return_hydra_config=True)
    plain = OmegaConf.to_container(config)
    hydra = plain.pop("hydra")
    return dict(flat({**plain, "sweeper": hydra["sweeper"]}))


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield from flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_asks_for_the_runs_of_its_paper_and_all_of_them_can_be_built(name):
    counts, finals, checked = Counter(), Counter(), {}
    for experiment, times in asked(name):
        final = experiment.data.stage == "final"
        (finals if final else counts)[experiment.choices["method"]] += times
        checked.setdefault(kind(experiment), experiment)
    found = {method: (round(count), round(finals[method])) for method, count in counts.items()}
    assert found == PROTOCOLS[name]
    for experiment in checked.values():
        for groups, check in experiment.checks().items():
            if groups != ("data",):  # whose images are not here
                check()


@pytest.mark.parametrize("name", sorted({name.partition("/")[0] for name in PROTOCOLS} & {"vtab", "fgvc"}))
def test_all_data_sets_of_a_benchmark_are_asked_for(name):
    swept = composed({"vtab": "vtab/lora", "fgvc": "fgvc/vpt_paper"}[name])["sweeper/params/data"].split(",")
    options = {f"{name}/{path.stem}" for path in (CONFIG_DIR / "data" / name).glob("*.yaml")}
    assert {*swept} == options
    assert len(options) == {"vtab": 19, "fgvc": 5}[name]


@pytest.mark.parametrize(("name", "original"), ON_OTHER_WEIGHTS.items())
def test_a_protocol_on_other_weights_is_the_same_but_for_these(name, original):
    own, others = composed(name), composed(original)
    differing = {key for key in own.keys() | others.keys() if own.get(key) != others.get(key)}
    values = {key: own[key] for key in differing if not key.startswith("backbone/")}
    expected = {"runs": f"runs/{name}", "sweeper/report/published": [PUBLISHED[name]]}
    if "mae" in name:
        expected["sweeper/grids/linear/optimizer.lr"] = MAE_PROBE
    if name in ("vtab/vpt_mae_paper", "vtab/vpt_swin_paper"):  # as in the code, which averages over the prompts, too
        grids = ("vpt_deep", "vpt_deep_long", "vpt_shallow", "vpt_shallow_long")
        expected |= {f"sweeper/grids/{grid}/method.pool_prompts": True for grid in grids}
    assert values == expected
    assert own["backbone/normalization"] == others["backbone/normalization"]
    assert own["backbone/interpolation"] == others["backbone/interpolation"]


@pytest.mark.parametrize("name", [*ON_OTHER_WEIGHTS, *(name for name in PROTOCOLS if "convnext" in name)])
def test_prompts_of_a_protocol_find_their_place_in_its_backbone(name):
    """The backbone is one of shapes alone."""
    method = "vpt_shallow" if "convnext" in name else "vpt_deep"
    (experiment, times), *_ = asked(name, f"method={method}", *ONE_SETTING)
    assert (times, experiment.method.num_prompts) == (1, 10)
    source = find(experiment.backbone.name)
    with shapes_alone():
        arguments = experiment.backbone.in_timm()[1]
        vit = timm.create_model(source.registered, num_classes=0, **arguments)
        encoder = Encoder(vit, experiment.backbone.preprocessing())
        encoder.requires_grad_(False)
        encoder.require(experiment.method.needs())
        experiment.method.attach(encoder)
    tuned = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    widths = {"swin": 2 * 128 + 2 * 256 + 18 * 512 + 2 * 1024, "convnext": 12 * (224 + 10)}
    assert tuned == 10 * next((count for word, count in widths.items() if word in name), 12 * 768)


@pytest.mark.parametrize("name", FILES)
def test_each_file_opens_with_command_cost_and_published_result(name):
    text = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text()
    head = text[: text.index("\ndefaults:")]
    assert head.startswith("# @package _global_\n")
    assert re.search(rf"^#   peft-vision (task=reproduce )?experiment={name}\b", head, re.M)
    assert re.search(r"^# Cost: \S", head, re.M) or name.startswith("lp_ft")
    assert re.search(r"^# Published", head, re.M) or name == "lp_ft_vs_ft"
    assert ("# The slips:" in head) == name.endswith("_paper")


@pytest.mark.parametrize("name", PAPER)
def test_papers_that_choose_by_test_images_say_so_in_every_run(name):
    stages = {experiment.data.stage for experiment, _ in asked(name)}
    peeks = {"vtab/lora_paper", "vtab/adapters_paper", "lp_ft_vs_ft_paper", "lp_ft_resnet50_paper"}
    assert stages == ({"peek"} if name in peeks else {"all"} if name == "fgvc/vpt_paper" else {"tune", "final"})


def test_honest_protocols_normalise_as_the_weights_expect_and_papers_as_published():
    for name, mean in (("vtab/vpt", 0.5), ("vtab/vpt_paper", 0.485)):
        (experiment, _), *_ = asked(name)
        preprocessing = experiment.data.adjusted(experiment.backbone.preprocessing())
        assert preprocessing.mean[0] == mean
        assert (preprocessing.size, experiment.data.resize, experiment.data.augment) == (224, "squash", "none")
        assert experiment.trainer.keep == "last"


def test_fgvc_is_shown_as_in_the_paper():
    (experiment, _), *_ = asked("fgvc/vpt")
    preprocessing = experiment.data.adjusted(experiment.backbone.preprocessing())
    assert (preprocessing.size, preprocessing.crop) == (224, 224 / 256)
    assert (experiment.data.resize, experiment.data.augment) == ("crop", "crop_flip")


def test_lp_ft_on_a_resnet_moves_statistics_in_fine_tuning_alone():
    runs = asked("lp_ft_resnet50")
    assert {experiment.backbone.name.partition(".")[0] for experiment, _ in runs} == {"resnet50"}
    evaluates = {experiment.choices["method"]: getattr(experiment.method, "eval_mode", True) for experiment, _ in runs}
    assert evaluates == {"linear": True, "full": False, "lp_ft": True}
    assert sum(times for _, times in runs) == 3 * (1 + 6 + 6)


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name in LP_FT for line in commands(name) if "data=living17" in line]
)
def test_commands_for_living_17_show_its_images_as_the_code_of_lp_ft_does(name, line):
    swept = ("method=", "backbone.checkpoint=")
    words = [word for word in shlex.split(line)[1:] if not word.startswith(swept)]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        data = compose("config", words).data
    assert words[0] == f"experiment={name}"
    assert (data.resize, data.crop, data.augment) == ("crop", 224 / 256, "crop_flip")


@pytest.mark.parametrize("name", LP_FT)
def test_every_head_of_lp_ft_has_a_command_for_living_17(name):
    assert ["data=living17" in line for line in commands(name)] == [False, True]
