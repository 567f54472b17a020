"""Seeds that a grid trained in one run are on the page, and elsewhere that run is one of its own seed."""

import json

from boards import options
from made_up_runs import write_run
from peft_vision.report.comparison import compare
from peft_vision.report.finished import read

SEEDS = [
    {"seed": seed, "val/accuracy": val, "test/accuracy": test}
    for seed, val, test in ((0, 0.6, 0.5), (1, 0.7, 0.6), (2, 0.8, 0.7))
]


def test_the_page_has_mean_and_deviation_of_the_seeds_and_the_board_the_runs_own(tmp_path):
    folder = write_run(tmp_path / "runs", method="lora", val=0.6, test=0.5)
    write_run(tmp_path / "runs", method="bitfit", val=0.6, test=0.4)
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seeds": SEEDS}))
    assert [row["seed"] for row in read(folder).of_seeds] == [0, 1, 2]
    report = compare([tmp_path / "runs"], tmp_path / "report", options())
    text = report.page.read_text()
    (table,) = [part for part in text.split("<table")[1:] if "70.00 ± 10.00" in part]
    assert "0, 1, 2" in table
    assert "60.00 ± 10.00" in table
    assert "bitfit" not in table
    board = (tmp_path / "report" / "leaderboard.md").read_text()
    assert "50.00" in board
    assert "±" not in board.partition("mean ± standard")[0]


def test_a_page_without_such_runs_has_no_such_table(tmp_path):
    write_run(tmp_path / "runs", method="lora", val=0.6, test=0.5)
    report = compare([tmp_path / "runs"], tmp_path / "report", options())
    assert "Seeds that trained in the same run" not in report.page.read_text()
