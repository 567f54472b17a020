"""Metrics against scikit-learn and against their definitions."""

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, top_k_accuracy_score
from torch.nn import functional as F

from peft_vision.core.config import ConfigError
from peft_vision.objective.single_label import Predictions, SingleLabel, judge


@pytest.fixture(scope="module")
def scored():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(400, 8, generator=generator)
    labels = torch.randint(0, 8, (400,), generator=generator)
    labels[labels == 3] = 4  # a class that does not occur
    return logits, labels, Predictions(*judge(logits, labels)).metrics()


def test_metrics_are_scikit_learns(scored):
    logits, labels, metrics = scored
    probabilities, predicted = logits.double().softmax(1), logits.argmax(1)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert metrics["accuracy_top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=range(8)))
    assert metrics["loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(8)), rel=1e-5)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true:UserWarning")
def test_the_mean_over_classes_leaves_absent_classes_out(scored):
    logits, labels, metrics = scored
    assert metrics["accuracy_per_class"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))


def test_calibration_error_is_its_definition(scored):
    logits, labels, metrics = scored
    confidence, predicted = logits.softmax(1).max(1)
    error = 0.0
    for low in range(15):
        inside = (confidence >= low / 15) & (confidence < (low + 1) / 15)
        if inside.any():
            accuracy = (predicted[inside] == labels[inside]).double().mean()
            error += inside.double().mean() * (accuracy - confidence[inside].double().mean()).abs()
    assert metrics["calibration_error"] == pytest.approx(float(error), abs=1e-6)


def test_confidences_are_compared_within_fifteenths():
    """0.61 and 0.69 lie in neighbouring bins, whose errors add up; in tenths they would make up for each other."""
    confidence = torch.tensor([0.61, 0.69], dtype=torch.float64)
    logits = torch.stack([confidence, 1 - confidence], dim=1).log()
    metrics = Predictions(*judge(logits, torch.tensor([0, 1]))).metrics()
    assert metrics["calibration_error"] == pytest.approx((0.39 + 0.69) / 2, abs=1e-6)


def test_sure_and_right_is_perfect():
    labels = torch.arange(6)
    metrics = Predictions(*judge(100 * torch.eye(6), labels)).metrics()
    assert metrics == pytest.approx(
        {"accuracy": 1, "accuracy_top5": 1, "accuracy_per_class": 1, "calibration_error": 0, "loss": 0}
    )


def test_fewer_than_five_classes_are_all_in_the_top_five():
    metrics = Predictions(*judge(torch.randn(10, 2), torch.randint(0, 2, (10,)))).metrics()
    assert metrics["accuracy_top5"] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_not_scored(value: float):
    logits = torch.zeros(4, 3)
    logits[1, 2] = value
    with pytest.raises(ConfigError, match=r"logits of 1 of 4 images are not finite\n.*optimizer.lr"):
        Predictions(*judge(logits, torch.tensor([0, 1, 2, 0]))).metrics()


def criterion(num_classes: int, **options):
    return SingleLabel(**{"class_weights": None, "focal_gamma": 0.0, **options}).criterion(range(num_classes))


def test_the_plain_loss_is_cross_entropy(scored):
    logits, labels, _ = scored
    loss = criterion(8).loss(logits, labels, label_smoothing=0.1)
    assert torch.equal(loss, F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum"))


def test_balanced_weights_give_each_class_the_same_share_of_the_loss(scored):
    logits, labels, _ = scored
    weighted = criterion(8, class_weights="balanced")
    weighted.fit(labels)
    assert weighted.weights[labels].mean().item() == pytest.approx(1, rel=1e-5)
    counts = torch.bincount(labels, minlength=8)
    shares = (weighted.weights * counts)[counts > 0]
    assert shares.max().item() == pytest.approx(shares.min().item(), rel=1e-5)
    losses = F.cross_entropy(logits, labels, reduction="none") * weighted.weights[labels]
    assert weighted.loss(logits, labels, label_smoothing=0.0).item() == pytest.approx(losses.sum().item(), rel=1e-5)


def test_focal_loss_is_its_equation(scored):
    logits, labels, _ = scored
    certain = logits.softmax(dim=1)[torch.arange(len(labels)), labels]
    expected = -((1 - certain) ** 2 * certain.log()).sum().item()
    loss = criterion(8, focal_gamma=2.0).loss(logits, labels, label_smoothing=0.0).item()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_only_the_plain_loss_is_one_that_solvers_minimise():
    plain = {"class_weights": None, "focal_gamma": 0.0}
    assert SingleLabel(**plain).is_plain
    assert not SingleLabel(**{**plain, "class_weights": "balanced"}).is_plain
    assert not SingleLabel(**{**plain, "focal_gamma": 1.0}).is_plain
