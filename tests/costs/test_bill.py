"""A plan's sums, by hand."""

import pytest

from composed import composed
from peft_vision.costs.bill import Cost, CostEstimate, Priced, bill, duration, notes, plan_tables, slurm_line
from peft_vision.costs.expected import Content, Expected, RunGroup, Stock, demands, kind
from peft_vision.costs.rates import CostLine, Rates, between
from peft_vision.costs.walk import Act, Anatomy, PhaseFacts
from peft_vision.data.splits import Extent

IMAGES = {"train": 100, "val": 20, "test": 30}
DEMO = ("experiment=demo", "trainer.epochs=4", "trainer.batch_size=32")
KEYS = {"train": "a", "val": "b", "test": "c"}
STEP, SCORE = Act("step", 0, "images"), Act("score", 0, "images")
WHOLE = Rates(0.4, 0.001, {STEP: CostLine(0.5, 0.01), SCORE: CostLine(0.1, 0.002)})
STORED = Rates(
    0.4,
    0.001,
    {
        Act("step", 0, "observed"): CostLine(0, 0.0005),
        Act("score", 0, "observed"): CostLine(0, 0.0001),
        Act("observe", 0, "images"): CostLine(0.2, 0.003),
        Act("find", 0, "observed"): CostLine(0.3, 0.0002),
    },
)


def anatomy(*phases: PhaseFacts, trained: int = 1000) -> Anatomy:
    return Anatomy(phases, {"features": 2**20}, {"features": "features"}, width=8, trained=trained)


def facts(frozen=None, *, probe=False, first=False, solved=False) -> PhaseFacts:
    return PhaseFacts(frozen, probe=probe, first=first, solved=solved)


PLAIN = facts()
SERVER = 4.0  # seconds, once
READS = facts(frozenset({"features"}))


def priced(*overrides, phases=(PLAIN,), rates=WHOLE, reading=0.0, times=1.0, images=IMAGES) -> Priced:
    content = Content(Extent(images, 10), None, {})
    return Priced(RunGroup(composed(*DEMO, *overrides), content, KEYS, times), anatomy(*phases), rates, reading)


def billed(*groups: Priced, faster=1.0, limit=2**40) -> CostEstimate:
    return bill(groups, Stock(limit, writable=True), faster=faster)


def test_a_run_that_stores_nothing_passes_every_image_in_every_epoch():
    estimate = billed(priced("method=vpt_deep", times=3, reading=0.01))
    (cost,) = estimate.costs.values()
    assert (cost.runs, cost.trained, cost.scored, cost.saved) == (3, 3 * 4 * 100, 3 * (4 * 20 + 20 + 30), 0)
    steps, scores = 4 * 4 * 0.5 + 4 * 100 * 0.01, (4 + 1 + 1) * 0.1 + (4 * 20 + 20 + 30) * 0.002
    assert cost.device == pytest.approx(3 * (steps + scores))
    assert cost.reading == pytest.approx(3 * 150 * 0.01)
    assert cost.starting == pytest.approx(3 * (0.4 + 0.6))
    assert cost.disk == 3 * (4 * 1000 + 65536)
    assert estimate.total.seconds == pytest.approx(cost.seconds + SERVER)
    assert estimate.longest == pytest.approx(cost.seconds / 3)


def test_what_is_frozen_is_observed_once_for_all_runs_that_read_it():
    estimate = billed(*(priced(f"method={name}", phases=(READS,), rates=STORED, times=2) for name in ("vqt", "linear")))
    assert estimate.shared.scored == 150
    assert estimate.shared.store == 150 * 2**20
    assert (estimate.total.runs, estimate.total.trained, estimate.total.scored) == (4, 0, 150)
    # without the store each run would pass 4 * 120 images in its epochs, and 50 at its end
    assert estimate.total.saved == 4 * (4 * 120 + 50) - 150
    finds = 3 * 0.3 + 150 * 0.0002
    per_run = 400 * 0.0005 + 130 * 0.0001
    assert estimate.total.device == pytest.approx(4 * per_run + 3 * 0.2 + 150 * 0.003)
    assert estimate.total.reading == pytest.approx(3 * finds)  # the first one has them in its hands


def test_a_single_run_saves_no_more_than_its_own_repeated_passes():
    estimate = billed(priced("method=linear", "trainer.epochs=1", phases=(READS,), rates=STORED))
    assert (estimate.total.scored, estimate.total.saved) == (150, 20)
    said = notes(estimate, ended=0, device="this", faster=1, disk_gib=50, devices=8)
    assert "store    saves 20 passes, 12 % of what there would be without it" in said


def test_the_table_adds_up():
    estimate = billed(priced("method=linear", phases=(READS,), rates=STORED, times=3))
    (table,) = plan_tables(estimate, width=200)
    saved = [str(cell) for cell in table.columns[5].cells]
    assert saved == ["saved by the store", "1,590", "-150", "1,440"]


