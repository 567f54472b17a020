"""The papers' protocols in conf/experiment: what each file tells, and how many runs of what it asks for."""

import re
from collections import Counter

import pytest

from asked_runs import PROTOCOLS, asked
from peft_vision.core.config import CONFIG_DIR
from peft_vision.costs.expected import kind

PAPER = [name for name in PROTOCOLS if name.endswith("_paper")]


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
    protocol, method = {"vtab": ("vtab/lora", "lora"), "fgvc": ("fgvc/vpt_paper", "linear")}[name]
    runs = asked(protocol, f"method={method}", everywhere=True)
    options = {f"{name}/{path.stem}" for path in (CONFIG_DIR / "data" / name).glob("*.yaml")}
    assert {experiment.choices["data"] for experiment, _ in runs} == options
    assert len(options) == {"vtab": 19, "fgvc": 5}[name]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_file_opens_with_command_cost_and_published_result(name):
    text = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text()
    head = text[: text.index("\ndefaults:")]
    assert head.startswith("# @package _global_\n")
    assert re.search(rf"^#   peft-vision (task=reproduce )?experiment={name}\b", head, re.M)
    assert re.search(r"^# Cost: \S", head, re.M) or name.startswith("lp_ft")
    assert re.search(r"^# Published", head, re.M)
    assert ("# The slips:" in head) == (name in PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_papers_that_choose_by_test_images_say_so_in_every_run(name):
    stages = {experiment.data.stage for experiment, _ in asked(name)}
    peeks = {"vtab/lora_paper", "vtab/adapters_paper", "lp_ft_vs_ft_paper"}
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
    own_weights = ("backbone.pretrained=true", "backbone.checkpoint=null")
    runs = asked("lp_ft_resnet50", "data=digits", *own_weights)
    assert {experiment.backbone.name.partition(".")[0] for experiment, _ in runs} == {"resnet50"}
    evaluates = {experiment.choices["method"]: getattr(experiment.method, "eval_mode", True) for experiment, _ in runs}
    assert evaluates == {"linear": True, "full": False, "lp_ft": True}
    assert sum(times for _, times in runs) == 3 * (1 + 6 + 6)
