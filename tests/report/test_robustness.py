"""Effective robustness: the line, and what lies beyond it."""

import math
from statistics import NormalDist

import pytest

from peft_vision.report.robustness import fit, scale, unscale

OPTIONS = {"id_images": 1000, "ood_images": 500}
TRANSFORMS = ("probit", "logit")
WITHIN = [0.55, 0.7, 0.8, 0.93]


def on_a_line(slope: float, intercept: float, transform: str) -> list[float]:
    return [
        unscale(slope * scale(accuracy, images=1000, transform=transform) + intercept, transform=transform)
        for accuracy in WITHIN
    ]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_known_line_is_recovered(transform):
    line = fit(WITHIN, on_a_line(0.8, -0.4, transform), transform=transform, **OPTIONS)
    assert (line.slope, line.intercept, line.r2) == pytest.approx((0.8, -0.4, 1.0), abs=1e-12)
    assert (line.points, line.low, line.high) == (4, 0.55, 0.93)
    assert [line.predict(accuracy) for accuracy in WITHIN] == pytest.approx(on_a_line(0.8, -0.4, transform))


def test_the_line_is_that_of_least_squares():
    within, beyond = [0.5, 0.6, 0.9, 0.9, 0.99], [0.3, 0.5, 0.6, 0.8, 0.7]
    line = fit(within, beyond, transform="probit", **OPTIONS)
    x, y = ([NormalDist().inv_cdf(accuracy) for accuracy in of] for of in (within, beyond))
    rest = [b - line.slope * a - line.intercept for a, b in zip(x, y, strict=True)]
    assert sum(rest) == pytest.approx(0, abs=1e-12)
    assert sum(a * b for a, b in zip(x, rest, strict=True)) == pytest.approx(0, abs=1e-12)
    middle = sum(y) / len(y)
    assert line.r2 == pytest.approx(1 - sum(b * b for b in rest) / sum((b - middle) ** 2 for b in y))


def test_probit_and_logit_are_what_they_are_called():
    assert scale(0.975, images=1000, transform="probit") == pytest.approx(1.959964, abs=1e-6)
    assert scale(0.75, images=1000, transform="logit") == pytest.approx(math.log(3))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_scale_is_undone_exactly(transform):
    for accuracy in (0.001, 0.2, 0.5, 0.999):
        assert unscale(scale(accuracy, images=10**6, transform=transform), transform=transform) == pytest.approx(
            accuracy
        )
    assert (unscale(-800.0, transform=transform), unscale(800.0, transform=transform)) == (0.0, 1.0)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_none_and_all_right_count_as_half_an_image(transform):
    half = scale(0.01, images=10_000, transform=transform)  # of 50 images
    assert scale(0.0, images=50, transform=transform) == half < scale(0.02, images=50, transform=transform)
    assert scale(1.0, images=50, transform=transform) == scale(0.99, images=50, transform=transform)
    assert math.isfinite(fit([0, 0.5, 1], [0, 0.5, 1], transform=transform, **OPTIONS).slope)


@pytest.mark.parametrize("within", [[], [0.5], [0.5, 0.6, 0.6, 0.5]])
def test_fewer_than_three_different_accuracies_make_no_line(within):
    said = f"^{len(set(within))} different ID accuracies, a line takes 3$"
    with pytest.raises(ValueError, match=said):
        fit(within, within, transform="probit", **OPTIONS)


def test_a_level_line_has_no_r2():
    line = fit([0.5, 0.6, 0.7], [0.4, 0.4, 0.4], transform="probit", **OPTIONS)
    assert line.r2 is None
    assert line.predict(0.65) == pytest.approx(0.4)
