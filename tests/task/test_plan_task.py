"""`peft-vision task=plan`: what a person learns before a sweep."""

import json
import re

import pytest

from command import call, results

QUICK = ("task.repeats=1", "task.warmup=0")
SMOKE = ("experiment=smoke", "tracker=none")
DEMO = ("experiment=demo", "data.train_size=100", "trainer.epochs=2", "trainer.batch_size=20")


def line(outcome, first):
    (found,) = [printed for printed in outcome.out.splitlines() if printed.startswith(first)]
    return found


def test_a_run_is_planned_and_not_trained(tmp_path):
    outcome = call("task=plan", *QUICK, *DEMO, "method=vpt_deep", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert re.match(r"vpt_deep +vit_micro +1 +180 +389 +0 +\d", line(outcome, "vpt_deep"))
    assert line(outcome, "runs") == "runs     1 to do"
    assert re.fullmatch(
        r"time     [\d.e-]+ hours of one device, at least \d+ s on 8; measured on cpu, \d+ threads?, where vit_micro "
        r"passes [\d.e+]+ images per second",
        line(outcome, "time"),
    )
    assert line(outcome, "slurm").startswith("slurm    peft-vision -m experiment=demo ")
    assert line(outcome, "slurm").endswith(
        "method=vpt_deep hydra/launcher=slurm_gpu hydra.launcher.timeout_min=10 hydra.launcher.array_parallelism=8"
    )
    assert not (tmp_path / "runs").exists()


def test_a_tuning_is_planned_with_its_final_runs_and_what_the_store_saves(tmp_path):
    tune = ("-m", "hydra/sweeper=tune", "method=vqt,vpt_deep", "optimizer.lr=1e-3,1e-2,0.1")
    outcome = call("task=plan", *QUICK, *tune, *DEMO, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    # each method: 3 settings on 90 + 10 images, then 3 seeds on 100 + 359 test images, two epochs
    assert re.match(r"vpt_deep +vit_micro +6 +1,140 +1,167 +0 ", line(outcome, "vpt_deep"))
    # without the store 3 * (2 * 100 + 10) and 3 * (2 * 100 + 359); in it 100 images divided and undivided, and tests
    assert re.match(r"vqt +vit_micro +6 +0 +0 +2,307 ", line(outcome, "vqt"))
    assert re.match(r"filling the store +0 +559 +-559 ", line(outcome, "filling the store"))
    assert line(outcome, "store").startswith("store    saves 1,748 passes, ")
    assert line(outcome, "runs") == "runs     12 to do"
    assert results(tmp_path) == []


def test_what_is_done_is_not_counted(tmp_path):
    sweep = ("-m", *SMOKE, "method=linear")
    assert call(*sweep, "seed=0,1", cwd=tmp_path).code == 0
    outcome = call("task=plan", *QUICK, *sweep, "seed=0,1,2", cwd=tmp_path)
    assert line(outcome, "runs") == "runs     1 to do; 2 are done and not counted"
    assert "nothing to do: all 2 runs are done" in call("task=plan", *QUICK, *sweep, "seed=0,1", cwd=tmp_path).out


def test_final_runs_that_are_done_are_known_though_their_setting_was_not(tmp_path):
    tune = ("-m", "hydra/sweeper=tune", *SMOKE, "method=linear", "optimizer.lr=1e-3,1e-2", "hydra.sweeper.seeds=[0,1]")
    assert call(*tune, cwd=tmp_path).code == 0
    outcome = call("task=plan", *QUICK, *tune, "hydra.sweeper.seeds=[0,1,2]", cwd=tmp_path)
    assert line(outcome, "runs") == "runs     1 to do; 4 are done and not counted"
    # with a third rate it is open again which one they will be of
    outcome = call("task=plan", *QUICK, *tune, "optimizer.lr=1e-3,1e-2,0.1", cwd=tmp_path)
    assert line(outcome, "runs") == "runs     3 to do; 2 are done and not counted"


def told(outcome) -> tuple[int, int]:
    """Passes, and bytes of the store, of a plan whose numbers are small enough to be shown to the last digit."""
    cells = line(outcome, "in all").split()
    mib = float(re.search(r"([\d.]+) MiB more in the store", line(outcome, "disk"))[1])
    return sum(int(cell.replace(",", "")) for cell in cells[3:5]), mib


def recorded(folder) -> tuple[int, int]:
    passes = sum(sum(json.loads(path.read_text())["backbone_images"].values()) for path in results(folder))
    headers = 1024  # at most, of each file
    files = [path.stat().st_size - headers for path in (folder / "store").glob("*.safetensors")]
    return passes, pytest.approx(sum(files) / 2**20, abs=0.06)


@pytest.mark.parametrize(
    "sweep",
    [
        ("method=linear,vqt,head2toe,lora",),
        ("hydra/sweeper=tune", "method=linear", "optimizer=lbfgs", "hydra.sweeper.seeds=[0]"),
        ("hydra/sweeper=optuna", "method=bitfit", "optimizer.lr=1e-3,1e-2", "hydra.sweeper.pruner=none"),
    ],
    ids=" ".join,
)
def test_a_sweep_takes_the_passes_and_the_bytes_of_its_plan_and_then_nothing_is_left(sweep, tmp_path):
    sweep = ("-m", *SMOKE, *sweep)
    plan = call("task=plan", *QUICK, *sweep, cwd=tmp_path)
    assert results(tmp_path) == []
    assert call(*sweep, cwd=tmp_path).code == 0
    assert told(plan) == recorded(tmp_path)
    assert f"runs     {len(results(tmp_path))} to do" in plan.out
    again = call("task=plan", *QUICK, *sweep, cwd=tmp_path)
    assert f"nothing to do: all {len(results(tmp_path))} runs are done" in again.out


def test_what_the_store_holds_already_is_found(tmp_path):
    assert call(*SMOKE, "method=vqt", cwd=tmp_path).code == 0
    plan = call("task=plan", *QUICK, *SMOKE, "method=linear", cwd=tmp_path)
    assert told(plan) == (0, 0.0)
    assert "filling the store" not in plan.out


def test_a_given_rate_scales_the_time(tmp_path):
    outcome = call("task=plan", *QUICK, *DEMO, "method=vpt_deep", "task.rate=1e9", cwd=tmp_path)
    assert re.search(r"; measured on cpu, .* images per second, scaled to \d", line(outcome, "time"))
    assert "of this  0 s computing" in line(outcome, "of this")


def test_data_that_are_not_here_are_planned_by_their_known_sizes(tmp_path):
    outcome = call(
        *("task=plan", "backbone=vit_micro", "method=vpt_deep", "data=vtab/dtd", "data.stage=final"),
        *("trainer.epochs=1", "trainer.batch_size=8", "tracker=none", "task.repeats=1", "task.warmup=0"),
        cwd=tmp_path,
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert re.match(r"vpt_deep +vit_micro +1 +1,000 +1,880 ", line(outcome, "vpt_deep"))
    assert line(outcome, "unknown") == "unknown  the time to read pictures of vtab/dtd, which are not here"


def test_data_of_unknown_size_that_are_not_here_are_an_error(tmp_path):
    outcome = call("task=plan", "backbone=vit_micro", "data=image_folder", "data.path=nowhere", cwd=tmp_path)
    assert outcome.code == 1
    assert "data.path: no folder" in outcome.err


SPACE = ("method=lora", "optimizer.lr=tag(log,interval(1e-4,1e-2))", "method.rank=2,4")


def test_a_search_is_planned_as_if_every_trial_were_whole(tmp_path):
    search = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=10")
    outcome = call("task=plan", *QUICK, *search, *SPACE, *DEMO, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    # on 90 images for two epochs, 10 validate after each and at the end
    assert re.match(r"lora +vit_micro +10 +1,800 +300 +0 ", line(outcome, "lora"))


def test_so_is_a_tuning_that_searches(tmp_path):
    tune = ("-m", "hydra/sweeper=tune", "hydra.sweeper.n_trials=6", "hydra.sweeper.seeds=[0,1]")
    outcome = call("task=plan", *tune, *SPACE, *DEMO, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    # then two final runs on 100 images, scored on 359
    assert re.match(r"lora +vit_micro +8 +1,480 +898 +0 ", line(outcome, "lora"))
