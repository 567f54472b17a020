"""This module draws accuracy under every shift: a group of bars for each shift, a bar for each method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from peft_vision.report.figures import (
    GRID,
    LEFT,
    NARROW_LEFT,
    NORMAL,
    RIGHT,
    SMALL,
    Look,
    PanelLine,
    inches,
    legend_width,
    looks,
    panel_figure,
    plain,
)
from peft_vision.report.id_ood import Comparison, ComparisonRow, Statistic
from peft_vision.report.robustness import Counts

_WIDEST = 11.0  # inches, of a picture
_NARROWEST = 3.5
_SIDE = LEFT + RIGHT  # inches beside the panels of a line
_BAR, _GROUP = 0.045, 0.68  # inches, the least widths of a bar and of a group
_FILLED = 0.82  # fraction of a group's width that its bars fill
_HEIGHT = 1.3  # inches, of a panel without words
_SPACE, _LINE = 0.1, 0.13  # inches, around the labels of a panel and of each of their lines


@dataclass(frozen=True)
class Group:
    """The shifts that share bars: one, or the severities of a corruption. `prefixes`: of their metrics."""

    label: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """A panel of the shifts of one set, or of all sets with a single shift, for which `title` is empty."""

    title: str
    groups: tuple[Group, ...]

    def size(self, group: float) -> int:
        """Return the width in groups of `group` inches, with room for the title."""
        return max(len(self.groups), math.ceil(inches(self.title, NORMAL) / group))


@dataclass(frozen=True)
class BarLabels:
    """The labels of a panel's groups; `height` in inches."""

    texts: tuple[str, ...]
    rotation: int
    height: float


def shift_bars(comparison: Comparison, look_of: Mapping[str, Look] | None = None) -> Figure | None:
    """Draw the bars; error bars show the std over seeds. None where no run was scored out of distribution."""
    rows = [row for row in comparison.rows if not row.is_interpolated and row.scores]
    if not rows or not comparison.sets:
        return None
    look_of = look_of or looks(row.label for row in comparison.rows if not row.is_interpolated)
    least = max(_GROUP, _BAR * (len(rows) + 1))
    lines = _lines(_panels(comparison.sets), least)
    names = [row.label for row in rows]
    longest = max(sum(panel.size(least) for panel in line) for line in lines)
    group = max(least, (max(_NARROWEST, legend_width(names)) - _SIDE) / longest)
    widths = {panel: group * panel.size(least) for line in lines for panel in line}
    labels = {panel: _labels(panel, width / len(panel.groups)) for panel, width in widths.items()}
    layout = [
        PanelLine(tuple(widths[panel] for panel in line), _HEIGHT, max(labels[panel].height for panel in line) + _SPACE)
        for line in lines
    ]
    handles = [Patch(**_style(look_of[name]), label=plain(name)) for name in names]
    figure, axes = panel_figure(comparison.title, layout, handles, shares_y=True, titled=True)
    remaining = iter(axes)
    for line in lines:
        for number, panel in enumerate(line):
            panel_axes = next(remaining)
            _draw(panel_axes, panel, labels[panel], rows, look_of)
            if number == 0:
                panel_axes.set_ylabel("OOD accuracy (%)", fontsize=NORMAL)
                panel_axes.set_ylim(bottom=0)
    return figure


def statistic(row: ComparisonRow, group: Group) -> Statistic | None:
    """Return the statistic of each seed's mean over the shifts of the group; seeds that lack one of them do not
    count."""
    metrics = [f"{prefix}/accuracy" for prefix in group.prefixes]
    whole = [scores for scores in row.scores if all(metric in scores for metric in metrics)]
    return Statistic.of(fmean(scores[metric] for metric in metrics) for scores in whole)


def _panels(sets: Mapping[str, Counts]) -> list[Panel]:
    """Return one panel of all sets with a single shift, then a panel for each of the others."""
    single = tuple(Group(name, (f"ood/{name}",)) for name, prefixes in sets.items() if len(prefixes) == 1)
    several = [_of_set(name, prefixes) for name, prefixes in sets.items() if len(prefixes) > 1]
    return [*([Panel("", single)] if single else []), *several]


