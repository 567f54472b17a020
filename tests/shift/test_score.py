"""A model's predictions beside those of `Trainer.evaluate`, and its distances beside their definition."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peft_vision.core.distributed import World
from peft_vision.data.images import Images, Source
from peft_vision.features.fill import tabulated
from peft_vision.models.model import Model
from peft_vision.models.observations import Observed
from peft_vision.objective.single_label import Predictions
from peft_vision.shift.models import score
from peft_vision.training.evaluate import InferencePass
from peft_vision.training.trainer import Trainer
from shipped import adapted

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
FP32 = torch.autocast("cpu", enabled=False)
EVERY_CLASS = torch.ones(4, dtype=torch.bool)
IMAGES = Images(
    torch.arange(21) % 4,
    torch.randint(0, 256, (21, 3, 32, 32), generator=torch.Generator().manual_seed(1)).byte(),
    "none",
)


def moved(model: Model) -> Model:
    """Its copy, with all that it tunes changed."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    for tensor in model.tuned_state().values():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def features(model: Model) -> Tensor:
    """(n, D), what the head reads."""
    return tabulated(model, IMAGES, batch_size=8, workers=0, autocast=FP32, device=ALONE.device).features


def scored(
    model: Model, *, source: Source = IMAGES, predictable: Tensor = EVERY_CLASS, before: Tensor | None = None
) -> tuple[Predictions, dict[str, float]]:
    inference = InferencePass(batch_size=8, workers=0, world=ALONE, autocast=FP32, label="scoring")
    columns, distances = score(model, source, inference, predictable=predictable, before=before)
    return Predictions(*columns), distances


def evaluated(model: Model) -> dict[str, float]:
    values = {"epochs": 1, "batch_size": 8, "accumulate": 1, "eval_batch_size": 8, "clip_norm": None}
    values |= {"label_smoothing": 0.0, "precision": "fp32", "checkpointing": False, "compile": False}
    values |= {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}
    values |= {"save_seconds": 0.0, "keep": "last", "keep_predictions": False}
    found = Trainer(**values).evaluate(model, IMAGES, "ood", workers=0, world=ALONE)
    return {name.removeprefix("ood/"): value for name, value in found.items()}


METHODS = ["linear", "full", "partial", "lora", "vpt_deep", "vqt", "head2toe", "vqt_lora"]
ROUNDING = {"head2toe": 1e-5}  # its last layer computes every row, of which other last bits come


@pytest.mark.parametrize("method", METHODS)
def test_where_every_class_can_be_predicted_the_scores_are_those_of_an_evaluation(method):
    model = moved(adapted(method))
    predictions, distances = scored(model)
    assert predictions.metrics() == evaluated(model)
    assert distances == {}


@pytest.mark.parametrize("method", [method for method in METHODS if method != "vpt_deep"])  # prompts act at once
def test_features_of_an_untouched_backbone_have_not_moved(method):
    distances = scored(adapted(method), before=features(adapted("linear")))[1]
    assert distances.keys() == {"feature_distance", "feature_distance_relative"}
    assert max(distances.values()) <= ROUNDING.get(method, 0)


@pytest.mark.parametrize("method", ["linear", "vqt", "head2toe"])
def test_features_of_a_backbone_that_stays_frozen_never_move(method):
    distances = scored(moved(adapted(method)), before=features(adapted("linear")))[1]
    assert max(distances.values()) <= ROUNDING.get(method, 0)


@pytest.mark.parametrize("method", ["full", "partial", "lora", "vpt_deep"])
def test_the_distance_is_the_mean_length_of_the_way_that_features_went(method):
    before, model = features(adapted("linear")), moved(adapted(method))
    after = model.encoder(model.normalize(IMAGES.pixels)).detach()
    distances = scored(model, before=before)[1]
    expected = sum((one - other).norm().item() for one, other in zip(after, before, strict=True)) / len(before)
    length = sum(one.norm().item() for one in before) / len(before)
    assert distances["feature_distance"] == pytest.approx(expected, rel=1e-5)
    assert distances["feature_distance_relative"] == pytest.approx(expected / length, rel=1e-5)
    assert expected > 0


def test_a_masked_class_is_never_predicted_and_the_others_share_its_probability():
    model = moved(adapted("full"))
    kept = IMAGES.labels != 2
    images = Images(IMAGES.labels[kept], IMAGES.pixels[kept], "none")
    logits = model(images.pixels).detach()
    rivals = torch.tensor([0, 1, 3])
    restricted = logits[:, rivals]
    assert (logits.argmax(dim=1) == 2).any()
    predictions, _ = scored(model, source=images, predictable=torch.tensor([True, True, False, True]))
    assert torch.equal(predictions.predicted, rivals[restricted.argmax(dim=1)])
    torch.testing.assert_close(predictions.confidence, restricted.softmax(dim=1).max(dim=1).values)
    places = torch.tensor([0, 1, -1, 2])[images.labels]
    torch.testing.assert_close(predictions.loss, F.cross_entropy(restricted, places, reduction="none"))
    assert torch.equal(predictions.labels, images.labels)


@pytest.mark.parametrize("method", ["linear", "vqt", "head2toe", "partial"])
def test_stored_observations_are_scored_as_the_images_are(method):
    model, before = moved(adapted(method)), features(adapted("linear"))
    assert model.frozen is not None
    with torch.no_grad():
        seen = [model.observe(IMAGES.pixels[indices]) for indices in torch.arange(21).split(8)]
    rows = {kind: torch.cat([each.pack(kind) for each in seen]) for kind in model.frozen}
    stored, distances = scored(model, source=Observed(IMAGES.labels, rows), before=before)
    direct, direct_distances = scored(model, before=before)
    assert stored.metrics() == direct.metrics()
    assert distances == pytest.approx(direct_distances, abs=ROUNDING.get(method, 0))


def test_the_mode_of_a_model_stays_as_it_was():
    model = adapted("vpt_deep", dropout=0.5)
    assert model.training
    first, second = scored(model)[0], scored(model.eval())[0]
    assert first.metrics() == second.metrics()
    assert not model.training
