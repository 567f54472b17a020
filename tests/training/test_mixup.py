"""Mixup and CutMix: torchvision's, drawn by place, on the pixels of one class each."""

import copy

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from command import SMOKE, call, results
from peft_vision.objective.single_label import OneClass
from peft_vision.training.mixup import ImageMixing
from peft_vision.training.step import Batch
from peft_vision.training.train_state import TrainState
from shipped import adapted
from test_trainer import assert_same_weights, fit, random_images

CLASSES = 4


def mixing(**alphas: float) -> ImageMixing:
    return ImageMixing(
        **{"mixup_alpha": 0.0, "cutmix_alpha": 0.0, **alphas}, num_classes=CLASSES, normalize=torch.Tensor.float, seed=3
    )


def batch(parts: int = 1) -> Batch:
    images = random_images(6)
    pieces = zip(images.pixels.tensor_split(parts), images.labels.tensor_split(parts), strict=True)
    return Batch([*pieces], size=6)


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize(("name", "transform"), [("mixup_alpha", v2.MixUp), ("cutmix_alpha", v2.CutMix)])
def test_it_is_torchvisions_for_the_same_draw(name, transform, place, monkeypatch):
    mix = mixing(**{name: 1.0})
    ((images, labels),) = batch().parts
    share, box = mix.draw((32, 32), place)
    params = {"lam": share} if box is None else {"box": box, "lam_adjusted": share}
    monkeypatch.setattr(transform, "make_params", lambda *_: params)
    expected = transform(num_classes=CLASSES)(images.float(), labels)
    ((mixed, shares),) = mix(batch(), place).parts
    torch.testing.assert_close(mixed, expected[0])
    torch.testing.assert_close(shares, expected[1])
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(6))


def test_shares_and_boxes_are_those_of_the_draw_and_both_kinds_take_turns():
    mix = mixing(mixup_alpha=0.4, cutmix_alpha=1.0)
    drawn = [mix.draw((20, 40), 1, step) for step in range(400)]
    assert drawn == [mix.draw((20, 40), 1, step) for step in range(400)]
    boxes = [box for _, box in drawn if box is not None]
    assert 150 < len(boxes) < 250
    assert all(0 <= left <= right <= 40 and 0 <= top <= bottom <= 20 for left, top, right, bottom in boxes)
    rests = [1 - share for share, box in drawn if box is not None]
    assert rests == pytest.approx([(right - left) * (low - top) / 800 for left, top, right, low in boxes])
    assert sum(share for share, box in drawn if box is None) / (400 - len(boxes)) == pytest.approx(0.5, abs=0.08)


def test_a_batch_in_parts_is_mixed_as_a_whole_and_without_alphas_left_alone():
    ((whole, labels),) = mixing(cutmix_alpha=1.0)(batch(), 5).parts
    parts = mixing(cutmix_alpha=1.0)(batch(4), 5).parts
    assert torch.equal(torch.cat([images for images, _ in parts]), whole)
    assert torch.equal(torch.cat([shares for _, shares in parts]), labels)
    assert mixing()(unmixed := batch(), 0) is unmixed


@pytest.mark.parametrize("options", [{}, {"focal_gamma": 2.0}, {"class_weights": (1.0, 2.0, 0.5, 4.0)}])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_of_a_mixed_label_is_the_mixed_loss(options, smoothing):
    criterion = OneClass(CLASSES, **options)
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, CLASSES, generator=generator), torch.arange(6) % CLASSES
    others = labels.roll(1)
    shares = 0.3 * F.one_hot(labels, CLASSES).float() + 0.7 * F.one_hot(others, CLASSES)
    found = criterion.loss(logits, shares, label_smoothing=smoothing)
    own, other = (criterion.loss(logits, classes, label_smoothing=smoothing) for classes in (labels, others))
    torch.testing.assert_close(found, 0.3 * own + 0.7 * other)


def test_a_resumed_training_mixes_as_an_uninterrupted_one():
    options = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "accumulate": 2, "save_seconds": 0.0}
    through, fresh, plain = (adapted("lora") for _ in range(3))
    saved = []
    fit(through, save=lambda state: saved.append(copy.deepcopy((through.tuned_state(), vars(state)))), **options)
    tensors, state = saved[0]
    fresh.load_state_dict(tensors, strict=False)
    fit(fresh, standing=TrainState(**state), **options)
    assert_same_weights(through, fresh, rtol=0, atol=0)
    fit(plain, accumulate=2)
    with pytest.raises(AssertionError):
        assert_same_weights(through, plain)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=linear",), "here the features of the training images are stored"),
        (("method=linear", "optimizer=lbfgs"), "optimizer: LBFGS solves on images as they are"),
        (("data=digit_scenes", "data.labels_are=several", "objective=multi_label"), "objective=single_label); set 0"),
    ],
)
def test_what_cannot_be_mixed_is_refused(tmp_path, words, said):
    outcome = call(*SMOKE[:1], "data.train_size=20", *words, "trainer.cutmix_alpha=1", cwd=tmp_path)
    assert said in outcome.error
    assert results(tmp_path) == []
