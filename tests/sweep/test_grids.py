"""Several grids in one sweep, and the experiment that ends in a table of what they came to."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest
from hydra.errors import HydraException
from PIL import Image

from command import call, experiment, results
from digit_folders import DATA, write_digits
from peft_vision.sweep.grids import SweepOfGrids
from peft_vision.task import train

FULL = {"method": "full", "optimizer.lr": "0.1,0.2"}
LP_FT = {"method": "lp_ft", "optimizer.lr": "0.3", "trainer.epochs": 3}
WAY_OUT = """add one: '+hydra.sweeper.grids.{0}={{method: {0}, optimizer.lr: "1e-3,1e-2"}}'"""


def points(
    grids: Mapping[str, Mapping[str, object]], *overrides: str, params: Mapping[str, object] | None = None
) -> list[str]:
    """What a sweep over them runs."""
    sweeper = SweepOfGrids(grids, params=params, report=None)
    sweeper.hydra_context = SimpleNamespace(config_loader=None)
    return [" ".join(point) for point in sweeper.points(sweeper.asked(overrides))]


def test_each_grid_has_values_of_its_own_and_the_command_lines_are_crossed_with_all():
    found = points({"full": FULL, "lp_ft": LP_FT}, "seed=0,1", "data=digits")
    assert found == [
        "method=full optimizer.lr=0.1 seed=0 data=digits",
        "method=full optimizer.lr=0.1 seed=1 data=digits",
        "method=full optimizer.lr=0.2 seed=0 data=digits",
        "method=full optimizer.lr=0.2 seed=1 data=digits",
        "method=lp_ft optimizer.lr=0.3 trainer.epochs=3 seed=0 data=digits",
        "method=lp_ft optimizer.lr=0.3 trainer.epochs=3 seed=1 data=digits",
    ]


def test_a_null_of_a_config_file_is_none_in_the_runs_too():
    """As a text it would be refused."""
    found = points({"full": {**FULL, "trainer.clip_norm": None}}, params={"data.train_size": None, "seed": 1})
    rest = "data.train_size=null seed=1"
    assert found == [f"method=full optimizer.lr={lr} trainer.clip_norm=null {rest}" for lr in (0.1, 0.2)]


def test_a_value_of_the_command_line_replaces_the_grids():
    found = points({"full": FULL, "lp_ft": LP_FT}, "optimizer.lr=1,2")
    assert found == [
        "method=full optimizer.lr=1",
        "method=full optimizer.lr=2",
        "method=lp_ft optimizer.lr=1 trainer.epochs=3",
        "method=lp_ft optimizer.lr=2 trainer.epochs=3",
    ]


def test_a_point_of_two_grids_is_run_once():
    found = points({"wide": FULL, "narrow": {"method": "full", "optimizer.lr": "0.2,0.4"}})
    assert found == [f"method=full optimizer.lr={lr}" for lr in (0.1, 0.2, 0.4)]


@pytest.mark.parametrize(("method", "rates"), [("full", [0.1, 0.2]), ("lp_ft", [0.3]), ("lp_ft,full", [0.1, 0.2, 0.3])])
def test_a_method_of_the_command_line_chooses_among_the_grids(method, rates):
    found = points({"full": FULL, "lp_ft": LP_FT}, f"method={method}")
    assert [float(point.split("optimizer.lr=")[1].split()[0]) for point in found] == rates


def test_it_chooses_within_a_grid_of_several_methods():
    found = points({"peft": {"method": "lora,ssf", "seed": "0,1"}}, "method=ssf")
    assert found == ["method=ssf seed=0", "method=ssf seed=1"]


def test_a_grid_of_no_method_takes_any():
    found = points({"slow": {"optimizer.lr": 0.1}, "full": FULL}, "method=lora,full")
    assert found == [
        "optimizer.lr=0.1 method=full",
        "optimizer.lr=0.1 method=lora",
        "method=full optimizer.lr=0.1",
        "method=full optimizer.lr=0.2",
    ]


@pytest.mark.parametrize("method", ["lora", "full,lora"])
def test_a_method_that_no_grid_has_is_refused(method):
    said = f"method: no grid of this sweep is of lora; there are full, lp_ft; {WAY_OUT.format('lora')}"
    with pytest.raises(HydraException, match=f"^{re.escape(said)}$"):
        points({"full": FULL, "lp_ft": LP_FT}, f"method={method}")


def test_a_sweep_of_no_grid_is_that_of_the_command_line():
    assert points({}, "seed=0,1", "method=full,lora") == [
        "seed=0 method=full",
        "seed=0 method=lora",
        "seed=1 method=full",
        "seed=1 method=lora",
    ]


LBFGS = {"method": "linear", "optimizer": "lbfgs"}


def test_a_value_of_what_grids_choose_is_for_the_grids_that_name_it():
    grids = {"full": FULL, "lp_ft": LP_FT, "linear": LBFGS}
    found = points(grids, "optimizer.lr=1", "trainer.epochs=5", "probe.C=2", "optimizer.eps=1e-6")
    assert found == [
        "method=full optimizer.lr=1 trainer.epochs=5 probe.C=2 optimizer.eps=1e-06",
        "method=lp_ft optimizer.lr=1 trainer.epochs=5 probe.C=2 optimizer.eps=1e-06",
        "method=linear optimizer=lbfgs trainer.epochs=5 probe.C=2 optimizer.eps=1e-06",  # nobody names it: for all
    ]


def test_a_key_with_a_plus_is_the_same_key():
    """Such as those of method.config, before which the command itself writes `++`."""
    grids = {"linear": {"method": "linear"}, "lora": {"method": "lora", "method.rank": "4,8"}}
    assert points(grids, "++method.rank=16") == ["method=linear", "method=lora ++method.rank=16"]
    grids = {"lora": {"method": "lora", "+method.config.r": "4,8"}}
    assert points(grids, "method.config.r=16") == ["method=lora +method.config.r=16"]
    assert points({}, "++seed=1", params={"seed": "2,3"}) == ["++seed=1"]


@pytest.mark.parametrize("grids", [3, {"full": 3}, ["full"]])
def test_what_is_no_grid_is_refused(grids):
    with pytest.raises(HydraException, match=r"^hydra.sweeper.grids: got .*, should be overrides by name"):
        points(grids, "seed=0")


def test_a_user_may_write_grids_of_their_own(tmp_path):
    words = experiment(
        tmp_path,
        "own",
        "defaults: [smoke, override /data: digits, override /tracker: none]\n"
        "hydra:\n"
        "  mode: MULTIRUN\n"
        "  sweeper:\n"
        '    params: { seed: "0,1" }\n'
        "    grids:\n"
        '      probe: { method: linear, optimizer.lr: "0.1,0.2" }\n'
        "      solved: { method: linear, optimizer: lbfgs, optimizer.C: [1] }\n",
    )
    outcome = call(*words, "backbone=vit_micro", "seed=2", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    configs = [json.loads(path.read_text())["config"] for path in results(tmp_path)]
    assert {config["seed"] for config in configs} == {2}
    optimizers = [config["optimizer"] for config in configs]
    assert sorted(str(optimizer.get("lr", optimizer.get("C"))) for optimizer in optimizers) == ["0.1", "0.2", "[1.0]"]


PAPER = (*DATA[1:], "experiment=lp_ft_vs_ft", "tracker=none", "ood=image_folder", "backbone=vit_micro")
PAPER = (*PAPER, "backbone.checkpoint=null", "backbone.architecture.depth=2", "trainer.epochs=2", "probe.C=[1e-2,1]")
PAPER = (*PAPER, "ood.image_folder.path={inverted: inverted, turned: turned}", "interpolation.alphas=[0,0.5,1]")


@pytest.fixture(scope="module")
def compared(nobodys_store, tmp_path_factory) -> Path:
    """Where the probe, full fine-tuning and LP-FT were compared, with two seeds each."""
    root = write_digits(tmp_path_factory.mktemp("compared"))
    tuned = ("method=full,lp_ft", "optimizer.lr=1e-3", "seed=0,1")
    solved = ("method=linear", "optimizer=lbfgs", "optimizer.C=[1e-2,1]", "seed=0,1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "show_pictures", lambda *_: None)  # of each run, which nobody looks at here
        for arguments in (tuned, solved, ("method=lora", "seed=0")):
            outcome = call(*PAPER, *arguments, cwd=root, reports="method=lora" in arguments)  # of all that has run
            assert (outcome.code, outcome.err) == (0, ""), outcome
    (root / "said").write_text(outcome.out)
    return root


def test_the_comparison_of_lp_ft_runs_what_its_grids_say(compared):
    found = [json.loads(path.read_text()) for path in results(compared / "runs" / "lp_ft_vs_ft")]
    optimizers = {
        (run["choices"]["method"], run["choices"]["optimizer"], run["seed"], run["config"]["optimizer"].get("lr"))
        for run in found
    }
    tuned = {(method, "sgd", seed, 1e-3) for method in ("full", "lp_ft") for seed in (0, 1)}
    solved = {("linear", "lbfgs", seed, None) for seed in (0, 1)}
    assert optimizers == tuned | solved | {("lora", "adamw", 0, lr) for lr in (3e-4, 1e-3, 3e-3)}
    assert len(found) == len(optimizers)
    decays = {run["config"]["optimizer"].get("weight_decay", 0.0) for run in found}
    assert decays == {0.0}
    assert {run["config"]["trainer"]["keep"] for run in found} == {"best"}


def test_it_ends_in_a_table_and_pictures(compared):
    report = compared / "runs" / "lp_ft_vs_ft" / "report"
    kinds = ("pareto", "curves", "response", "scatter", "alpha", "shifts")
    kinds += tuple(f"confusion-{method}" for method in ("linear", "full", "lp_ft", "lora"))
    pictures = {f"image_folder-vit_micro-{kind}.{form}" for kind in kinds for form in ("png", "svg")}
    texts = {f"{name}.{form}" for name in ("leaderboard", "table") for form in ("csv", "md", "tex")}
    texts |= {"table.json", "report.html", "image_folder-vit_micro-classes.csv", "image_folder-vit_micro-confusion.csv"}
    visible = {path.name for path in report.iterdir() if not path.name.startswith(".")}
    assert visible == texts | pictures
    for path in report.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    said = (compared / "said").read_text()
    assert "left out" not in said
    assert "written   runs/lp_ft_vs_ft/report: leaderboard.csv, leaderboard.md, leaderboard.tex, report.html, " in said
    for method in ("linear", "full", "lp_ft", "lora"):
        assert any(line.startswith(method) for line in said.splitlines())


def test_its_table_shows_the_scores_of_the_runs(compared):
    with (compared / "runs" / "lp_ft_vs_ft" / "report" / "table.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    for method in ("linear", "full", "lp_ft"):
        folders = [path.parent for path in results(compared) if path.parent.name.startswith(f"{method}-")]
        assert len(folders) == 2
        known = [
            json.loads((folder / name).read_text())["metrics"]
            for name in ("result.json", "ood.json")
            for folder in folders
        ]
        for metric in ("test/accuracy", "ood/mean/accuracy", "test/feature_distance"):
            values = [metrics[metric] for metrics in known if metric in metrics]
            assert float(rows[method][f"{metric} mean"]) == pytest.approx(fmean(values))
            assert float(rows[method][f"{metric} std"]) == pytest.approx(stdev(values))
    probe = {name: value for name, value in rows["lp_ft: probe"].items() if "accuracy" in name}
    assert probe == {name: rows["linear"][name] for name in probe}


def test_a_method_that_it_does_not_have_is_one_clear_line(tmp_path):
    said = call(*PAPER, "method=vqt", cwd=write_digits(tmp_path)).error
    known = "full, linear, lora, lp_ft, vpt_deep"
    assert said == f"method: no grid of this sweep is of vqt; there are {known}; {WAY_OUT.format('vqt')}"
    assert results(tmp_path) == []


def test_a_grid_can_be_left_out(tmp_path):
    left_out = [f"~hydra.sweeper.grids.{name}" for name in ("linear", "full", "lp_ft", "vpt_deep")]
    said = call(*PAPER, *left_out, "method=full", cwd=write_digits(tmp_path)).error
    assert said == f"method: no grid of this sweep is of full; there are lora; {WAY_OUT.format('full')}"
