"""A whole path of the L-BFGS probe equals scikit-learn's exact Newton, on problems that are hard for a plain one."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.models.observations import FeatureTable
from peft_vision.optimizer.base import Fitting
from peft_vision.optimizer.lbfgs import LBFGS, Logistic
from peft_vision.schedule.schedules import Constant

PAPER = tuple(np.logspace(-7, 2, 50).tolist())


def correlated(count: int, width: int, *, seed: int) -> FeatureTable:
    """Five classes that overlap; the features share a mean and their variances span three orders of magnitude."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 5
    scales = np.arange(1, width + 1) ** -1.0
    centres = 0.4 * generator.normal(size=(5, width))
    turn = np.linalg.qr(generator.normal(size=(width, width)))[0]
    features = (centres[labels] + generator.normal(size=(count, width))) * scales @ turn + generator.normal(size=width)
    return FeatureTable(torch.from_numpy(labels), torch.from_numpy(features))


def separable(count: int, width: int, *, seed: int) -> FeatureTable:
    """More features than images, and of six classes the fourth has no image."""
    generator = np.random.default_rng(seed)
    labels = np.array([0, 1, 2, 4, 5])[np.arange(count) % 5]
    features = generator.normal(size=(6, width))[labels] + generator.normal(size=(count, width))
    return FeatureTable(torch.from_numpy(labels), torch.from_numpy(features))


PROBLEMS = [(correlated(300, 30, seed=0), 5), (separable(40, 60, seed=0), 6)]


def solver(*strengths: float, tolerance: float = 1e-9, max_iterations: int = 1000) -> LBFGS:
    return LBFGS(C=strengths, normalize=False, tolerance=tolerance, max_iterations=max_iterations)


def problem(data: FeatureTable, num_classes: int, label_smoothing: float = 0.0) -> Logistic:
    return Logistic(data.features.double(), data.labels, num_classes, label_smoothing)


def objective_gradient(
    data: FeatureTable, weight: Tensor, bias: Tensor, strength: float, *, label_smoothing: float = 0.0
) -> Tensor:
    """By autograd, on the features as they came: (C, W + 1)."""
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    loss = F.cross_entropy(F.linear(data.features, weight, bias), data.labels, label_smoothing=label_smoothing)
    objective = loss + weight.square().sum() / (2 * strength * len(data.labels))
    gradients = torch.autograd.grad(objective, (weight, bias))
    return torch.cat([gradients[0], gradients[1][:, None]], dim=1)


@pytest.mark.parametrize(("data", "num_classes"), PROBLEMS, ids=["correlated", "separable"])
def test_the_papers_path_equals_scikit_learns_newton_at_every_strength(data, num_classes):
    task = problem(data, num_classes)
    for weights, row in solver(*PAPER).path(task):
        weight, bias = task.head(weights)
        reference = LogisticRegression(C=row["C"], solver="newton-cholesky", tol=1e-10)
        reference.fit(data.features.numpy(), data.labels.numpy())
        bias = bias[reference.classes_]
        assert np.abs(weight[reference.classes_].numpy() - reference.coef_).max() < 1e-4
        # the same added to every intercept changes nothing
        differences = (bias - bias.mean()).numpy() - (reference.intercept_ - reference.intercept_.mean())
        assert np.abs(differences).max() < 1e-4


@pytest.mark.parametrize(("data", "num_classes"), PROBLEMS, ids=["correlated", "separable"])
def test_each_strength_of_a_path_ends_where_it_does_alone(data, num_classes):
    task = problem(data, num_classes)
    strengths = (1e-5, 1e-2, 1.0, 1e3)
    for weights, row in solver(*strengths, tolerance=1e-11).path(task):
        ((alone, _),) = solver(row["C"], tolerance=1e-11).path(task)
        for one, other in zip(task.head(weights), task.head(alone), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_strength_named_twice_is_solved_twice():
    task = problem(*PROBLEMS[0])
    (first, _), (second, row) = solver(0.1, 0.1).path(task)
    assert torch.equal(first, second)
    assert row["gradient"] <= 1e-9


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
def test_no_entry_of_the_gradient_is_larger_than_the_tolerance_nor_than_the_row_says(tolerance, label_smoothing):
    data, num_classes = PROBLEMS[0]
    task = problem(data, num_classes, label_smoothing)
    for weights, row in solver(1e-3, 1.0, 100.0, tolerance=tolerance).path(task):
        gradient = objective_gradient(data, *task.head(weights), row["C"], label_smoothing=label_smoothing)
        assert row["gradient"] <= tolerance
        assert gradient.abs().max().item() == pytest.approx(row["gradient"], rel=1e-3, abs=1e-14)


def test_the_search_ends_after_its_iterations():
    task = problem(*PROBLEMS[1])
    ((_, row),) = solver(1e3, max_iterations=3).path(task)
    assert row["gradient"] > 1e-9
    ((_, converged),) = solver(1e3).path(task)
    assert row["evaluations"] < converged["evaluations"]


def test_a_class_without_images_has_no_weights_and_is_never_predicted():
    data, num_classes = PROBLEMS[1]
    solution = solver(100.0).solve(nn.Linear(60, num_classes).double(), data, None, fitting(0.0))
    assert solution.weight[3].abs().max() == 0
    probabilities = F.linear(data.features, solution.weight, solution.bias).softmax(dim=1)
    assert probabilities[:, 3].max() < 1e-15
    assert solution.bias.isfinite().all()


def test_smoothing_gives_a_class_without_images_its_share():
    data, num_classes = PROBLEMS[1]
    solution = solver(100.0).solve(nn.Linear(60, num_classes).double(), data, None, fitting(0.3))
    probabilities = F.linear(data.features, solution.weight, solution.bias).softmax(dim=1)
    assert probabilities[:, 3].mean().item() == pytest.approx(0.3 / num_classes)


def test_the_same_problem_has_the_same_solution_to_the_last_bit():
    data, num_classes = PROBLEMS[0]
    first, second = (list(solver(0.1, 1.0).path(problem(data, num_classes))) for _ in range(2))
    for (weights, row), (again, row_again) in zip(first, second, strict=True):
        assert torch.equal(weights, again)
        assert row == row_again


def fitting(label_smoothing: float) -> Fitting:
    return Fitting(epochs=1, batch_size=1, label_smoothing=label_smoothing, schedule=Constant(warmup=0.0), seed=0)
