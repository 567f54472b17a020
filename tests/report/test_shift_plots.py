"""The pictures of a comparison: what they show is what was measured, and no word lies on another."""

import random
from functools import cache
from itertools import combinations, pairwise
from statistics import NormalDist, fmean, stdev

import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from made_up_runs import write_run
from peft_vision.report.collect import collect
from peft_vision.report.curves import alpha_curves
from peft_vision.report.figures import accuracy_ticks, looks
from peft_vision.report.id_ood import Comparison, comparisons
from peft_vision.report.robustness import scale
from peft_vision.report.scatters import id_ood_scatter
from peft_vision.report.shift_bars import shift_bars

PICTURES = (id_ood_scatter, alpha_curves, shift_bars)
METHODS = ("full", "lp_ft", "lora", "linear", "vpt_deep", "ssf", "bitfit", "adaptformer", "convpass", "vqt", "fact_tk")
METHODS = (*METHODS, "repadapter")
SETS = ("cifar10_c", "cifar10_1", "stl10", "imagenet_v2", "imagenet_sketch", "domainnet", "fmow", "a", "b", "living17")
SHIFTS = {"domainnet": ("real", "painting", "clipart"), "fmow": ("Africa", "Americas", "Asia", "Europe", "Oceania")}
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
SHIFTS["cifar10_c"] = tuple(f"{corruption}-{severity}" for corruption in CORRUPTIONS for severity in range(1, 6))


def compared(runs) -> Comparison:
    (comparison,) = comparisons(collect(runs)[0], reference=("full",), transform="probit")
    return comparison


def write_runs(runs, methods, sets) -> None:
    """Two settings of two seeds each, interpolated and scored on every set."""
    draw = random.Random(0)
    for method in methods:
        for lr in (0.1, 0.2):
            for seed in range(2):
                test = draw.uniform(0.7, 0.95)
                ood = {name: {shift: draw.uniform(0.2, test) for shift in SHIFTS.get(name, ())} for name in sets}
                ood = {name: found or draw.uniform(0.2, test) for name, found in ood.items()}
                curve = {alpha / 10: (test - (1 - alpha / 10) ** 2 / 3, 0.3 + alpha / 40) for alpha in range(11)}
                options = {"val": 1 - lr, "test": test, "ood": ood, "curve": curve, "alpha": draw.choice((0.5, 0.6))}
                write_run(runs, method=method, seed=seed, lr=lr, **options)


@pytest.fixture(scope="module", params=[(1, 1), (4, 3), (12, 1), (12, 10)], ids=str)
def drawn(request, tmp_path_factory) -> dict[str, Figure]:
    """The pictures of so many methods on so many sets."""
    runs = tmp_path_factory.mktemp("runs")
    methods, sets = request.param
    write_runs(runs, METHODS[:methods], SETS[:sets])
    comparison = compared(runs)
    return {draw.__name__: draw(comparison) for draw in PICTURES}


