"""The papers' protocols in conf/experiment: what each file tells, and how many runs of what it asks for."""

import re
from collections import Counter
from unittest import mock

import pytest

from command import call
from peft_vision.core.config import CONFIG_DIR
from peft_vision.costs.expected import kind

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
}
PROTOCOLS["vtab/adapters_paper"] = {method: (tried, 0) for method, (tried, _) in PROTOCOLS["vtab/adapters"].items()}
ONE = {"vtab": "data=vtab/dtd", "fgvc": "data=fgvc/cars", "lp_ft_vs_ft_paper": "data=digits"}
PAPER = [name for name in PROTOCOLS if name.endswith("_paper")]


def asked(name, *words, cwd):
    """The experiments and how often each would run."""
    with mock.patch("peft_vision.task.plan.Plan.tell") as tell:
        outcome = call("task=plan", f"experiment={name}", *words, cwd=cwd)
    assert (outcome.code, outcome.err) == (0, "")
    ((runs,), _) = tell.call_args
    return [(run.experiment, run.times) for run in runs]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_asks_for_the_runs_of_its_paper_and_all_of_them_can_be_built(name, tmp_path):
    counts, finals, checked = Counter(), Counter(), {}
    for experiment, times in asked(name, ONE[name.partition("/")[0]], cwd=tmp_path):
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
def test_all_data_sets_of_a_benchmark_are_asked_for(name, tmp_path):
    runs = asked({"vtab": "vtab/lora", "fgvc": "fgvc/vpt_paper"}[name], cwd=tmp_path)
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
def test_papers_that_choose_by_test_images_say_so_in_every_run(name, tmp_path):
    stages = {experiment.data.stage for experiment, _ in asked(name, ONE[name.partition("/")[0]], cwd=tmp_path)}
    peeks = {"vtab/lora_paper", "vtab/adapters_paper", "lp_ft_vs_ft_paper"}
    assert stages == ({"peek"} if name in peeks else {"all"} if name == "fgvc/vpt_paper" else {"tune", "final"})


def test_honest_protocols_normalise_as_the_weights_expect_and_papers_as_published(tmp_path):
    for name, mean in (("vtab/vpt", 0.5), ("vtab/vpt_paper", 0.485)):
        (experiment, _), *_ = asked(name, "data=vtab/dtd", cwd=tmp_path)
        preprocessing = experiment.data.adjusted(experiment.backbone.preprocessing())
        assert preprocessing.mean[0] == mean
        assert (preprocessing.size, experiment.data.resize, experiment.data.augment) == (224, "squash", "none")
        assert experiment.trainer.keep == "last"


def test_fgvc_is_shown_as_in_the_paper(tmp_path):
    (experiment, _), *_ = asked("fgvc/vpt", "data=fgvc/cars", cwd=tmp_path)
    preprocessing = experiment.data.adjusted(experiment.backbone.preprocessing())
    assert (preprocessing.size, preprocessing.crop) == (224, 224 / 256)
    assert (experiment.data.resize, experiment.data.augment) == ("crop", "crop_flip")
