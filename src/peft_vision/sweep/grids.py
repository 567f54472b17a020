"""This module sweeps one grid or several, so that each method can have its own values to try.

    hydra.sweeper.grids:
      full:  { method: full, optimizer.lr: "1e-4,1e-3" }
      lp_ft: { method: lp_ft, optimizer.lr: "1e-6,1e-5" }

Overrides of the command line (seed=0,1,2) are crossed with each grid and replace the grid's value of the same key, with
`+` or without. There are two exceptions. `method=full` selects among the grids. And if any grid chooses an option of a
group, a value of that group (optimizer.rank=8) applies only to the grids that name its key, if any does, because the
options that the other grids choose may not have it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from peft_vision.sweep.overrides import key_of, last_of_each
from peft_vision.sweep.points import PointSweeper, written

_CHOOSES = "method"


class SweepOfGrids(PointSweeper):
    """A sweeper that sweeps several grids. `grids`: overrides by key, by the grid's name; `params`: overrides that are
    crossed with every grid."""

    def __init__(
        self,
        grids: Mapping[str, Mapping[str, object]],
        params: Mapping[str, str] | None,
        report: Mapping[str, Any] | None,
        max_failures: int | None = None,
    ) -> None:
        super().__init__(params, report, max_failures)
        self.grids = grids

    def points(self, overrides: Sequence[Override]) -> list[tuple[str, ...]]:
        """Return the points of all grids, each once."""
        points: dict[tuple[str, ...], None] = {}
        for crossing in self.crossings(overrides):
            points |= dict.fromkeys(super().points(crossing))
        return list(points)

    def crossings(self, overrides: Sequence[Override]) -> list[list[Override]]:
        """Return the overrides of each grid, with those of `overrides` that apply to it. HydraException if `grids` is
        malformed, or if no grid has a method that the overrides choose."""
        if not self.grids:
            return [list(overrides)]
        if not _are_grids(self.grids):
            raise HydraException(
                f"hydra.sweeper.grids: got {self.grids}, should be overrides by name, as in experiment/lp_ft_vs_ft.yaml"
            )
        wanted = _methods(overrides)
        crossed = [override for override in overrides if key_of(override) != _CHOOSES]
        crossings = []
        offered: set[str] = set()
        for grid in self.grids.values():
            grid_overrides = self.parsed(written(grid))
            methods = _methods(grid_overrides)
            offered |= methods or wanted  # a grid that names no method takes any
            chosen = methods & wanted if methods and wanted else methods or wanted
            if wanted and not chosen:
                continue
            method = self.parsed([f"{_CHOOSES}={','.join(sorted(chosen))}"] if chosen else [])
            concerning = [override for override in crossed if self._concerns(override, grid)]
            crossings.append(last_of_each([*grid_overrides, *concerning, *method]))
        if unknown := wanted - offered:
            known = ", ".join(sorted(offered))
            raise HydraException(
                f"{_CHOOSES}: no grid of this sweep is of {', '.join(sorted(unknown))}; there are {known}; "
                f"add one: {_example(min(unknown))}"
            )
        return crossings

    def _concerns(self, override: Override, grid: Mapping[str, object]) -> bool:
        key = key_of(override)
        group, _, rest = key.partition(".")
        named = {name.lstrip("+") for other in self.grids.values() for name in other}
        return not (rest and {group, key} <= named) or key in {name.lstrip("+") for name in grid}


def _example(method: str) -> str:
    """Return an override that adds a grid for `method`, quoted for a shell."""
    return f"'+hydra.sweeper.grids.{method}={{{_CHOOSES}: {method}, optimizer.lr: \"1e-3,1e-2\"}}'"


def _are_grids(grids: object) -> bool:
    return isinstance(grids, Mapping) and all(isinstance(grid, Mapping) for grid in grids.values())


def _methods(overrides: Iterable[Override]) -> set[str]:
    """Return the methods that the overrides choose, swept or not."""
    found: set[str] = set()
    for override in overrides:
        if key_of(override) == _CHOOSES:
            swept = override.is_sweep_override()
            found |= set(override.sweep_string_iterator()) if swept else {override.get_value_element_as_str()}
    return found
