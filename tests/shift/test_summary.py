"""What the scores of every shift come to, worked out by hand."""

import pytest

from peft_vision.objective.base import Metric
from peft_vision.objective.multi_label import MEAN_AP
from peft_vision.shift.marks import summarised

FOG = {"accuracy": 0.5, "loss": 2.0}
SNOW = {"accuracy": 0.25, "loss": 3.0}
PHOTOS = {"accuracy": 0.75, "loss": 1.0}


def test_a_set_of_one_shift_is_its_own_mean_and_worst():
    found = summarised({"photos": PHOTOS}, {"photos": 8})
    assert found == {
        "ood/photos/accuracy": 0.75,
        "ood/photos/loss": 1.0,
        "ood/mean/accuracy": 0.75,
        "ood/mean/loss": 1.0,
        "ood/worst/accuracy": 0.75,
    }


def test_a_set_of_several_shifts_has_their_mean_their_worst_and_that_of_all_its_images():
    found = summarised({"weather/fog": FOG, "weather/snow": SNOW}, {"weather/fog": 30, "weather/snow": 10})
    assert found == {
        "ood/weather/fog/accuracy": 0.5,
        "ood/weather/fog/loss": 2.0,
        "ood/weather/snow/accuracy": 0.25,
        "ood/weather/snow/loss": 3.0,
        "ood/weather/accuracy": 0.375,
        "ood/weather/loss": 2.5,
        "ood/weather/worst/accuracy": 0.25,
        "ood/weather/pooled/accuracy": (15 + 2.5) / 40,
        "ood/mean/accuracy": 0.375,
        "ood/mean/loss": 2.5,
        "ood/worst/accuracy": 0.25,
    }


def test_the_mean_is_over_sets_and_the_worst_over_shifts():
    scores = {"weather/fog": FOG, "photos": PHOTOS, "weather/snow": SNOW}
    found = summarised(scores, dict.fromkeys(scores, 10))
    assert found["ood/mean/accuracy"] == pytest.approx((0.375 + 0.75) / 2)
    assert found["ood/mean/loss"] == pytest.approx((2.5 + 1.0) / 2)
    assert found["ood/worst/accuracy"] == 0.25
    assert found["ood/weather/worst/accuracy"] == 0.25
    assert {name for name in found if name.startswith("ood/photos/")} == {"ood/photos/accuracy", "ood/photos/loss"}


def test_a_set_whose_one_shift_has_a_name_keeps_it():
    found = summarised({"weather/fog": FOG}, {"weather/fog": 4})
    assert found["ood/weather/fog/accuracy"] == found["ood/weather/accuracy"] == 0.5
    assert found["ood/weather/worst/accuracy"] == found["ood/weather/pooled/accuracy"] == 0.5


def test_equal_values_keep_their_mean_to_the_last_bit():
    scores = {f"weather/{number}": {"accuracy": 0.1} for number in range(10)}
    found = summarised(scores, dict.fromkeys(scores, 7))
    assert found["ood/weather/accuracy"] == found["ood/mean/accuracy"] == 0.1


def test_the_worst_of_a_metric_is_the_highest_where_lower_is_better_and_nothing_is_pooled():
    error = Metric("mae", higher_is_better=False, is_fraction=False)
    rows = {"weather/fog": {"mae": 2.0, "loss": 1.0}, "weather/snow": {"mae": 5.0, "loss": 3.0}}
    found = summarised(rows, dict.fromkeys(rows, 4), error)
    assert found["ood/worst/mae"] == found["ood/weather/worst/mae"] == 5.0
    assert found["ood/mean/mae"] == 3.5
    assert not [name for name in found if "pooled" in name or "accuracy" in name]


def test_a_metric_that_only_some_shifts_define_has_no_mean():
    rows = {
        "weather/fog": {"mean_average_precision": 0.5, "auroc": 0.75},
        "weather/snow": {"mean_average_precision": 1},
    }
    found = summarised(rows, dict.fromkeys(rows, 4), MEAN_AP)
    assert found["ood/weather/fog/auroc"] == 0.75
    assert found["ood/mean/mean_average_precision"] == 0.75
    assert "ood/mean/auroc" not in found
