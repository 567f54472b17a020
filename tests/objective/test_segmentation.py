"""A class for each pixel: scores of one confusion matrix, against scikit-learn and by hand."""

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, jaccard_score
from torch.nn import functional as F

from peft_vision.objective.segmentation import Segmentation, confusion, dice_losses, overlap_scores


def criterion(num_classes: int, **options):
    return Segmentation(**{"class_weights": None, "dice_weight": 0.0, "stride": None, **options}).criterion(
        range(num_classes)
    )


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 6, 5, generator=generator)
    labels = torch.randint(0, 4, (3, 6, 5), generator=generator, dtype=torch.uint8)
    labels[0, :2] = 255
    return logits, labels


def test_scores_are_scikit_learns(drawn):
    logits, labels = drawn
    scores = criterion(4).scores(criterion(4).judge(logits, labels))
    counted = labels != 255
    truth, found = labels[counted], logits.argmax(dim=1)[counted]
    assert scores["mean_iou"] == pytest.approx(jaccard_score(truth, found, average="macro"))
    assert scores["pixel_accuracy"] == pytest.approx(accuracy_score(truth, found))
    assert scores["mean_accuracy"] == pytest.approx(balanced_accuracy_score(truth, found))


def test_the_matrix_is_scikit_learns(drawn):
    logits, labels = drawn
    found = logits.argmax(dim=1)
    counted = labels != 255
    assert confusion(labels, found, 4).tolist() == confusion_matrix(labels[counted], found[counted]).tolist()


def test_absent_classes_do_not_count_and_false_ones_do():
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 0]])  # the second class is only predicted, the third nowhere
    assert overlap_scores(matrix) == {
        "mean_iou": pytest.approx((3 / 4 + 0) / 2),
        "mean_accuracy": pytest.approx(3 / 4),
        "pixel_accuracy": pytest.approx(3 / 4),
    }


def test_without_a_labelled_pixel_there_is_no_score():
    logits, labels = torch.randn(1, 3, 2, 2), torch.full((1, 2, 2), 255, dtype=torch.uint8)
    assert criterion(3).scores(criterion(3).judge(logits, labels)) == {"loss": 0.0}
    assert criterion(3).loss(logits, labels, label_smoothing=0.0) == 0


def test_the_loss_is_a_mean_over_labelled_pixels_and_a_sum_over_images(drawn):
    logits, labels = drawn
    expected = sum(F.cross_entropy(logits[i : i + 1], labels[i : i + 1].long(), ignore_index=255) for i in range(3))
    assert criterion(4).loss(logits, labels, label_smoothing=0.0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_weights_of_classes_average_one_over_the_training_pixels(drawn):
    logits, labels = drawn
    weighted = criterion(4, class_weights="balanced")
    weighted.fit(labels)
    counted = labels[labels != 255].long()
    assert weighted.weights[counted].mean().item() == pytest.approx(1, rel=1e-5)
    shares = [(weighted.weights[label] * (counted == label).sum()).item() for label in range(4)]
    assert max(shares) == pytest.approx(min(shares), rel=1e-5)
    assert torch.equal(weighted.judge(logits, labels)[0], criterion(4).judge(logits, labels)[0])


def test_dice_by_hand():
    truth = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    shares = torch.tensor([[[[0.8, 0.4], [0.3, 0.9]], [[0.2, 0.6], [0.7, 0.1]]]])
    zero = 1 - 2 * 0.8 / (0.8**2 + 0.4**2 + 0.3**2 + 1)
    one = 1 - 2 * (0.6 + 0.7) / (0.2**2 + 0.6**2 + 0.7**2 + 2)
    assert dice_losses(shares, truth).item() == pytest.approx((zero + one) / 2)
    absent = torch.cat([shares, torch.full((1, 1, 2, 2), 0.1)], dim=1)  # a class that the image does not show
    assert dice_losses(absent, truth).item() == pytest.approx((zero + one) / 2)


def test_a_perfect_prediction_has_no_dice_loss(drawn):
    _, labels = drawn
    perfect = F.one_hot(torch.where(labels == 255, 0, labels.long()), 4).movedim(-1, 1).float()
    assert dice_losses(perfect, labels).abs().max() < 1e-6


def test_masks_of_their_own_size_are_compared_at_that_size(drawn):
    logits, labels = drawn
    masks = [label.repeat_interleave(2, 0).repeat_interleave(3, 1) for label in labels]
    _, matrices = criterion(4).judge_whole(logits, labels, masks)
    for image, mask, matrix in zip(logits, masks, matrices, strict=True):
        resampled = F.interpolate(image[None], size=(12, 15), mode="bilinear", align_corners=False).argmax(dim=1)[0]
        assert matrix.sum() == (mask != 255).sum()
        assert matrix.tolist() == confusion(mask, resampled, 4).tolist()
