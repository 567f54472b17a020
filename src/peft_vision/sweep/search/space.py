"""This module describes what a search may vary, in Hydra's notation for a sweep.

optimizer.lr=tag(log,interval(1e-5,1e-1))   a number, tried on a logarithmic scale
method.dropout=interval(0,0.5)              a number
trainer.epochs=range(5,20,5)                5, 10 or 15
method.rank=2,4,8   or choice(2,4,8)        one of these, in no order
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from random import Random
from typing import Annotated, Any, Literal

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from pydantic import Field, NonNegativeInt, PositiveInt

from peft_vision.core.config import ConfigError, component
from peft_vision.sweep.overrides import key_of, last_of_each

_DIGITS = 4  # significant digits of a drawn number; more would only be hard to read


@dataclass(frozen=True)
class Space:
    """The space that a search draws trials from. `fixed`: overrides of every trial. `swept`: distributions by key.
    `seeds`: overrides of the seed; each trial is trained with each of them, and its value is the mean."""

    fixed: tuple[str, ...]
    swept: Mapping[str, BaseDistribution]
    seeds: tuple[str, ...]

    @classmethod
    def of(cls, overrides: Sequence[Override]) -> "Space":
        """Return the space of these overrides; the last of equal keys counts. ConfigError where there is nothing to
        vary."""
        last = {key_of(override): override for override in last_of_each(overrides)}
        seeds = last.pop("seed", None)
        varied = {override.get_key_element(): override for override in last.values() if override.is_sweep_override()}
        swept = {key: _distribution(key, override) for key, override in varied.items()}
        if not swept:
            raise ConfigError(
                "nothing to search; write what may vary, such as optimizer.lr=tag(log,interval(1e-5,1e-1))"
            )
        fixed = tuple(_words(override)[0] for override in last.values() if not override.is_sweep_override())
        return cls(fixed, swept, _words(seeds) if seeds else ())

    def points(self, params: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """Return the overrides of a trial's runs, one run for each seed."""
        drawn = tuple(f"{key}={self.written(key, params[key])}" for key in self.swept)
        return [(*self.fixed, *drawn, seed) for seed in self.seeds] or [(*self.fixed, *drawn)]

    def examples(self) -> list[tuple[str, ...]]:
        """Return runs that together have every choice and both ends of every interval; their other values are each
        key's first."""
        first = {key: _ends(distribution)[0] for key, distribution in self.swept.items()}
        others = [{**first, key: end} for key, distribution in self.swept.items() for end in _ends(distribution)[1:]]
        return [self.points(params)[0] for params in (first, *others)]

    def written(self, key: str, value: Any) -> str:
        """Return the value as it is written in the override of a run."""
        return _written(value, self.swept[key])

    def values(self, key: str) -> Sequence[Any]:
        """Return all values of a key, or none for an interval of floats, which has no end of them."""
        distribution = self.swept[key]
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices
        if isinstance(distribution, IntDistribution):
            return range(distribution.low, distribution.high + 1, distribution.step)
        return (distribution.low,) if distribution.single() else ()

    def size(self, *keys: str) -> float:
        """Return the number of settings of these keys, or of all keys without any; infinite with an interval of
        floats."""
        return prod(len(self.values(key)) or inf for key in keys or self.swept)

    def record(self) -> dict[str, Any]:
        """Return plain values that distinguish this space from another one."""
        return {
            "swept": {key: repr(distribution) for key, distribution in sorted(self.swept.items())},
            "seeds": list(self.seeds),
        }


def _distribution(key: str, override: Override) -> BaseDistribution:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        kind = IntDistribution if isinstance(sweep.start, int) else FloatDistribution
        return _checked(key, kind, low=sweep.start, high=sweep.end, log="log" in sweep.tags)
    if isinstance(sweep, RangeSweep) and all(isinstance(part, int) for part in (sweep.start, sweep.stop, sweep.step)):
        values = range(sweep.start, sweep.stop, sweep.step)
        if len(values) > 1:
            return IntDistribution(min(values), max(values), step=abs(sweep.step))
    choices = tuple(word.partition("=")[2] for word in _words(override))
    return _checked(key, CategoricalDistribution, choices=tuple(dict.fromkeys(choices)))


def _checked(key: str, kind: type[BaseDistribution], **values: Any) -> BaseDistribution:
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{key}: {str(error).rstrip('.')}") from error


def _words(override: Override) -> tuple[str, ...]:
    key = override.get_key_element()
    values = override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_element_as_str()]
    return tuple(f"{key}={value}" for value in values)


def _ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return (distribution.low, distribution.high)


def _written(value: Any, distribution: BaseDistribution) -> str:
    """Return the text of a value as a run is given it: a float is rounded, but never out of its interval."""
    if not isinstance(distribution, FloatDistribution):
        return str(value)
    return repr(min(max(float(f"{value:.{_DIGITS}g}"), distribution.low), distribution.high))


_SUGGESTIONS = 10  # of the sampler for one value, before any other untried value is taken


class Untried(optuna.samplers.BaseSampler):
    """A sampler that takes values of `sampler`, one parameter after the other. `tried`: returns the settings tried so
    far, as the space writes them; it is called for every value, because other processes draw as well."""

    def __init__(
        self,
        sampler: optuna.samplers.BaseSampler,
        space: Space,
        *,
        seed: int,
        tried: Callable[[], list[Mapping[str, str]]],
    ) -> None:
        self._sampler = sampler
        self._space = space
        self._random = Random(seed)
        self._tried = tried

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        tried = self._tried()
        before = {key: self._space.written(key, value) for key, value in trial.params.items()}
        after = prod(self._space.size(key) for key in self._space.swept if key not in before and key != param_name)

        def is_open(value: Any) -> bool:
            """Return whether an untried setting is left that has this value and those drawn before it."""
            prefix = {**before, param_name: self._space.written(param_name, value)}
            return sum(prefix.items() <= setting.items() for setting in tried) < after

        for _ in range(_SUGGESTIONS):
            value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
            if is_open(value):
                return value
        values = self._space.values(param_name)
        first = self._random.randrange(len(values)) if values else 0
        others = (values[(first + number) % len(values)] for number in range(len(values)))
        return next(filter(is_open, others), value)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        self._sampler.after_trial(study, trial, state, values)


@component
class SearchOptions:
    """The options of a search. `n_trials`: trials in all, those of earlier and of simultaneous searches of the same
    study included. `batch`: trials that are drawn and run together; None: as many as the launcher runs at once.
    `study`: the study's name; None: a name derived from config and space. `startup_trials`: trials before the median
    pruner prunes any; `warmup_epochs`: epochs of each trial before it can be pruned."""

    n_trials: PositiveInt | None
    batch: PositiveInt | None
    study: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None
    sampler: Literal["tpe", "random"]
    sampler_seed: NonNegativeInt
    pruner: Literal["none", "median", "hyperband"]
    startup_trials: NonNegativeInt
    warmup_epochs: NonNegativeInt


def sampler(name: str, *, seed: int) -> optuna.samplers.BaseSampler:
    """Return Optuna's sampler of this name."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # constant liar: running trials count as bad ones


def pruner(name: str, *, startup_trials: int, warmup_epochs: int, epochs: int) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner of this name; `epochs`: the length of a complete trial."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=warmup_epochs + 1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=min(warmup_epochs + 1, epochs), max_resource=epochs)
    return optuna.pruners.NopPruner()
