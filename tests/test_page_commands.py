"""The commands of the pages run: few pictures of two classes, a tiny backbone and one epoch stand for what they name.

`ELSEWHERE` says which tests run what cannot run so. The pages of `test_objectives_page.py`, `test_extending.py`, the
notebooks and docs/serving.md are run whole by tests of their own.
"""

import os
import re
import shlex
import shutil
from functools import cache
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from command import Outcome, call
from test_docs import COMMANDS

PAGES = (
    *("README.md", "backbones.md", "commands.md", "explain.md", "features.md", "hub.md", "index.md", "install.md"),
    *("gpu.md", "methods.md", "ood.md", "optimizers.md", "report.md", "results.md", "runs.md", "slurm.md", "sweeps.md"),
    *("trackers.md", "tuning.md"),
)
ELSEWHERE = {
    "--config-dir ": "tests/test_extending.py",
    "completion |peft-vision new": "tests/core",
    "--help|--cfg": "tests/test_cli.py",
    "data=(domainnet|fmow)|living17|in_chans": "tests/data and tests/ood, on miniature copies",
    "hf-hub:|local-dir:|task=push|run=imported|task=import": "tests/task and tests/backbone, with a hub of their own",
    "task.format=onnx": "tests/task/test_export_task.py",
    "task=bench": "tests/task/test_bench_task.py",
    "=vtab/|claims/|pretrain_micro|lp_ft_vs_ft|galore_memory": "tests/experiment and tests/published",
    r"hydra/launcher=|hydra\.launcher\.(devices|prefix)|\.\.\.": "tests/sweep/launch and tests/tracker",
    "task=serve": "tests/serve",
    "ood=elsewhere": "tests/task/test_objectives.py",
    "task=evaluate run=FOLDER data=cifar100": "tests/task/test_evaluate_task.py",
}
CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
TINY = ("backbone=vit_micro", "backbone.architecture.depth=3", "backbone.pretrained=false", "backbone.checkpoint=null")
SMALL = (*TINY, "trainer.epochs=1", "trainer.batch_size=16")
LINES = sorted({" ".join(line.split()) for page, lines in COMMANDS.items() if page.name in PAGES for line in lines})
LIST = r"^[^,{\[(]+,"  # of a word that sweeps; not of a list within brackets
RUN_HERE = [line for line in LINES if not any(re.search(pattern, line) for pattern in ELSEWHERE)]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Holds pictures of two classes, a table and masks of them, photographs, and runs of two methods."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    for name in (f"{kind}/{number:02}.jpg" for kind in ("cat", "dog") for number in range(20)):
        (folder / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "pictures" / name)
    for place in ("people", "MOVED", "art", "night"):
        shutil.copytree(folder / "pictures", folder / place)
    shutil.copytree(folder / "pictures/cat", folder / "photos/2024-05")
    for name in ("a.jpg", "b.jpg", "photos/cat.jpg"):
        shutil.copy(folder / "pictures/cat/00.jpg", folder / name)
    for part, number in product(("train", "val", "test"), range(4)):
        for kind in ("images", "masks"):
            (folder / "camvid" / part / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / f"pictures/cat/{number:02}.jpg", folder / "camvid" / part / "images" / f"{number}.jpg")
        mask = Image.fromarray(rng.integers(0, 12, (32, 32), dtype=np.uint8))
        mask.save(folder / "camvid" / part / "masks" / f"{number}.png")
    rows = [f"camvid/{part}/images/{number}.jpg,{part}" for part in ("train", "val", "test") for number in range(4)]
    shown = [f"{row},{','.join(str((at + label) % 2) for label in range(11))}" for at, row in enumerate(rows)]
    (folder / "labels.csv").write_text("\n".join([f"image,split,{','.join(CAMVID)}", *shown]))
    for method in ("linear", "lora"):
        words = ("data=image_folder", "data.path=pictures", f"method={method}", f"runs={method}", "tracker=none")
        assert call(*words, *SMALL, cwd=folder).code == 0
    return folder


