"""Finds faults in the points of a sweep and says them before the first one starts."""

import json
from collections.abc import Mapping, Sequence

from peft_vision.config import ConfigError
from peft_vision.experiment import Experiment

_NAMED = 3  # points that share a fault, and faults of data


def check(experiment: Experiment, checked: dict[str, str | None]) -> None:
    """Raise ConfigError where an experiment cannot work; what several points have in common is checked once."""
    for groups, its_check in experiment.checks().items():
        key = json.dumps([groups, *(experiment.config[group] for group in groups)], sort_keys=True, default=str)
        if key not in checked:
            try:
                its_check()
                checked[key] = None
            except ConfigError as error:
                checked[key] = str(error)
        if checked[key] is not None:
            raise ConfigError(checked[key])


def account(wrong: Mapping[str, Sequence[str]], total: int) -> str:
    """Each fault once, with the points that have it."""
    if len(wrong) == 1 and len(next(iter(wrong.values()))) == total:
        return next(iter(wrong))
    lines = [f"{sum(map(len, wrong.values()))} of the sweep's {total} points are wrong, and nothing was started"]
    for its, concerned in wrong.items():
        more = f" and {len(concerned) - _NAMED} more" if concerned[_NAMED:] else ""
        lines.append(f"  {'; '.join(concerned[:_NAMED])}{more}: {its.splitlines()[0]}")
    return "\n".join(lines)


def by_data(points: Sequence[Sequence[str]]) -> dict[str, list[Sequence[str]]]:
    """Points by the overrides that say what their data are, as far as these differ."""
    found: dict[tuple[str, ...], list[Sequence[str]]] = {}
    for overrides in points:
        words = tuple(word for word in overrides if word.lstrip("+").startswith(("data=", "data.")))
        found.setdefault(words, []).append(overrides)
    common = set.intersection(*map(set, found)) if len(found) > 1 else set()
    return {" ".join(word for word in words if word not in common): its for words, its in found.items()}


def account_of_data(wrong: Mapping[str, str], total: int) -> str:
    """Return in words the faults of data, by the overrides that choose them, of `total`; the first are said whole."""
    names = list(wrong)
    if len(wrong) < total:
        lines = [f"{len(wrong)} of the sweep's {total} choices of data are wrong, and nothing was started"]
        lines += [f"  {name}: {wrong[name].splitlines()[0]}" for name in names[:_NAMED]]
        return "\n".join([*lines, *([f"  and {'; '.join(names[_NAMED:])}"] if names[_NAMED:] else [])])
    first, *others = dict.fromkeys(wrong.values())
    return "\n".join([first, *([f"nor can the sweep use its other {total - 1} choices of data"] if others else [])])
