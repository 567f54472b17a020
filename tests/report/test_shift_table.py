"""The rows and figures of a comparison in and out of distribution."""

import csv
import io
import json
import re
from statistics import fmean, stdev

import pytest
from rich.console import Console

from made_up_runs import SHIFT_IMAGES, write_run
from peft_vision.core.table import csv_of, markdown, terminal
from peft_vision.report.collect import collect
from peft_vision.report.id_ood import Comparison, comparisons, unknown_keys
from peft_vision.report.robustness import fit
from peft_vision.report.shift_table import record, remarks, shift_tables

SETS = {"fog": {"a": 0.5, "b": 0.7}, "snow": 0.4}


def compared(runs, reference=("full",), transform="probit") -> Comparison:
    (comparison,) = comparisons(collect(runs)[0], reference=reference, transform=transform)
    return comparison


def document(runs, **options) -> dict[str, dict[str, str]]:
    """The cells of each row of the Markdown, by its method."""
    lines = [
        line for line in markdown(*shift_tables([compared(runs, **options)])).splitlines() if line.startswith("| ")
    ]
    heading, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: dict(zip(heading, row, strict=True)) for row in rows}


@pytest.fixture
def runs(tmp_path):
    """full with three rates, of which the middle one is chosen, and lp_ft with its probe and interpolated weights."""
    for lr, val in {0.1: 0.5, 0.2: 0.9, 0.3: 0.6}.items():
        for seed in range(3):
            ood = {"fog": {"a": lr + 0.1 * seed, "b": 0.7}, "snow": 0.3 + lr}
            write_run(tmp_path, seed=seed, lr=lr, val=val, test=0.5 + lr + 0.01 * seed, ood=ood)
    for seed in range(2):
        write_run(
            tmp_path,
            method="lp_ft",
            seed=seed,
            val=0.8,
            test=0.75,
            ood=SETS,
            probe={"test/accuracy": 0.6, "ood/fog/accuracy": 0.65, "ood/mean/accuracy": 0.5},
            curve={0.0: (0.2, 0.1), 0.5: (0.8, 0.55), 1.0: (0.75, 0.5)},
            alpha=(0.5, 1.0)[seed],
        )
    return tmp_path


def test_a_row_shows_mean_and_standard_deviation_over_the_seeds_of_the_chosen_setting(runs):
    row = document(runs)["full"]
    assert row["setting"] == "optimizer.lr=0.2 (of 3)"
    assert (row["seeds"], row["parameters"]) == ("3", "13,635")
    assert row["ID test"] == f"{100 * fmean([0.7, 0.71, 0.72]):.2f} ± {100 * stdev([0.7, 0.71, 0.72]):.2f}"
    assert row["fog"] == "50.00 ± 5.00"
    assert row["snow"] == "50.00 ± 0.00"
    assert row["OOD worst"] == "30.00 ± 10.00"


def test_the_first_phase_of_lp_ft_and_the_weights_between_have_rows_of_their_own(runs):
    rows = document(runs)
    assert list(rows) == ["full", "lp_ft: probe", "lp_ft", "lp_ft, alpha=0.5, 1"]
    probe, between = rows["lp_ft: probe"], rows["lp_ft, alpha=0.5, 1"]
    assert (probe["parameters"], probe["ID test"], probe["fog"]) == ("1,290", "60.00 ± 0.00", "65.00 ± 0.00")
    assert probe["snow"] == "-"
    assert between["ID test"] == f"77.50 ± {100 * stdev([0.8, 0.75]):.2f}"
    assert between["OOD mean"] == f"52.50 ± {100 * stdev([0.55, 0.5]):.2f}"


def test_effective_robustness_is_what_lies_beyond_the_line_of_the_reference_runs(runs):
    points = [run.metrics for run in collect(runs)[0] if run.method == "full"]
    line = fit(
        [metrics["test/accuracy"] for metrics in points],
        [metrics["ood/mean/accuracy"] for metrics in points],
        id_images=1000,
        ood_images=3 * SHIFT_IMAGES,
        transform="logit",
    )
    lp_ft = next(row for row in compared(runs, transform="logit").rows if row.label == "lp_ft")
    expected = 0.5 - line.predict(0.75)
    assert lp_ft.statistic("ood/mean/effective_robustness").values == pytest.approx((expected, expected))
    assert document(runs, transform="logit")["lp_ft"]["effective robustness"] == f"{100 * expected:+.2f} ± 0.00"
    (said,) = [remark for remark in remarks(compared(runs)) if remark.startswith("effective robustness")]
    assert "through 9 runs of full with 60.00 to 82.00 % ID" in said


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (("lp_ft",), "no effective robustness: 1 different ID accuracies, a line takes 3"),
        (("ful",), "no effective robustness: 0 different .* takes 3; no run of ful; did you mean full[?]"),
    ],
)
def test_without_a_line_the_reason_is_said_and_there_is_no_column(reference, said, runs):
    comparison = compared(runs, reference=reference)
    (remark,) = [remark for remark in remarks(comparison) if remark.startswith("no effective")]
    assert re.fullmatch(said, remark)
    assert "effective robustness" not in document(runs, reference=reference)["full"]