def test_what_runs_elsewhere_is_on_the_pages():
    unused = [pattern for pattern in ELSEWHERE if not any(re.search(pattern, line) for line in LINES)]
    assert unused == []
    assert len(RUN_HERE) > 50


def test_the_options_of_a_command_are_kept_and_lists_are_shortened(here):
    options = ["data.augment=flip_crop", "backbone.frozen_bits=null,8", "trainer.keep=best"]
    line = " ".join(["peft-vision -m data=cifar10 data.path=cifar10 seed=0,1 trainer.epochs=9", *options])
    words = words_here(f"{line},last optimizer.lr=1,2", here)
    assert {*options[:2], "trainer.keep=best,last", "optimizer.lr=1", "data.path=pictures"} <= {*words}
    assert [word for word in words if word.startswith("trainer.epochs=")] == ["trainer.epochs=1"]


@pytest.mark.parametrize("line", RUN_HERE, ids=str)
def test_a_command_of_the_pages_runs(line, here):
    outcome = outcome_of(tuple(words_here(line, here)), here)
    assert outcome.code == 0, outcome


@cache
def outcome_of(words: tuple[str, ...], here: Path) -> Outcome:
    """Run a command once, though several on the pages are the same here."""
    with mock.patch.dict(os.environ, WANDB_MODE="offline"):
        return call(*words, cwd=here)


def shorter(words: list[str]) -> list[str]:
    """Leave two values of each list that is swept, but one of rates beside another list, and one of each but the last
    where settings are chosen: sweeps are tested in tests/sweep."""
    swept = [word for word in words if re.match(LIST, word)]
    rates = [word for word in swept if word.startswith("optimizer.lr=") and len(swept) > 1]
    single = swept[:-1] if "hydra/sweeper=tune" in words else rates
    return [",".join(word.split(",")[: 1 if word in single else 2]) if word in swept else word for word in words]


def words_here(line: str, here: Path) -> list[str]:
    """Return the words of a command for what lies in `here`."""
    (run,) = here.glob("lora/lora-*")
    stand_ins = {"runs=FOLDER": "runs=lora", "run=FOLDER": f"run={run}", "out=FOLDER": "out=out"}
    stand_ins |= {"images=PICTURES": "images=photos", "data.path=photos": "data.path=night"}
    stand_ins |= {"runs=runs/cifar": "runs=lora", "task.layer=5": "task.layer=2"}
    words = [stand_ins.get(word, word) for word in shlex.split(line)[1:]]
    words = [re.sub(r"^(ood\.image_folder\.path=)[^{].*", r"\1art", word) for word in words]
    if any(word.startswith("task=") for word in words):
        return [*words, *["runs=lora"] * ("task=report" in words and "runs=" not in line)]
    own = any(word in ("experiment=camvid", "data=table") for word in words)
    left = r"backbone(?!\.frozen_bits)|trainer\.(epochs|batch_size)|ood=\[|ood=stl10|seed="
    left += r"|data(?!\.(resize|augment|val_fraction)=)" * (not own)
    sweeps = shorter([word for word in words if not re.match(left, word)])
    trials = [re.sub(r"n_trials=\d+", "n_trials=2", word) for word in sweeps]
    trials += ["hydra.sweeper.n_trials=2"] * ("hydra/sweeper=optuna" in words)
    trials += ["hydra.sweeper.seeds=[0]"] * ("hydra/sweeper=tune" in words)
    other = ["ood=image_folder", "ood.image_folder.path=art"] * any(re.match(r"ood=(\[|stl10)", word) for word in words)
    quiet = ["tracker=none"] * all("tracker" not in word for word in words)
    sets = ("backbone.img_size=32",) if own else ("data=image_folder", "data.path=pictures", "data.train_size=null")
    weights = ("backbone.checkpoint=package:vit_micro.safetensors", "backbone.architecture.depth=6")
    seeds = "optimizer.seeds" in line  # for which random weights, each seed's own, are refused
    return [*trials, *other, *quiet, *sets, *SMALL, *weights * seeds]
