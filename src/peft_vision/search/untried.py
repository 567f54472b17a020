"""This module draws untried settings: it takes a sampler's values if they can lead to a setting that nobody tried."""

from collections.abc import Callable, Mapping
from math import prod
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from peft_vision.search.space import Space

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
