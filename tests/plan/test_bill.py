"""A plan's sums, by hand."""

import pytest

from composed import composed
from peft_vision.data.extent import Extent
from peft_vision.plan.bill import bill
from peft_vision.plan.demand import Demand, demands, kind
from peft_vision.plan.rates import PhaseRates, Rates, between
from peft_vision.plan.words import duration, notes, slurm_line

IMAGES = {"train": 100, "val": 20, "test": 30}
DEMO = ("experiment=demo", "trainer.epochs=4", "trainer.batch_size=32")


def demand(*overrides, images=IMAGES, times=1.0):
    return Demand(composed(*DEMO, *overrides), Extent(images, 10), times)


PLAIN = Rates(
    setup=0.4,
    phases=(PhaseRates(stored=False, step=0.01, update=0.5, score=0.002),),
    observe=None,
    forward=0.001,
    stored_bytes=0,
    trained=1000,
)
STORED = Rates(
    setup=0.4,
    phases=(PhaseRates(stored=True, step=0.0005, update=0.0, score=0.0001),),
    observe=0.003,
    forward=0.001,
    stored_bytes=2**20,
    trained=500,
)


def test_a_run_that_stores_nothing_passes_every_image_in_every_epoch():
    its = bill([demand("method=vpt_deep", times=3)], [PLAIN], {"digits": 0.01}, faster=1)
    (cost,) = its.costs.values()
    assert cost.runs == 3
    assert cost.trained == 3 * 4 * 100
    assert cost.scored == 3 * (4 * 20 + 20 + 30)
    assert cost.saved == 0
    assert cost.device == pytest.approx(3 * (4 * 100 * 0.01 + 4 * 4 * 0.5 + 4 * 20 * 0.002 + (20 + 30) * 0.002))
    assert cost.reading == pytest.approx(3 * 150 * 0.01)
    assert cost.starting == pytest.approx(3 * (0.4 + 0.6))
    assert cost.disk == 3 * (4 * 1000 + 65536)
    assert its.total.seconds == pytest.approx(cost.seconds)
    assert its.longest == pytest.approx(cost.seconds / 3)


def test_what_is_frozen_is_observed_once_for_all_runs_that_read_it():
    found = [demand("method=vqt", times=5), demand("method=linear", times=2)]
    small = Rates(
        0.4, (PhaseRates(True, 0.0001, 0.0, 0.0001),), observe=0.002, forward=0.001, stored_bytes=512, trained=90
    )
    its = bill(found, [STORED, small], {"digits": 0.0}, faster=1)
    assert its.shared.observed == 150
    assert its.shared.device == pytest.approx(150 * 0.003)  # the pass of those that read most
    assert its.shared.store == 150 * 2**20
    vqt = its.costs["vqt", "vit_micro"]
    assert (vqt.trained, vqt.scored) == (0, 0)
    assert vqt.saved == 5 * (4 * 120 + 30)
    assert vqt.device == pytest.approx(5 * (4 * 100 * 0.0005 + 4 * 20 * 0.0001 + 50 * 0.0001))
    assert its.total.runs == 7


def test_a_test_set_that_the_store_cannot_hold_is_observed_by_every_run():
    one = demand("method=vqt", "features.memory_gib=0.01", "features.disk_gib=0.02", images={**IMAGES, "test": 1000})
    its = bill([one], [STORED], {"digits": 0.0}, faster=1)
    assert its.shared.observed == 120
    (cost,) = its.costs.values()
    assert cost.scored == 1000
    assert cost.device == pytest.approx(4 * 100 * 0.0005 + 4 * 20 * 0.0001 + 1020 * 0.0001 + 1000 * 0.003)


def test_a_faster_device_computes_faster_and_reads_no_faster():
    slow = bill([demand("method=vpt_deep")], [PLAIN], {"digits": 0.01}, faster=1).total
    fast = bill([demand("method=vpt_deep")], [PLAIN], {"digits": 0.01}, faster=10).total
    assert fast.device == pytest.approx(slow.device / 10)
    assert (fast.reading, fast.starting, fast.trained) == (slow.reading, slow.starting, slow.trained)


def test_phases_are_paid_one_by_one_and_a_solver_is_said_to_be_unknown():
    phases = (
        PhaseRates(stored=True, step=None, update=0.0, score=0.0001),
        PhaseRates(stored=False, step=0.01, update=0.5, score=0.002),
    )
    its = bill([demand("method=lp_ft")], [Rates(0, phases, 0.003, 0.001, 512, 10)], {"digits": None}, faster=1)
    (cost,) = its.costs.values()
    assert cost.trained == 400
    assert cost.scored == 4 * 20 + 20 + 2 * 30  # the probe is tested too
    assert cost.unmeasured
    assert its.unread == ["digits"]
    said = "\n".join(notes(its, done=0, device="this", faster=1, disk_gib=50, devices=8))
    assert "unknown  the time to read pictures of digits, which are not here" in said
    assert "unknown  the time of solvers" in said


def test_runs_that_take_as_long_are_of_one_kind():
    lrs = [composed(*DEMO, "method=vpt_deep", f"optimizer.lr={lr}", f"seed={lr}") for lr in (1, 2)]
    more = composed(*DEMO, "method=vpt_deep", "method.num_prompts=50")
    assert kind(lrs[0]) == kind(lrs[1]) != kind(more)
    assert [(its.times, its.extent.classes) for its in demands([(lrs[0], 1), (lrs[1], 2.5), (more, 1)])] == [
        (3.5, 10),
        (1, 10),
    ]


def test_between_two_numbers_of_classes_time_rises_evenly():
    high = Rates(0.4, (PhaseRates(True, 0.0025, 0.0, 0.0005),), 0.003, 0.001, 2**20, trained=900)
    mid = between([(10, STORED), (110, high)], 35)
    assert mid.phases[0].step == pytest.approx(0.001)
    assert mid.phases[0].score == pytest.approx(0.0002)
    assert mid.trained == 600
    assert between([(10, STORED)], 10) == STORED


def test_the_line_for_slurm_is_the_same_command_with_time_for_the_longest_run():
    its = bill([demand("method=vpt_deep", times=3)], [PLAIN], {"digits": 6.0}, faster=1)
    arguments = ["task=plan", "task.rate=100", "method=vpt_deep", "hydra/launcher=pool", "data.path=my pictures"]
    assert slurm_line(its, arguments, devices=4) == (
        "peft-vision method=vpt_deep 'data.path=my pictures' hydra/launcher=slurm_gpu hydra.launcher.timeout_min=40 "
        "hydra.launcher.array_parallelism=4"
    )


def test_durations_are_read_at_a_glance():
    assert [duration(seconds) for seconds in (12.4, 200, 5400, 864_000)] == ["12 s", "3 min", "1.5 h", "10.0 days"]