def _of_set(name: str, prefixes: Counts) -> Panel:
    """Return the panel of a set, in which fog-1 to fog-5 share a group; shifts without a number, or whose corruption
    has one severity, keep their names."""
    grouped: dict[str, list[str]] = {}
    for prefix in prefixes:
        shift = prefix.removeprefix(f"ood/{name}/")
        corruption, _, severity = shift.rpartition("-")
        grouped.setdefault(corruption if corruption and severity.isdecimal() else shift, []).append(prefix)
    groups = [
        Group(label if alike[1:] else alike[0].removeprefix(f"ood/{name}/"), tuple(alike))
        for label, alike in grouped.items()
    ]
    averaged = any(alike[1:] for alike in grouped.values())
    return Panel(f"{name}, mean over severities" if averaged else name, tuple(groups))


def _lines(panels: Sequence[Panel], group: float) -> list[list[Panel]]:
    """Put each panel into the first line that has room for it; one that is too long for a line continues in the
    next."""
    most = int((_WIDEST - _SIDE) / group)
    lines: list[list[Panel]] = []
    for panel in panels:
        step = math.ceil(len(panel.groups) / math.ceil(len(panel.groups) / most))
        for start in range(0, len(panel.groups), step):
            part = Panel(panel.title, panel.groups[start : start + step])
            gap = (NARROW_LEFT + RIGHT) / group  # between two panels, in groups
            room = (line for line in lines if sum(piece.size(group) + gap for piece in (*line, part)) - gap <= most)
            if (line := next(room, None)) is None:
                lines.append([part])
            else:
                line.append(part)
    return lines


def _labels(panel: Panel, width: float) -> BarLabels:
    """Return horizontal labels, in one line or broken after _ and -, if each fits into `width` inches; else vertical
    ones."""
    fitting: list[str] = []
    for group in panel.groups:
        broken = group.label.replace("_", "_\n").replace("-", "-\n")
        fits = (text for text in (group.label, broken) if max(_letters(text)) < width - 0.05)
        if (text := next(fits, None)) is None:
            upright = tuple(plain(group.label) for group in panel.groups)
            return BarLabels(upright, rotation=90, height=max(_letters("\n".join(upright))))
        fitting.append(plain(text))
    return BarLabels(tuple(fitting), rotation=0, height=_LINE * max(text.count("\n") + 1 for text in fitting))


def _letters(text: str) -> list[float]:
    """Return the width, in inches, of each line."""
    return [inches(line, SMALL) for line in text.split("\n")]


def _draw(
    axes: Axes, panel: Panel, labels: BarLabels, rows: Sequence[ComparisonRow], look_of: Mapping[str, Look]
) -> None:
    bar = _FILLED / len(rows)
    for number, row in enumerate(rows):
        found = {
            place: accuracy
            for place, group in enumerate(panel.groups)
            if (accuracy := statistic(row, group)) is not None
        }
        centres = {place: place + bar * (number - (len(rows) - 1) / 2) for place in found}
        heights = [100 * accuracy.mean for accuracy in found.values()]
        axes.bar(list(centres.values()), heights, bar, **_style(look_of[row.label]), label=plain(row.label))
        spread = {place: accuracy for place, accuracy in found.items() if accuracy.std is not None}
        axes.errorbar(
            [centres[place] for place in spread],
            [100 * accuracy.mean for accuracy in spread.values()],
            [100 * accuracy.std for accuracy in spread.values()],
            fmt="none",
            ecolor="#404040",
            elinewidth=0.8,
        )
    axes.set_title(plain(panel.title), fontsize=NORMAL)
    axes.set_xticks(range(len(labels.texts)), labels.texts, rotation=labels.rotation)
    axes.set_xlim(-0.5, len(labels.texts) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", **GRID)


def _style(look: Look) -> dict[str, str | float]:
    return {"facecolor": look.colour, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0.3}
