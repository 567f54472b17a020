"""Several classes a picture: metrics are scikit-learn's, the loss its definition, the threshold the best one."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch.nn import functional as F

from peft_vision.core.config import ConfigError
from peft_vision.objective.multi_label import MultiLabel, best_threshold

PLAIN = {"positive_weights": None, "focal_gamma": 0.0, "threshold": "validation"}


def criterion(num_classes: int, **options):
    return MultiLabel(**{**PLAIN, **options}).criterion(tuple(map(str, range(num_classes))))


def drawn(count: int, num_classes: int):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, num_classes, generator=generator)
    return logits, (torch.rand(count, num_classes, generator=generator) < 0.3).to(torch.uint8)


def test_metrics_are_scikit_learns():
    logits, labels = drawn(200, 6)
    scores = criterion(6).scores(criterion(6).judge(logits, labels))
    shares, truth = logits.sigmoid().double().numpy(), labels.numpy()
    assert scores["mean_average_precision"] == pytest.approx(average_precision_score(truth, shares, average="macro"))
    assert scores["auroc"] == pytest.approx(roc_auc_score(truth, shares, average="macro"))
    assert scores["f1_micro"] == pytest.approx(f1_score(truth, shares >= 0.5, average="micro"))
    assert scores["f1_macro"] == pytest.approx(f1_score(truth, shares >= 0.5, average="macro"))
    expected = F.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()
    assert scores["loss"] == pytest.approx(expected, rel=1e-5)


def test_means_leave_out_classes_for_which_they_are_not_defined():
    logits, labels = drawn(50, 3)
    labels[:, 0], labels[:, 1] = 0, 1  # one that no picture has, one that all have
    scores = criterion(3).scores(criterion(3).judge(logits, labels))
    shares = logits.sigmoid().double().numpy()
    third = average_precision_score(labels[:, 2], shares[:, 2])
    assert scores["mean_average_precision"] == pytest.approx((1 + third) / 2)
    assert scores["auroc"] == pytest.approx(roc_auc_score(labels[:, 2], shares[:, 2]))


def test_pictures_without_any_class_define_neither_precision_nor_area():
    logits, labels = torch.randn(5, 2), torch.zeros(5, 2, dtype=torch.uint8)
    scores = criterion(2).scores(criterion(2).judge(logits, labels))
    assert {"mean_average_precision", "auroc"}.isdisjoint(scores)
    assert np.isfinite([*scores.values()]).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_best_of_all(seed):
    generator = torch.Generator().manual_seed(seed)
    shares = (torch.rand(40, generator=generator) * 10).round() / 10  # many are equal
    labels = torch.randint(0, 2, (40,), generator=generator)
    best = best_threshold(labels, shares)
    every = [f1_score(labels, shares >= value) for value in shares.unique()]
    assert f1_score(labels, shares >= best) == pytest.approx(max(every))


def test_without_a_positive_the_threshold_stays_in_the_middle():
    assert best_threshold(torch.zeros(4), torch.rand(4)) == 0.5


def test_validation_chooses_the_threshold_which_is_saved_with_the_model():
    logits, labels = drawn(60, 4)
    chosen = criterion(4)
    chosen.fit_validation(chosen.judge(logits - 2, labels))
    assert 0 < chosen.threshold < 0.5
    assert "threshold" in chosen.state_dict()
    given = criterion(4, threshold=0.3)
    assert not given.chooses
    assert given.threshold == pytest.approx(0.3)


def test_weights_of_presence_are_absent_by_present_pictures():
    logits, labels = drawn(40, 3)
    weighted = criterion(3, positive_weights="balanced")
    weighted.fit(labels)
    present = labels.double().sum(dim=0)
    expected = F.binary_cross_entropy_with_logits(
        logits.double(), labels.double(), pos_weight=(40 - present) / present, reduction="none"
    )
    loss = weighted.loss(logits, labels, label_smoothing=0.0).item()
    assert loss == pytest.approx(expected.mean(dim=1).sum().item(), rel=1e-5)
    assert torch.equal(weighted.judge(logits, labels)[0], criterion(3).judge(logits, labels)[0])


def test_focal_loss_reduces_what_is_certain():
    logits, labels = torch.tensor([[4.0, -1.0]]), torch.tensor([[1, 1]])
    p = logits.sigmoid()[0]
    expected = -((1 - p[0]) ** 2 * p[0].log() + (1 - p[1]) ** 2 * p[1].log()) / 2
    loss = criterion(2, focal_gamma=2.0).loss(logits, labels, label_smoothing=0.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_smoothing_moves_the_goal_towards_a_half():
    logits, labels = torch.tensor([[0.0]]), torch.tensor([[1]])
    assert criterion(1).loss(logits, labels, label_smoothing=0.2).item() == pytest.approx(np.log(2))
    sure = criterion(1).loss(torch.tensor([[3.0]]), labels, label_smoothing=0.2).item()
    assert sure == pytest.approx(F.binary_cross_entropy_with_logits(torch.tensor(3.0), torch.tensor(0.9)).item())


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match=r"objective.positive_weights: 2 weights for 3 classes"):
        criterion(3, positive_weights=(1.0, 2.0))
    with pytest.raises(ConfigError, match="got 0, should be above 0"):
        criterion(2, positive_weights=(1.0, 0.0))
