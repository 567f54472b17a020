"""This benchmark compares LP-FT's path of 50 linear probes with scikit-learn's: time, and distance from the minimum.

    python benchmarks/lbfgs_path.py [--images 5000] [--width 768] [--classes 10] [--repeats 3] [--compared 5]

Features are class means and noise in directions whose standard deviations fall as 1 / rank, mixed and shifted, like a
backbone's; both solvers get them normalised by their mean and standard deviation. scikit-learn runs the paper's loop
(warm_start, max_iter=200, its default tolerance). The two take turns, and the fastest turn of each counts. `difference`
is the largest deviation of any coefficient from scikit-learn's Newton method, run to 1e-12, at `--compared` strengths
spread over the path.
"""

import argparse
import warnings
from time import perf_counter

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from peft_vision.optimizer.lbfgs import LBFGS, Logistic

STRENGTHS = np.logspace(-7, 2, 50).tolist()
TOLERANCE = 1e-10  # as shipped
EXACT = 1e-12


def features_and_labels(images: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return features (n, W), float64 and normalised as in the paper, and labels (n,)."""
    generator = np.random.default_rng(0)
    labels = np.arange(images) % classes
    scales = 1 / np.arange(1, width + 1)
    centres = 0.5 * generator.normal(size=(classes, width))
    turn = np.linalg.qr(generator.normal(size=(width, width)))[0]
    features = ((centres[labels] + generator.normal(size=(images, width))) * scales) @ turn
    features += 0.2 * generator.normal(size=width)
    return torch.from_numpy((features - features.mean()) / features.std()), torch.from_numpy(labels)


def ours(features: Tensor, labels: Tensor, classes: int) -> tuple[list[np.ndarray], int]:
    """Return the coefficients (C, W) of every strength, and the pairs of products with the features that they took."""
    problem = Logistic(features, labels, classes, label_smoothing=0.0)
    solver = LBFGS(C=tuple(STRENGTHS), normalize=False, tolerance=TOLERANCE, max_iterations=1000)
    ends = list(solver.path(problem))
    evaluations = sum(int(row["evaluations"]) for _, row in ends)
    return [problem.head(weights)[0].numpy() for weights, _ in ends], evaluations


def papers_loop(features: np.ndarray, labels: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Return scikit-learn's coefficients (C, W) of every strength, and the number of its iterations."""
    model = LogisticRegression(warm_start=True, max_iter=200, random_state=0)
    coefficients, iterations = [], 0
    for strength in STRENGTHS:
        model.set_params(C=strength)
        model.fit(features, labels)
        coefficients.append(model.coef_.copy())
        iterations += int(model.n_iter_.max())
    return coefficients, iterations


def converged(features: np.ndarray, labels: np.ndarray, indices: list[int]) -> list[np.ndarray]:
    """Return scikit-learn's exact coefficients at some strengths, each started from the one before."""
    model = LogisticRegression(solver="newton-cg", warm_start=True, tol=EXACT, max_iter=1000)
    return [model.set_params(C=STRENGTHS[index]).fit(features, labels).coef_.copy() for index in indices]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compared", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # the paper's loop stops at 200 iterations

    features, labels = features_and_labels(options.images, options.width, options.classes)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(options.repeats):
        started = perf_counter()
        found, evaluations = ours(features, labels, options.classes)
        seconds["ours"].append(perf_counter() - started)
        started = perf_counter()
        loop, iterations = papers_loop(features.numpy(), labels.numpy())
        seconds["theirs"].append(perf_counter() - started)
    fastest = {name: min(times) for name, times in seconds.items()}

    indices = np.linspace(0, len(STRENGTHS) - 1, options.compared).round().astype(int).tolist()
    exact = converged(features.numpy(), labels.numpy(), indices)
    difference, loop_difference = (
        max(np.abs(some[index] - best).max() for index, best in zip(indices, exact, strict=True))
        for some in (found, loop)
    )
    shape = f"{options.images} x {options.width} features, {options.classes} classes, {len(STRENGTHS)} strengths"
    print(f"{shape}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("                     seconds  ratio  steps  difference")
    ratio = fastest["ours"] / fastest["theirs"]
    print(f"here                 {fastest['ours']:7.1f}  {ratio:5.2f}  {evaluations:5}  {difference:.1e}")
    print(f"scikit-learn's loop  {fastest['theirs']:7.1f}   1.00  {iterations:5}  {loop_difference:.1e}")


if __name__ == "__main__":
    main()
