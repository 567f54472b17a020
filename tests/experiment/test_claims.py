"""The experiments in conf/experiment/claims compare with equal numbers of trials, run, and go on."""

import re
from collections import Counter
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from command import call, results
from digit_folders import write_digits
from peft_vision.core.config import CONFIG_DIR

FOLDERS = ("data.path=PICTURES", "+ood.image_folder.path=OTHERS")
LP_FT = dict.fromkeys(("full", "lp_ft", "lora", "lora from a probe"), 6)
# trials of each method or optimizer, a solver's settings within a run as one; a run of one seed each
TRIALS = {
    "vqt_adds": dict.fromkeys(("vqt", "lora", "adaptformer", "vpt_deep", "vqt_lora", "vqt_adaptformer", "vqt_vpt"), 9),
    "lp_ft_cifar10": {**LP_FT, "linear": 1},
    "lp_ft_pacs": {**LP_FT, "linear": 1},
    "pretrain": dict.fromkeys(("adamw", "rank 64", "rank 32", "rank 32, 8 bit", "fira", "apollo", "lora"), 3),
    "galore_paired": {"adamw": 4, "rank 32": 4},
}


def who(name: str, grid: dict[str, Any]) -> str:
    """What competes by this grid."""
    if grid["method"] != "full" or name.startswith("lp_ft"):
        return grid["method"] + " from a probe" * ("method.probe_first" in grid)
    if grid["optimizer"] != "galore_adamw":
        return grid["optimizer"]
    projected = f"rank {grid['optimizer.rank']}" + ", 8 bit" * ("optimizer.bits" in grid)
    return grid.get("optimizer.update", projected)


@pytest.mark.parametrize("name", TRIALS)
def test_everyone_has_as_many_trials(name):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("config", [f"experiment=claims/{name}", *FOLDERS], return_hydra_config=True)
    sweeper = OmegaConf.to_container(config.hydra.sweeper)
    tried = Counter()
    for grid in sweeper["grids"].values():
        tried[who(name, grid)] += len(str(grid.get("optimizer.lr", "1")).split(","))
    assert tried == TRIALS[name]
    assert sweeper.get("seeds") == ([0, 1, 2] if name == "vqt_adds" else None)
    assert name in ("vqt_adds", "pretrain") or sweeper["params"] == {"seed": "0,1,2"}
    assert config.runs == f"runs/claims/{name}"
    text = (CONFIG_DIR / "experiment" / "claims" / f"{name}.yaml").read_text()
    assert re.search(rf"^#   peft-vision experiment=claims/{name} data.path=", text[: text.index("\ndefaults:")], re.M)


TINY = (
    *("backbone=vit_micro", "backbone.architecture.depth=1", "backbone.checkpoint=null", "backbone.img_size=32"),
    *("data.path=digits", "data.train_size=40", "data.val_fraction=0.3", "data.workers=0", "tracker=none"),
    *("trainer.epochs=1", "trainer.batch_size=16", "hydra.sweeper.report=null", "runs=runs"),
)
ONE = {
    "vqt_adds": ("method=vqt_lora", "optimizer.lr=1e-3", "hydra.sweeper.seeds=[0]"),
    "lp_ft_pacs": ("method=lora", "optimizer.lr=1e-3", "seed=0", "interpolation.alphas=[0,1]"),
    "pretrain": ("optimizer.lr=1e-3",),
    "galore_paired": ("optimizer.lr=1e-4", "seed=0"),
}


@pytest.mark.parametrize(("name", "count"), {"vqt_adds": 4, "lp_ft_pacs": 3, "pretrain": 7, "galore_paired": 2}.items())
def test_it_runs_and_the_same_line_again_finds_what_is_done(name, count, tmp_path):
    root = write_digits(tmp_path)
    others = ["ood.image_folder.path=turned"] if name.startswith("lp_ft") else []
    words = ("-m", f"experiment=claims/{name}", *TINY, *ONE[name], *others)
    assert call(*words, cwd=root).code == 0
    done = {path: path.stat().st_mtime_ns for path in results(root)}
    assert len(done) == count
    assert call(*words, cwd=root).code == 0
    assert {path: path.stat().st_mtime_ns for path in results(root)} == done
