"""The comparison of optimizers by accuracy, memory and time ends in a table."""

import csv
import json

import pytest

from command import call, results

SHORT = ("data=digits", "backbone=vit_micro", "backbone.checkpoint=null", "backbone.architecture.depth=2")
SHORT = (*SHORT, "tracker=none", "trainer.epochs=1", "data.train_size=80", "seed=0", "optimizer.lr=1e-3")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of the comparison."""
    root = tmp_path_factory.mktemp("compared")
    outcome = call("experiment=galore_memory", *SHORT, cwd=root, reports=True)
    assert outcome.code == 0, outcome
    return root / "runs" / "galore_memory"


def test_every_way_of_stepping_has_a_row_with_what_it_cost(compared):
    with (compared / "report" / "table.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == [
        "full, adamw",
        "full, galore_adamw, bits=32, per_layer=false",
        "full, galore_adamw, bits=8, per_layer=false",
        "full, galore_adamw, bits=8, per_layer=true",
        "lora, adamw",
    ]
    adamw, galore, short, layers, lora = (float(row["cost/state_mib mean"]) for row in rows.values())
    assert adamw > galore >= short == layers > lora
    gradients = [float(row["cost/gradient_mib mean"]) for row in rows.values()]
    assert gradients[0] == gradients[1] == gradients[2] > 2 * gradients[3]
    assert all(float(row["cost/train_seconds mean"]) > 0 for row in rows.values())


def test_stepping_in_the_backward_pass_trains_the_same(compared):
    found = [json.loads(path.read_text()) for path in results(compared)]
    assert len(found) == 5
    short = [run["metrics"] for run in found if run["config"]["optimizer"].get("bits") == 8]
    assert short[0] == short[1]