def test_a_line_through_the_known_of_several_references_says_which_is_unknown(runs):
    comparison = compared(runs, reference=("full", "lp_fd"))
    assert comparison.reference == "full"
    assert "reference: no run of lp_fd; did you mean lp_ft?" in remarks(comparison)
    assert any("through 9 runs of full with " in said for said in remarks(comparison))


def test_a_key_of_rows_that_no_run_has_is_said(runs):
    found = collect(runs)[0]
    assert unknown_keys(found, ["method", "optimizer.lr", "data"]) == []
    said = ["task.rows: no run has optimizer.l; did you mean optimizer.lr?", "task.rows: no run has zzz"]
    assert unknown_keys(found, ["optimizer.l", "zzz"]) == said


def test_all_methods_can_be_the_reference(runs):
    assert compared(runs, reference=None).lines["ood/mean"].points == 11


def test_what_some_seeds_lack_is_no_silent_mean_over_fewer(tmp_path):
    write_run(tmp_path, seed=0, ood={"fog": 0.5})
    write_run(tmp_path, seed=1, ood={"fog": 0.7})
    write_run(tmp_path, seed=2)
    assert document(tmp_path)["full"]["fog"] == f"60.00 ± {100 * stdev([0.5, 0.7]):.2f} (2 of 3)"
    assert remarks(compared(tmp_path))[-1].endswith("s2-0.001 was not scored on any of these sets")


def test_means_over_other_sets_are_left_out(tmp_path):
    for seed in range(2):
        write_run(tmp_path, seed=seed, ood=SETS)
    write_run(tmp_path, method="lora", ood={"fog": {"a": 0.9, "b": 0.9}})
    row = document(tmp_path)["lora"]
    assert (row["fog"], row["OOD mean"], row["OOD worst"]) == ("90.00", "-", "-")
    assert remarks(compared(tmp_path))[-1] == (
        "OOD mean and worst are over fog, snow; lora-vit_micro-digits-s0-0.001 was scored on others"
    )


def test_a_set_of_other_images_is_left_out(tmp_path):
    for seed in range(2):
        write_run(tmp_path, seed=seed, ood=SETS)
    write_run(tmp_path, method="lora", ood={"fog": {"a": 0.9}, "snow": 0.6})
    row = document(tmp_path)["lora"]
    assert (row["fog"], row["snow"], row["OOD mean"]) == ("-", "60.00", "-")
    assert any(
        "fog: lora-vit_micro-digits-s0-0.001 was scored on other images" in text for text in remarks(compared(tmp_path))
    )


def test_a_set_on_which_other_classes_could_be_predicted_is_left_out(tmp_path):
    for seed in range(2):
        write_run(tmp_path, seed=seed, ood={"snow": 0.4})
    write_run(tmp_path, method="lora", ood={"snow": 0.9}, masked=True)
    assert document(tmp_path)["lora"]["snow"] == "-"
    assert any(text.endswith("among other classes, left out there") for text in remarks(compared(tmp_path)))


def test_a_method_without_a_choice_is_a_row_without_figures(tmp_path):
    write_run(tmp_path, lr=0.1, val=None)
    write_run(tmp_path, lr=0.2, val=None)
    write_run(tmp_path, method="linear", val=None)
    rows = document(tmp_path)
    assert (rows["full"]["setting"], rows["full"]["seeds"], rows["full"]["ID test"]) == ("none chosen of 2", "0", "-")
    assert rows["linear"]["ID test"] == "50.00"
    assert any(text.startswith("full: cannot choose among 2 settings") for text in remarks(compared(tmp_path)))


def test_backbones_and_data_sets_are_compared_apart(tmp_path):
    other = "digits: 90 train + 10 val + 1000 test images of 10 classes"
    for number, options in enumerate([{}, {"backbone": "deit_s16"}, {"data": "pets"}, {"source": other}]):
        write_run(tmp_path / str(number), **options)
    found = comparisons(collect(tmp_path)[0], reference=None, transform="probit")
    assert [(comparison.data, comparison.backbone) for comparison in found] == [
        ("digits", "vit_micro"),
        ("digits", "deit_s16"),
        ("digits", "vit_micro"),
        ("pets", "vit_micro"),
    ]
    assert len({comparison.source for comparison in found}) == 2


