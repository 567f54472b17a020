"""This module finds faults in the points of a sweep and reports them before the first run starts."""

import json
from collections.abc import Mapping, Sequence

from peft_vision.core.config import ConfigError
from peft_vision.runs.experiment import Experiment

_NAMED = 3  # points of one fault, and faults of data, that a message lists


def check(experiment: Experiment, checked: dict[str, str | None]) -> None:
    """Raise ConfigError if an experiment cannot run. A check that several points share runs once; its fault, or None,
    is kept in `checked`."""
    for groups, run_check in experiment.checks().items():
        key = json.dumps([groups, *(experiment.config[group] for group in groups)], sort_keys=True, default=str)
        if key not in checked:
            try:
                run_check()
                checked[key] = None
            except ConfigError as error:
                checked[key] = str(error)
        if checked[key] is not None:
            raise ConfigError(checked[key])


def account(wrong: Mapping[str, Sequence[str]], total: int) -> str:
    """Return a message with each fault of `wrong` once and the points that have it; a fault that all `total` points
    share is given in full and alone."""
    if len(wrong) == 1 and len(next(iter(wrong.values()))) == total:
        return next(iter(wrong))
    lines = [f"{sum(map(len, wrong.values()))} of the sweep's {total} points are wrong, and nothing was started"]
    for message, concerned in wrong.items():
        more = f" and {len(concerned) - _NAMED} more" if concerned[_NAMED:] else ""
        lines.append(f"  {'; '.join(concerned[:_NAMED])}{more}: {message.splitlines()[0]}")
    return "\n".join(lines)


def by_data(points: Sequence[Sequence[str]]) -> dict[str, list[Sequence[str]]]:
    """Group points by their overrides of data; the keys leave out the overrides that all groups share."""
    found: dict[tuple[str, ...], list[Sequence[str]]] = {}
    for overrides in points:
        words = tuple(word for word in overrides if word.lstrip("+").startswith(("data=", "data.")))
        found.setdefault(words, []).append(overrides)
    common = set.intersection(*map(set, found)) if len(found) > 1 else set()
    return {" ".join(word for word in words if word not in common): members for words, members in found.items()}


def account_of_data(wrong: Mapping[str, str], total: int) -> str:
    """Return a message about the faults of `total` choices of data, by the overrides that choose them; if every choice
    is wrong it gives the first fault in full."""
    names = list(wrong)
    if len(wrong) < total:
        lines = [f"{len(wrong)} of the sweep's {total} choices of data are wrong, and nothing was started"]
        lines += [f"  {name}: {wrong[name].splitlines()[0]}" for name in names[:_NAMED]]
        return "\n".join([*lines, *([f"  and {'; '.join(names[_NAMED:])}"] if names[_NAMED:] else [])])
    first, *others = dict.fromkeys(wrong.values())
    return "\n".join([first, *([f"nor can the sweep use its other {total - 1} choices of data"] if others else [])])
