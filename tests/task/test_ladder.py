"""The order and the figures of a comparison's table."""

from peft_vision.costs.measure import Failure, Measured
from peft_vision.task.bench import FORWARD, ladder, markdown_table


def measured(*, forward: float, step: float, stored: float | None = None) -> Measured:
    seconds = {"forward": forward, "step": step} | ({} if stored is None else {"stored_step": stored})
    return Measured({"method": 1234, "head": 56}, seconds, memory_mib=1.0, peak_mib=2.0, phase="train")


OUTCOMES = {
    FORWARD: Measured({"backbone": 9}, {"forward": 1.0}, memory_mib=1.0, peak_mib=2.0, phase=None),
    "broken": Failure("a | b", ""),
    "full": measured(forward=1.0, step=4.0),
    "slow": measured(forward=1.0, step=3.0),
    "quick": measured(forward=2.0, step=4.0, stored=0.5),
    "linear": measured(forward=1.0, step=3.5),
}


def test_the_ladder_leads_from_the_forward_pass_to_full_fine_tuning():
    names = [record["method"] for record in ladder(OUTCOMES)]
    assert names == [FORWARD, "linear", "quick", "slow", "full", "broken"]


def test_a_step_is_compared_with_the_forward_pass_of_its_own_process():
    (quick,) = [record for record in ladder(OUTCOMES) if record["method"] == "quick"]
    assert (quick["of_forward"], quick["of_full"], quick["stored_of_forward"]) == (2.0, 0.5, 0.25)


def test_without_full_fine_tuning_nothing_is_compared_with_it():
    records = ladder({**OUTCOMES, "full": Failure("out of memory", "")})
    assert {record["of_full"] for record in records if "reason" not in record} == {None}


def test_every_row_of_the_document_has_a_cell_for_each_column():
    lines = markdown_table(ladder(OUTCOMES)).splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines} == {11}
    assert lines[-1].endswith("| a \\| b |")
    (quick,) = [line for line in lines if line.startswith("| quick ")]
    assert quick == "| quick | 1,234 | 56 | 4,000.0 | 2.00 | 0.50 | 1.0 | 500.0 | 0.25 |  |"
