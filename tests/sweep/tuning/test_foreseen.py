"""Final runs of which nobody knows yet what will be chosen."""

import pytest

from composed import composed
from peft_vision.costs.expected import Expected, together
from peft_vision.sweep.tuning.cells import as_final, by_cell, unknown

TUNE = ("experiment=smoke", "data.stage=tune")


@pytest.mark.parametrize(
    "words",
    [("method=linear", "optimizer=lbfgs"), ("method=linear", "optimizer=grid"), ("method=lp_ft", "probe=lbfgs")],
)
def test_a_solver_has_one_setting_left_and_nothing_to_choose_by(words):
    tuning = composed(*TUNE, *words)
    final = as_final(tuning, 7)
    group = "probe" if "method=lp_ft" in words else "optimizer"
    assert (tuning.optimizers[group].num_settings > 1, final.optimizers[group].num_settings) == (True, 1)
    assert (final.seed, final.data.stage, set(final.data.extent().images)) == (7, "final", {"train", "test"})


def test_each_seed_is_one_run_of_any_setting_of_the_cell():
    tuning = [Expected(composed(*TUNE, "method=lora", f"method.rank={rank}"), ended=rank == 2) for rank in (2, 4)]
    (cell,) = by_cell(tuning)
    runs = unknown(cell, [0, 1, 2])
    assert sum(run.times for run in runs) == pytest.approx(3)
    assert {(run.experiment.seed, run.experiment.method.rank) for run in runs} == {
        (seed, rank) for seed in (0, 1, 2) for rank in (2, 4)
    }
    assert not any(run.ended for run in runs)


def test_methods_are_cells_of_their_own():
    runs = [Expected(composed(*TUNE, f"method={name}")) for name in ("linear", "lora", "linear")]
    assert [len(cell) for cell in by_cell(runs)] == [2, 1]


def test_runs_that_start_together_are_told_what_the_others_read_unless_they_are_over():
    linear, vqt, done = (composed(*TUNE, f"method={name}") for name in ("linear", "vqt", "head2toe"))
    runs = together([Expected(linear), Expected(vqt), Expected(done, ended=True)])
    assert [run.experiment.features.also for run in runs] == [("contexts", "features")] * 2 + [()]
    alone = [Expected(linear), Expected(vqt, ended=True)]
    assert together(alone) == alone
