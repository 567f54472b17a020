"""The L-BFGS probe equals scikit-learn's LogisticRegression, and validation chooses of its path."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from command import SMOKE, call, results
from peft_vision.models.observations import FeatureTable
from peft_vision.optimizer.base import Fitting
from peft_vision.optimizer.lbfgs import LBFGS
from peft_vision.schedule.schedules import Constant

FITTING = Fitting(epochs=1, batch_size=1, label_smoothing=0.0, schedule=Constant(warmup=0.0), seed=0)


def table(count: int, width: int, classes: int, *, seed: int, scale: float = 1.0, shift: float = 0.0) -> FeatureTable:
    """Classes that overlap, so that no strength separates them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(count, width, generator=generator)
    return FeatureTable(labels, scale * (0.4 * centres[labels] + noise) + shift)


def solver(*strengths: float, normalize: bool = False, tolerance: float = 1e-9) -> LBFGS:
    return LBFGS(C=strengths, normalize=normalize, tolerance=tolerance, max_iterations=2000)


def scikit(data: FeatureTable, strength: float) -> LogisticRegression:
    model = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000)
    return model.fit(data.features.double().numpy(), data.labels.numpy())


def differences(solution, reference: LogisticRegression) -> tuple[float, float]:
    """Of coefficients and intercepts; the mean of the intercepts is free, so it is taken out."""
    weight, bias = solution.weight.double().numpy(), solution.bias.double().numpy()
    intercept = reference.intercept_ - reference.intercept_.mean()
    return np.abs(weight - reference.coef_).max(), np.abs(bias - bias.mean() - intercept).max()


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize(("count", "width", "classes"), [(300, 20, 5), (80, 120, 3)])
def test_coefficients_equal_scikit_learns(strength, count, width, classes):
    data = table(count, width, classes, seed=0)
    solution = solver(strength).solve(nn.Linear(width, classes).double(), data, None, FITTING)
    weight, bias = differences(solution, scikit(data, strength))
    assert weight < 1e-4
    assert bias < 1e-4


def test_a_warm_started_path_ends_where_each_strength_alone_does():
    data, val = table(300, 20, 5, seed=0), table(100, 20, 5, seed=1)
    strengths = (1e-3, 0.1, 10.0)
    path = solver(*strengths).solve(nn.Linear(20, 5).double(), data, val, FITTING)
    for row, strength in zip(path.tried, strengths, strict=True):
        alone = solver(strength).solve(nn.Linear(20, 5).double(), data, val, FITTING)
        assert row["train/loss"] == pytest.approx(alone.tried[0]["train/loss"], rel=1e-8)
        assert row["val/accuracy"] == scikit(data, strength).score(val.features.numpy(), val.labels.numpy())
    weight, bias = differences(path, scikit(data, path.chosen["C"]))
    assert max(weight, bias) < 1e-4


def test_normalising_solves_the_problem_of_normalised_features_and_says_it_in_the_old_ones():
    data = table(300, 20, 5, seed=0, scale=7.0, shift=3.0)
    mean, std = data.features.double().mean(), data.features.double().std()
    normalised = FeatureTable(data.labels, (data.features.double() - mean) / std)
    reference = scikit(normalised, 0.1)
    solution = solver(0.1, normalize=True).solve(nn.Linear(20, 5).double(), data, None, FITTING)
    logits = F.linear(data.features.double(), solution.weight, solution.bias)
    expected = reference.predict_proba(normalised.features.numpy())
    assert np.abs(logits.softmax(dim=1).numpy() - expected).max() < 1e-6


def test_the_best_on_validation_is_chosen_of_equal_ones_the_lowest_loss_then_the_strongest_penalty():
    data, val = table(300, 20, 5, seed=0), table(200, 20, 5, seed=1)
    path = solver(10.0, 1e-3, 1e-6, 0.1).solve(nn.Linear(20, 5), data, val, FITTING)
    assert [row["C"] for row in path.tried] == [1e-6, 1e-3, 0.1, 10.0]
    best = max(path.tried, key=lambda row: (row["val/accuracy"], -row["val/loss"]))
    assert path.chosen["C"] == best["C"]
    easy = FeatureTable(torch.arange(4) % 2, torch.eye(4))
    tied = solver(1.0, 10.0, 100.0).solve(nn.Linear(4, 2), easy, easy, FITTING)
    assert {row["val/accuracy"] for row in tied.tried} == {1.0}
    assert tied.chosen == {"C": 100.0}  # the surest, and it is right
    blank = FeatureTable(torch.arange(4) % 2, torch.zeros(4, 4))
    assert solver(1.0, 10.0).solve(nn.Linear(4, 2), blank, blank, FITTING).chosen == {"C": 1.0}


PROBE = ("experiment=smoke", "method=linear", "optimizer=lbfgs")


def test_a_run_solves_scores_and_tells_what_it_tried(tmp_path):
    outcome = call(*PROBE, "data.train_size=400", "optimizer.C=[1e-4,1e-2,1]", cwd=tmp_path)
    assert outcome.code == 0, outcome
    (path,) = results(tmp_path)
    result = json.loads(path.read_text())
    assert [row["C"] for row in result["selection"]["tried"]] == [1e-4, 1e-2, 1.0]
    chosen = result["selection"]["chosen"]["C"]
    assert f"chosen    C={chosen:g}: of 3 settings, highest validation accuracy" in outcome.out
    best = max(row["val/accuracy"] for row in result["selection"]["tried"])
    assert result["metrics"]["val/accuracy"] == pytest.approx(best)
    assert result["test_reads"] == 1
    rows = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("method=vqt",), "LBFGS solves for a head alone, and vqt trains more; use optimizer=adamw"),
        (("method=vpt_deep",), "LBFGS solves for a head alone, and vpt_deep trains more; use optimizer=adamw"),
        (("method=head2toe",), "LBFGS solves for a head alone, and head2toe trains more; use optimizer=adamw"),
        (("head=mlp",), "LBFGS solves for one linear layer; it takes head=linear"),
        (("head.norm=batch",), "LBFGS solves for one linear layer; it takes head=linear"),
        (("data.val_fraction=0",), "9 settings and no validation images to choose by; set data.val_fraction"),
        (("optimizer.C=[]",), "optimizer.C: got [], "),
        (("optimizer.C=[-1,1,2]",), "optimizer.C.0: got -1, should be greater than 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_it_cannot_solve_is_refused_before_the_backbone_runs(change, said, tmp_path):
    outcome = call(*PROBE, *change, cwd=tmp_path)
    assert said in outcome.error
    assert len(outcome.error.splitlines()) == 1
    assert list(tmp_path.glob("store/*.safetensors")) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("optimizer=adamw",), True),
        (("optimizer=lbfgs",), False),
        (("optimizer=adamw", "head=mlp"), False),
        (("optimizer=adamw", "data.augment=flip_crop"), False),
        (("optimizer=adamw", "method=lora"), False),
    ],
)
def test_a_probe_by_one_rate_is_told_of_what_chooses_one(arguments, told, tmp_path):
    outcome = call(*SMOKE, *arguments, cwd=tmp_path)
    assert outcome.code == 0
    assert ("optimizer=grid chooses among many on validation" in outcome.out) is told