def test_a_small_distance_keeps_three_digits_that_count(tmp_path):
    folder = write_run(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    result["metrics"]["test/feature_distance"] = 0.00012345
    (folder / "result.json").write_text(json.dumps(result))
    assert document(tmp_path)["full"]["feature distance ID"] == "0.000123"


def test_the_csv_holds_fractions_and_counts_seeds(runs):
    full, *_ = csv.DictReader(io.StringIO(csv_of(shift_tables([compared(runs)]))))
    assert float(full["test/accuracy mean"]) == pytest.approx(0.71)
    assert float(full["test/accuracy std"]) == pytest.approx(stdev([0.7, 0.71, 0.72]))
    assert (full["test/accuracy seeds"], full["method"], full["data"]) == ("3", "full", "digits")


def test_the_json_holds_every_metric_and_what_was_tried(runs):
    full, _, lp_ft, _ = json.loads(json.dumps(record(compared(runs)), allow_nan=False))["rows"]
    assert full["metrics"]["ood/fog/a/accuracy"]["values"] == pytest.approx([0.2, 0.3, 0.4])
    assert [(entry["setting"]["optimizer.lr"], entry["validation"]) for entry in full["tried"]] == [
        (0.2, 0.9),
        (0.3, 0.6),
        (0.1, 0.5),
    ]
    assert lp_ft["runs"] == ["lp_ft-vit_micro-digits-s0-0.001", "lp_ft-vit_micro-digits-s1-0.001"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_stays_visible_and_out_of_the_json(value, tmp_path):
    for seed in range(2):
        folder = write_run(tmp_path, seed=seed)
        result = json.loads((folder / "result.json").read_text())
        result["metrics"]["test/feature_distance"] = value
        (folder / "result.json").write_text(json.dumps(result))
    assert document(tmp_path)["full"]["feature distance ID"] == f"{value} ± nan"
    (full,) = record(compared(tmp_path))["rows"]
    assert full["metrics"]["test/feature_distance"] == {"mean": None, "std": None, "values": [None, None]}


def test_a_list_in_a_setting_is_shown_as_it_is(tmp_path):
    for number, betas in enumerate([[0.9, 0.99], [0.9, 0.999]]):
        optimizer = {"_target_": "peft_vision.optimizer.base.AdamW", "lr": 0.1, "betas": betas}
        write_run(tmp_path / str(number), val=0.5 + 0.1 * number, config={"optimizer": optimizer})
    console = Console(width=200, record=True, file=io.StringIO())
    for table in terminal(*shift_tables([compared(tmp_path)]), width=200):
        console.print(table)
    assert "optimizer.betas=[0.9, 0.999] (of 2)" in console.export_text()


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_a_terminal_of_any_width_shows_every_column_beside_its_method(width, runs):
    comparison = compared(runs)
    console = Console(width=width, record=True, file=io.StringIO())
    tables = terminal(*shift_tables([comparison]), width=width)
    for table in tables:
        console.print(table)
    text = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert sum(line.startswith("lp_ft: probe") for line in text.splitlines()) == len(tables)
    for heading in document(runs)["full"]:
        assert heading in text


@pytest.fixture
def optimizers(tmp_path):
    """One method with two optimizers, of which the second has two widths, and another method."""
    adamw = {"_target_": "peft_vision.optimizer.base.AdamW", "lr": 0.1, "weight_decay": 0.0, "betas": [0.9, 0.99]}
    galore = {"_target_": "peft_vision.optimizer.galore.GaLore", "lr": 0.1}
    for option, config, lr, val in [
        ("adamw", adamw, 0.1, 0.5),
        ("adamw", {**adamw, "lr": 0.2}, 0.2, 0.6),
        ("galore_adamw", {**galore, "bits": 32}, 0.3, 0.7),
        ("galore_adamw", {**galore, "bits": 8}, 0.4, 0.8),
    ]:
        folder = write_run(tmp_path, lr=lr, val=val, test=val, config={"optimizer": config})
        result = json.loads((folder / "result.json").read_text())
        result["choices"]["optimizer"] = option
        result["optimizer"] = {"state_bytes": 2**20 * 10 * lr, "gradient_bytes": 2**21}
        result |= {"peak_mib": 900.0, "train_seconds": 12.5}
        (folder / "result.json").write_text(json.dumps(result))
    write_run(tmp_path, method="lora", lr=0.5, config={"optimizer": {**adamw, "lr": 0.5}})
    return tmp_path


def labels(runs, **options) -> dict[str, str]:
    """The setting of each row."""
    (comparison,) = comparisons(collect(runs)[0], reference=None, transform="probit", **options)
    return {row.label: row.setting for row in comparison.rows}


def test_validation_chooses_among_all_runs_of_a_method_unless_they_have_rows_of_their_own(optimizers):
    assert labels(optimizers)["full"].endswith("optimizer.bits=8 (of 4)")
    assert labels(optimizers, rows=["optimizer"]) == {
        "full, adamw": "optimizer.lr=0.2 (of 2)",
        "full, galore_adamw": "optimizer.bits=8 (of 2)",
        "lora": "",
    }
    assert list(labels(optimizers, rows=["optimizer", "optimizer.bits", "optimizer.rank"])) == [
        "full, adamw",
        "full, galore_adamw, bits=32",
        "full, galore_adamw, bits=8",
        "lora",
    ]


def test_costs_are_columns_where_they_are_asked_for(optimizers):
    found = collect(optimizers)[0]
    (comparison,) = comparisons(found, reference=None, transform="probit", rows=["optimizer"], costs=True)
    text = markdown(*shift_tables([comparison]))
    heading = text[text.index("| method") :].splitlines()[0]
    assert heading.endswith("| state, MiB | gradients, MiB | peak memory, MiB | training, s |")
    assert "| 4.00 | 2.00 | 900 | 12.5 |" in text
    without = markdown(*shift_tables([compared(optimizers, reference=None)]))
    assert "MiB" not in without