def test_a_split_that_the_store_cannot_hold_is_observed_by_every_run():
    few = {**IMAGES, "test": 1000}
    narrow = ("features.memory_gib=0.01",)
    estimate = billed(priced("method=vqt", *narrow, phases=(READS,), rates=STORED, images=few, times=2), limit=2**28)
    assert estimate.shared.scored == 120
    (cost,) = estimate.costs.values()
    assert cost.scored == 2 * 1000


def test_a_faster_device_computes_faster_and_reads_no_faster():
    group = priced("method=linear", phases=(READS,), rates=STORED, reading=0.01)
    slow, fast = billed(group).total, billed(group, faster=10).total
    assert fast.device == pytest.approx(slow.device / 10)
    assert (fast.reading, fast.starting, fast.trained) == (slow.reading, slow.starting, slow.trained)


def test_a_solver_is_said_to_be_unknown_and_so_are_pictures_that_are_not_here():
    phases = (facts(frozenset({"features"}), probe=True, first=True, solved=True), facts())
    estimate = billed(priced("method=lp_ft", phases=phases, rates=Rates(0, 0.001, {}), reading=None))
    (cost,) = estimate.costs.values()
    assert cost.trained == 400
    assert cost.unmeasured
    assert estimate.unread == ["digits"]
    said = "\n".join(notes(estimate, ended=0, device="this", faster=1, disk_gib=50, devices=8))
    assert "unknown  the time to read pictures of digits, which are not here" in said
    assert "unknown  the time of solvers" in said


def test_no_number_of_devices_does_the_longest_run_faster():
    estimate = billed(priced("method=vpt_deep", times=2), priced("method=full", "trainer.epochs=40"))
    longest = max(cost.seconds / cost.runs for cost in estimate.costs.values())
    assert estimate.longest == pytest.approx(longest)
    assert estimate.on(1) == pytest.approx(estimate.total.seconds)
    assert estimate.on(8) == estimate.longest > estimate.total.seconds / 8
    said = "\n".join(notes(estimate, ended=0, device="this", faster=1, disk_gib=50, devices=8))
    assert f"at least {duration(estimate.longest)} on 8" in said
    assert f"the longest run {duration(estimate.longest)}" in said


def test_the_first_run_is_longer_by_what_it_stores():
    estimate = billed(priced("method=vqt", phases=(READS,), rates=STORED, times=3))
    (cost,) = estimate.costs.values()
    assert estimate.longest == pytest.approx(cost.seconds / 3 + estimate.shared.seconds)


def test_runs_that_take_as_long_are_of_one_kind():
    lrs = [composed(*DEMO, "method=vpt_deep", f"optimizer.lr={lr}", f"seed={lr}") for lr in (1, 2)]
    more = composed(*DEMO, "method=vpt_deep", "method.num_prompts=50")
    assert kind(lrs[0]) == kind(lrs[1]) != kind(more)
    runs = [Expected(lrs[0]), Expected(lrs[1], 2.5), Expected(lrs[1], 4, ended=True), Expected(more)]
    assert [(group.times, group.content.extent.classes) for group in demands(runs)] == [(3.5, 10), (1, 10)]


def test_between_two_numbers_of_classes_time_rises_evenly():
    act = Act("step", 0, "table")
    low, high = (Rates(0.4, 0.001, {act: CostLine(call, image)}) for call, image in ((1.0, 0.0005), (3.0, 0.0025)))
    assert between(low, high, 0.25).lines[act] == CostLine(pytest.approx(1.5), pytest.approx(0.001))


def test_a_line_goes_through_two_measurements_and_never_below_nothing():
    line = CostLine.through((16, 3.0), (64, 6.0))
    assert line.seconds(images=640, calls=10) == pytest.approx(10 * 6.0)
    assert line.seconds(images=16, calls=1) == pytest.approx(3.0)
    assert CostLine.through((16, 7.0), (64, 6.0)) == CostLine(6.0, 0.0)
    assert CostLine.through((16, 0.5), (64, 6.0)) == CostLine(0.0, 6.0 / 64)
    assert CostLine.through((1, 2.0), (1, 2.0)) == CostLine(0.0, 2.0)


@pytest.mark.parametrize("flags", [(), ("-m",), ("--multirun",)])
def test_the_line_for_slurm_is_the_same_command_as_a_sweep_with_time_for_the_longest_run(flags):
    estimate = CostEstimate({("a", "b"): Cost(runs=3)}, longest=1000.0)
    words = ["task=plan", "task.rate=100", "method=vpt_deep", "hydra/launcher=pool", "data.path=my pictures"]
    assert slurm_line(estimate, [*flags, *words], devices=4) == (
        f"peft-vision {flags[0] if flags else '-m'} method=vpt_deep 'data.path=my pictures' hydra/launcher=slurm_gpu "
        "hydra.launcher.timeout_min=40 hydra.launcher.array_parallelism=4"
    )


def test_durations_are_read_at_a_glance():
    assert [duration(seconds) for seconds in (12.4, 200, 5400, 864_000)] == ["12 s", "3 min", "1.5 h", "10.0 days"]