@cache
def words(figure: Figure) -> list[tuple[str, Bbox]]:
    """All that is written, and where; not at ticks that lie beyond their axis, which are never drawn."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    beyond = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            unseen = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
            beyond |= {label for tick in unseen for label in (tick.label1, tick.label2)}
    written = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in written if text not in beyond]


@pytest.mark.parametrize("picture", [draw.__name__ for draw in PICTURES])
def test_no_word_lies_on_another_or_leaves_the_picture(picture, drawn):
    check_words(drawn[picture])


def check_words(figure: Figure) -> None:
    """None on another, all within the picture."""
    found = words(figure)
    assert len(found) > 5
    for (first, first_box), (second, second_box) in combinations(found, 2):
        assert not first_box.padded(-0.5).overlaps(second_box.padded(-0.5)), (first, second)
    for text, box in found:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text


@pytest.mark.parametrize("picture", [draw.__name__ for draw in PICTURES])
def test_every_method_is_named(picture, drawn):
    assert named(drawn) <= {text for text, _ in words(drawn[picture])}


def named(drawn) -> set[str]:
    """The methods that have bars."""
    return {
        container.get_label()
        for axes in drawn["shift_bars"].axes
        for container in axes.containers
        if is_bars(container)
    }


def is_bars(container) -> bool:
    return isinstance(container, BarContainer)


def bars(axes: Axes, method: str) -> tuple[list[float], list[tuple[float, float]]]:
    """Heights, and the ends of the error bars."""
    (series,) = [container for container in axes.containers if is_bars(container) and container.get_label() == method]
    errors = axes.containers[axes.containers.index(series) + 1]
    ends = [tuple(segment[:, 1]) for segment in errors.lines[2][0].get_segments()]
    return [patch.get_height() for patch in series.patches], ends


def test_bars_are_as_high_as_the_means_and_errors_as_long_as_the_spread(tmp_path):
    values = {0: (0.25, 0.5), 1: (0.35, 0.75)}
    for seed, (fog, snow) in values.items():
        write_run(tmp_path, seed=seed, ood={"fog": fog, "snow": snow})
        write_run(tmp_path, seed=seed, method="lora", ood={"fog": fog / 2, "snow": snow / 2})
    (axes,) = shift_bars(compared(tmp_path)).axes
    for method, factor in {"full": 100, "lora": 50}.items():
        heights, ends = bars(axes, method)
        assert heights == pytest.approx([factor * 0.3, factor * 0.625])
        spread = [factor * stdev(of) for of in zip(*values.values(), strict=True)]
        expected = [(h - s, h + s) for h, s in zip(heights, spread, strict=True)]
        assert ends == [pytest.approx(pair) for pair in expected]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["fog", "snow"]


def test_the_severities_of_a_corruption_share_a_bar(tmp_path):
    severities = {1: 0.8, 2: 0.6, 3: 0.1}
    ood = {f"{name}-{severity}": value for name in ("fog", "zoom") for severity, value in severities.items()}
    write_run(tmp_path, ood={"cifar10_c": ood, "domainnet": {"real-world": 0.5, "clip-art": 0.7, "sketch-1": 0.2}})
    corrupted, domains = shift_bars(compared(tmp_path)).axes
    assert corrupted.get_title() == "cifar10_c, mean over severities"
    assert [label.get_text() for label in corrupted.get_xticklabels()] == ["fog", "zoom"]
    assert bars(corrupted, "full")[0] == pytest.approx([50, 50])
    assert domains.get_title() == "domainnet"
    assert [label.get_text().replace("\n", "") for label in domains.get_xticklabels()] == [
        "real-world",
        "clip-art",
        "sketch-1",
    ]
    assert bars(domains, "full") == (pytest.approx([50, 70, 20]), [])


def test_a_shift_that_was_not_scored_is_a_gap(tmp_path):
    write_run(tmp_path, ood={"fog": 0.5, "snow": 0.5})
    write_run(tmp_path, method="lora", ood={"snow": 0.25})
    (axes,) = shift_bars(compared(tmp_path)).axes
    assert bars(axes, "lora")[0] == pytest.approx([25])
    (lora,) = [container for container in axes.containers if is_bars(container) and container.get_label() == "lora"]
    assert 1 <= lora.patches[0].get_x() < 1.5


def test_more_shifts_than_a_line_has_room_for_go_on_in_the_next(tmp_path):
    shifts = {f"region{number}": number / 100 for number in range(75)}
    write_run(tmp_path, ood={"places": shifts})
    figure = shift_bars(compared(tmp_path))
    assert len({axes.get_position().y0 for axes in figure.axes}) == 5
    heights = [height for axes in figure.axes for height in bars(axes, "full")[0]]
    assert heights == pytest.approx([100 * value for value in shifts.values()])


def test_the_scatter_lies_at_probits_and_the_chosen_seeds_are_strong(tmp_path):
    for number, (lr, val) in enumerate([(0.1, 0.9), (0.2, 0.5), (0.3, 0.4)]):
        for seed in range(2):
            within = 0.5 + 0.1 * number + 0.02 * seed
            write_run(tmp_path, seed=seed, lr=lr, val=val, test=within, ood={"fog": within / 2})
    (axes,) = id_ood_scatter(compared(tmp_path)).axes
    faint, strong = (sorted(map(tuple, dots.get_offsets().tolist())) for dots in axes.collections[:2])
    probit = NormalDist().inv_cdf
    assert strong == [pytest.approx((probit(within), probit(within / 2))) for within in (0.5, 0.52)]
    assert len(faint) == 6
    assert set(strong) < set(faint)
    for axis in (axes.xaxis, axes.yaxis):
        for place, label in zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True):
            assert place == pytest.approx(probit(float(label.get_text()) / 100))


def test_the_scatter_draws_the_line_of_the_table(tmp_path):
    for number in range(4):
        write_run(tmp_path, seed=number, test=0.5 + 0.1 * number, ood={"fog": 0.3 + 0.1 * number})
    comparison = compared(tmp_path)
    (axes,) = id_ood_scatter(comparison).axes
    line = comparison.lines["ood/fog"]
    (drawn,) = [artist for artist in axes.lines if artist.get_label().startswith("y = ")]
    ends = [scale(accuracy, images=1000, transform="probit") for accuracy in (0.5, 0.8)]
    assert drawn.get_xdata().tolist() == pytest.approx(ends)
    assert drawn.get_ydata().tolist() == pytest.approx([line.slope * x + line.intercept for x in ends])
    assert drawn.get_label() == f"y = {line.slope:.2f} x - {-line.intercept:.2f}\nR² = {line.r2:.2f}"


def test_there_is_a_panel_for_each_set_and_one_for_their_mean(drawn):
    titles = [axes.get_title() for axes in drawn["id_ood_scatter"].axes]
    assert titles == (["cifar10_c"] if len(titles) == 1 else [*SETS[: len(titles) - 1], "mean of all sets"])


def test_one_run_alone_can_be_drawn(tmp_path):
    write_run(tmp_path, test=1.0, ood={"fog": 0.0})
    comparison = compared(tmp_path)
    assert len(id_ood_scatter(comparison).axes) == 1
    assert bars(shift_bars(comparison).axes[0], "full") == (pytest.approx([0]), [])


def test_alpha_curves_are_means_over_seeds_and_mark_the_chosen(tmp_path):
    curves = [{0.0: (0.2, 0.1), 0.5: (0.8, 0.6), 1.0: (0.7, 0.5)}, {0.0: (0.3, 0.3), 0.25: (0.5, 0.5), 1.0: (0.9, 0.7)}]
    for seed, (curve, alpha) in enumerate(zip(curves, (0.5, 1.0), strict=True)):
        write_run(tmp_path, seed=seed, ood={"fog": 0.5}, curve=curve, alpha=alpha)
    (axes,) = alpha_curves(compared(tmp_path)).axes
    curve, star = axes.lines
    assert curve.get_xydata().tolist() == [pytest.approx([25, 20]), pytest.approx([80, 60])]
    assert star.get_xydata().tolist() == [pytest.approx([100 * fmean((0.8, 0.9)), 100 * fmean((0.6, 0.7))])]
    assert [text.get_text() for text in axes.texts] == ["0", "1"]


def test_four_methods_and_more_have_an_alpha_panel_each(drawn):
    figure = drawn["alpha_curves"]
    assert len(figure.axes) == len(named(drawn)) in (1, 4, 12)
    for axes in figure.axes:
        assert {"0", "1"} <= {text.get_text() for text in axes.texts}


@pytest.mark.parametrize("draw", PICTURES)
def test_without_scores_out_of_distribution_there_is_nothing_to_draw(draw, tmp_path):
    write_run(tmp_path)
    assert draw(compared(tmp_path)) is None


def test_without_interpolation_there_are_no_curves(tmp_path):
    write_run(tmp_path, ood={"fog": 0.5})
    assert alpha_curves(compared(tmp_path)) is None


def test_no_two_methods_look_alike():
    found = list(looks(str(number) for number in range(24)).values())
    assert (
        len({(look.colour, look.marker) for look in found}) == len({(look.colour, look.hatch) for look in found}) == 24
    )


@pytest.mark.parametrize("ends", [(0.02, 0.98), (0.7, 0.95), (0.905, 0.918), (0.97, 0.9995), (0.001, 0.02)])
@pytest.mark.parametrize("transform", ["probit", "logit"])
def test_an_axis_has_a_few_ticks_with_room_between_them(ends, transform):
    low, high = (scale(end, images=10**6, transform=transform) for end in ends)
    places = sorted(accuracy_ticks(low, high, transform))
    assert 3 <= len(places) <= 8
    assert low <= places[0] < places[-1] <= high
    assert min(b - a for a, b in pairwise(places)) >= (high - low) / 7


def test_a_dollar_sign_begins_no_formula(tmp_path):
    write_run(tmp_path, method="a$b_{c$", data="$x^$", ood={"$fog$": 0.5})
    figure = shift_bars(compared(tmp_path))
    figure.draw_without_rendering()
    assert "a\\$b_{c\\$" in [text for text, _ in words(figure)]


@pytest.mark.parametrize("draw", PICTURES)
def test_long_names_make_a_wider_picture(draw, tmp_path):
    sets = [f"a_set_with_a_name_that_no_panel_has_room_for_{number}" for number in range(3)]
    methods = [f"a_method_with_a_name_that_is_far_too_long_for_anybody_{number}" for number in range(4)]
    write_runs(tmp_path, methods, sets)
    check_words(draw(compared(tmp_path)))


def test_alphas_that_crowd_are_written_only_where_there_is_room(tmp_path):
    for method in ("full", "lora"):
        curve = {alpha / 50: (0.5 + alpha / 5000, 0.5 + (alpha - 25) ** 2 / 10**5) for alpha in range(51)}
        write_run(tmp_path, method=method, ood={"fog": 0.5}, curve={**curve, 2.0: (0.9, 0.9)}, alpha=0.0)
    figure = alpha_curves(compared(tmp_path))
    check_words(figure)
    assert 2 < len(figure.axes[0].texts) < 20
