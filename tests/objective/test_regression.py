"""Numbers: standardised by training, predicted in their own unit, with scikit-learn's and scipy's metrics."""

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from peft_vision.core.config import ConfigError
from peft_vision.objective.regression import Regression, scored


def criterion(*targets: str, error: str = "mse", choose_by: str = "r2"):
    return Regression(error=error, choose_by=choose_by).criterion(targets)


def test_outputs_are_in_the_targets_own_unit():
    numbers = criterion("age", "weight")
    labels = torch.tensor([[20.0, 1000.0], [40.0, 3000.0]])
    numbers.fit(labels)
    assert numbers.mean.tolist() == [30, 2000]
    assert numbers.std.tolist() == [10, 1000]
    assert numbers(torch.tensor([[1.0, -1.0]])).tolist() == [[40, 1000]]
    assert {"mean", "std"} <= numbers.state_dict().keys()


def test_a_target_that_never_varies_is_named_and_not_divided_by_zero(caplog):
    numbers = criterion("age")
    numbers.fit(torch.full((3, 1), 7.0))
    assert caplog.messages == ["objective age is 7 in every training image"]
    assert numbers(torch.zeros(1, 1)).tolist() == [[7]]
    assert numbers.loss(torch.full((2, 1), 9.0), torch.full((2, 1), 7.0), label_smoothing=0.0) == 8


@pytest.mark.parametrize(("error", "power"), [("mse", 2), ("l1", 1)])
def test_the_loss_is_of_standardised_targets(error, power):
    numbers = criterion("a", "b", error=error)
    labels = torch.tensor([[0.0, 0.0], [2.0, 20.0]])
    numbers.fit(labels)
    outputs = torch.tensor([[1.0, 0.0], [2.0, 40.0]])
    expected = (1**power + 2**power) / 2
    assert numbers.loss(outputs, labels, label_smoothing=0.0).item() == pytest.approx(expected)


def test_metrics_are_scikit_learns_and_scipys():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(50, 2, generator=generator)
    found = truth + torch.randn(50, 2, generator=generator)
    numbers = criterion("a", "b")
    scores = numbers.scores(numbers.judge(found, truth))
    t, f = truth.double().numpy(), found.double().numpy()
    assert scores["mae"] == pytest.approx(mean_absolute_error(t, f))
    assert scores["rmse"] == pytest.approx(root_mean_squared_error(t, f))
    assert scores["r2"] == pytest.approx(r2_score(t, f))
    ranks = [spearmanr(t[:, i], f[:, i]).statistic for i in range(2)]
    assert scores["spearman"] == pytest.approx(sum(ranks) / 2)
    assert scores["spearman/b"] == pytest.approx(ranks[1])


def test_what_is_not_defined_is_left_out():
    constant, varied = torch.ones(4).numpy(), torch.arange(4.0).numpy()
    assert scored(constant, varied).keys() == {"mae", "rmse"}
    assert scored(varied, constant).keys() == {"mae", "rmse", "r2"}
    assert scored(varied[:1], varied[1:2]).keys() == {"mae", "rmse"}


@pytest.mark.parametrize(("choose_by", "best"), [("r2", 0.9), ("mae", 0.1), ("rmse", 0.1), ("spearman", 0.9)])
def test_each_metric_says_which_way_is_better(choose_by, best):
    metric = criterion("a", choose_by=choose_by).metric
    assert max((0.1, 0.9), key=metric.rank) == best


def test_numbers_have_no_classes_to_smooth():
    with pytest.raises(ConfigError, match=r"trainer.label_smoothing: got 0.1, and numbers have no classes"):
        Regression(error="mse", choose_by="r2").check_smoothing(0.1)
