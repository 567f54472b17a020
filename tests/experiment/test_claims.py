"""The experiments in conf/experiment/claims compare with equal numbers of trials, and can be run."""

import re
import shutil
from collections import Counter

import pytest

from asked_runs import asked
from command import call, results
from digit_folders import write_digits
from peft_vision.core.config import CONFIG_DIR

# trials by method and whether a probe is in front, or by optimizer, each with so many seeds; of tuning also final runs
FILES = {
    "vqt_adds": dict.fromkeys(("vqt", "lora", "adaptformer", "vpt_deep", "vqt_lora", "vqt_adaptformer", "vqt_vpt"), 9),
    "lp_ft_cifar10": {"linear": 1, "full": 6, "lp_ft": 6, "lora": 6, "lora, probe first": 6},
    "lp_ft_pacs": {"linear": 1, "full": 6, "lp_ft": 6, "lora": 6, "lora, probe first": 6},
    "pretrain": {"adamw": 3, "64 32 low_rank": 3, "32 32 low_rank": 3, "32 8 low_rank": 3, "32 32 fira": 3}
    | {"32 32 apollo": 3, "lora adamw": 3},
    "galore_paired": {"adamw": 4, "32 32 low_rank": 4},
}
SHIFT = "ood.image_folder.path=OTHERS"
TINY = ("data.train_size=40", "data.val_fraction=0.3", "trainer.epochs=1", "trainer.batch_size=16", "tracker=none")


def trial(name: str, experiment) -> str:
    method, optimizer = experiment.choices["method"], experiment.optimizer
    if name in ("pretrain", "galore_paired"):
        projected = [str(vars(optimizer)[key]) for key in ("rank", "bits", "update") if key in vars(optimizer)]
        return " ".join([*([method] if method != "full" else []), *(projected or ["adamw"])])
    return f"{method}, probe first" if method == "lora" and experiment.method.probe_first else method


@pytest.mark.parametrize("name", FILES)
def test_everyone_has_as_many_trials(name):
    words = ["data=image_folder", "data.path=PICTURES", *([SHIFT] if name.startswith("lp_ft") else [])]
    runs = [(experiment, times) for experiment, times in asked(f"claims/{name}", *words)]
    tried = Counter()
    for experiment, times in runs:
        if experiment.data.stage != "final":
            tried[trial(name, experiment)] += times
        experiment.checks()["method",]()
    seeds = 3 if name.startswith(("lp_ft", "galore")) else 1
    assert tried == {key: seeds * count for key, count in FILES[name].items()}
    finals = sum(times for experiment, times in runs if experiment.data.stage == "final")
    assert round(finals) == (3 * len(FILES[name]) if name == "vqt_adds" else 0)


@pytest.mark.parametrize("name", FILES)
def test_each_file_opens_with_its_command(name):
    text = (CONFIG_DIR / "experiment" / "claims" / f"{name}.yaml").read_text()
    assert re.search(rf"^#   peft-vision experiment=claims/{name} data.path=", text[: text.index("\ndefaults:")], re.M)


ONE = {
    "vqt_adds": ("method=vqt_lora", "optimizer.lr=1e-3", "hydra.sweeper.seeds=[0]"),
    "lp_ft_pacs": ("method=lora", "optimizer.lr=1e-3", "seed=0", "interpolation.alphas=[0,1]"),
    "pretrain": ("optimizer.lr=1e-3",),
    "galore_paired": ("optimizer.lr=1e-4", "seed=0"),
}


@pytest.mark.parametrize("name", ONE)
def test_it_runs_and_goes_on(name, tmp_path):
    root = write_digits(tmp_path)
    small = ("backbone=vit_micro", "backbone.architecture.depth=1", "backbone.checkpoint=null", "backbone.img_size=32")
    words = ["-m", f"experiment=claims/{name}", *ONE[name], *TINY, *small, "data.path=digits", "runs=runs"]
    words += ["ood.image_folder.path=turned"] if name.startswith("lp_ft") else []
    outcome = call(*words, "hydra.sweeper.report=null", cwd=root)
    assert outcome.code == 0, outcome
    done = {path: path.stat().st_mtime_ns for path in results(root)}
    assert len(done) == {"vqt_adds": 4, "lp_ft_pacs": 2, "pretrain": 7, "galore_paired": 2}[name]
    assert call(*words, "hydra.sweeper.report=null", cwd=root).code == 0
    assert {path: path.stat().st_mtime_ns for path in results(root)} == done
    shutil.rmtree(root / "runs")
