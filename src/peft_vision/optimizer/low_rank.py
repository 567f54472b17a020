"""GaLore: the moments of a matrix live in a subspace that follows its gradient (Zhao et al., 2024, arXiv:2403.03507).

    low = left^T G right                  the gradient in the subspace; usually only one of the two is used
    direction = rule(low)                 Adam, or momentum
    W <- (1 - lr weight_decay) W - lr scale left direction right^T

The subspace is that of a mini-batch's gradient, computed anew every `gap` steps. Published code then keeps the moments
in coordinates of the old subspace; here they can be rotated with the coordinates.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from peft_vision.core.config import ConfigError
from peft_vision.core.seeding import derive
from peft_vision.optimizer.projection import Projection, Subspaces, Update, cosine, full_rank_part
from peft_vision.optimizer.rule import Rule, new_moments, read_moments, stored_moments

_REMEMBERED = 5  # refreshes whose cosines decide whether a gap is doubled
_LASTING = ("rank", "side", "bits", "update")  # options that a saved state must agree with


@dataclass(frozen=True)
class Following:
    """The settings of how a matrix's subspace follows its gradient.

    `gap`: steps between refreshes. `adaptive_gap`: the gap is doubled where the mean absolute cosine of the first basis
    vectors before and after each of the last five refreshes is at least this (None: never). `staggered`: matrices are
    refreshed in turn instead of all in the same step. `moments`: whether they are rotated with the coordinates or kept.
    `scale`: factor of the update. `bits`: of the moments; `seed`: of the random vectors of subspaces.
    """

    subspaces: Subspaces
    gap: int
    adaptive_gap: float | None
    staggered: bool
    moments: Literal["keep", "rotate"]
    scale: float
    update: Update
    bits: int
    seed: int


class LowRankProjection(torch.optim.Optimizer):
    """An optimizer that steps `matrices` in subspaces and `others` in full, by the same rule.

    Its state is plain numbers and tensors. A gradient that is not finite leaves its parameter unchanged, and is
    counted. `decay_first`: whether decay acts on the weights before the update, as in torch, or after it.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[Mapping[str, Any]],
        *,
        rule: Rule,
        following: Following,
        lr: float,
        weight_decay: float,
        decay_first: bool,
    ) -> None:
        """Store the parameters. `others`: parameter groups with a `weight_decay` each."""
        lasting = {
            "rank": following.subspaces.rank,
            "side": following.subspaces.side,
            "bits": following.bits,
            "update": following.update,
        }
        groups = [{"params": list(matrices), "weight_decay": weight_decay, "projected": True}] if matrices else []
        groups += [{**group, "projected": False} for group in others]
        super().__init__(groups, {"lr": lr, **lasting})
        self._rule = rule
        self._following = following
        self._decay_first = decay_first
        self._places = {parameter: number for number, parameter in enumerate(matrices)}
        self._group_of = {p: number for number, group in enumerate(self.param_groups) for p in group["params"]}
        self.gradient_bytes = 0
        """The largest number of bytes that gradients took at once, measured before an update."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        """Update every parameter that has a gradient."""
        assert closure is None
        ready = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not ready:
            return  # all parameters stepped during the backward pass
        self._note_gradients()
        finite = torch.stack([p.grad.isfinite().all() for p in ready]).tolist()  # one synchronisation for all
        for parameter, is_finite in zip(ready, finite, strict=True):
            self._update(parameter, is_finite=is_finite)

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """Step each parameter within the block as soon as the backward pass has computed its gradient, which is then
        freed."""

        @torch.no_grad()
        def step(parameter: Tensor) -> None:
            if "step" not in self.state[parameter]:
                self._note_gradients()
            self._update(parameter, is_finite=bool(parameter.grad.isfinite().all()))
            parameter.grad = None

        hooks = [parameter.register_post_accumulate_grad_hook(step) for parameter in self._group_of]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load copies of the saved state, keeping their types. Raise ConfigError where the state is of other
        subspaces."""
        for group, stored in zip(self.param_groups, saved["param_groups"], strict=False):
            for key in _LASTING:
                if stored.get(key) != group[key]:
                    raise ConfigError(
                        f"optimizer.{key}: got {group[key]}, and the run began with {stored.get(key)}; start it anew, "
                        f"or set optimizer.{key}={stored.get(key)}"
                    )
        sizes = [[len(group["params"]) for group in groups] for groups in (self.param_groups, saved["param_groups"])]
        if sizes[0] != sizes[1]:
            raise ConfigError("optimizer.matrices: matches other matrices than those the run began with; start it anew")
        super().load_state_dict(saved)
        numbers = chain.from_iterable(group["params"] for group in saved["param_groups"])
        for number, parameter in zip(numbers, self._group_of, strict=True):
            if number in saved["state"]:  # torch's own version casts everything to the parameter's type
                self.state[parameter] = {
                    key: value.to(parameter.device, copy=True) if isinstance(value, Tensor) else value
                    for key, value in saved["state"][number].items()
                }

    def counts(self) -> dict[str, float]:
        """Return the number of `refreshes` of subspaces, their `refresh_seconds`, and `skipped_gradients`, over the
        whole run."""
        states = self.state.values()
        return {
            "refreshes": sum(state.get("refreshes", 0) for state in states),
            "refresh_seconds": sum(state.get("refresh_seconds", 0.0) for state in states),
            "skipped_gradients": sum(state["skipped"] for state in states),
        }

    def _note_gradients(self) -> None:
        held = sum(p.grad.nbytes for p in self._group_of if p.grad is not None)
        self.gradient_bytes = max(self.gradient_bytes, held)

    def _update(self, parameter: Tensor, *, is_finite: bool) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "skipped": 0}
        group = self.param_groups[self._group_of[parameter]]
        gradient = parameter.grad
        if not is_finite:
            state["skipped"] += 1
            return
        if not group["projected"]:
            direction = self._direction(state, gradient)
            self._decayed(parameter, group, lambda: parameter.add_(direction, alpha=-group["lr"]))
            return
        gradient = gradient.flatten(1)
        if state["step"] == 0 and not gradient.any():  # shows no subspace, and a norm of zero could not grow
            self._decayed(parameter, group, lambda: None)
            return
        if state["step"] == state.setdefault("next_refresh", 0) and not self._refresh(parameter, state, gradient):
            state["skipped"] += 1
            return
        projection = _projection(state)
        low = projection.down(gradient)
        direction = self._direction(state, low)
        matrix, rate = parameter.view(gradient.shape), -group["lr"] * self._following.scale
        part = None
        if self._following.update != "low_rank":
            part, state["full_rank_norm"] = full_rank_part(
                gradient, low, direction, projection, update=self._following.update, before=state.get("full_rank_norm")
            )

        def update() -> None:
            if self._following.update != "apollo":
                projection.add_up(matrix, direction, alpha=rate)
            if part is not None:
                matrix.add_(part, alpha=rate)

        self._decayed(parameter, group, update)

    def _decayed(self, parameter: Tensor, group: Mapping[str, Any], update: Callable[[], object]) -> None:
        kept = 1 - group["lr"] * group["weight_decay"]
        if self._decay_first:
            parameter.mul_(kept)
        update()
        if not self._decay_first:
            parameter.mul_(kept)

    def _direction(self, state: dict[str, Any], gradient: Tensor) -> Tensor:
        """Return the direction for a gradient, and update the moments in `state`."""
        if state["step"] == 0:
            state |= new_moments(self._rule.moments, gradient, bits=self._following.bits)
        found = read_moments(state, self._rule.moments)
        state["step"] += 1
        direction = self._rule.direction(gradient, found, state["step"])
        state |= stored_moments(dict(zip(self._rule.moments, found, strict=True)), bits=self._following.bits)
        return direction

    def _refresh(self, parameter: Tensor, state: dict[str, Any], gradient: Tensor) -> bool:
        """Find a new subspace and return whether that succeeded; if LAPACK fails to converge, the next step retries."""
        following, place = self._following, self._places[parameter]
        before = _projection(state) if "refreshes" in state else None
        started = self._now(parameter)
        seed = derive(self._following.seed, "subspace", place, state.get("refreshes", 0))
        try:
            projection = following.subspaces.of(gradient, before=before, seed=seed)
        except torch.linalg.LinAlgError:
            return False
        if before is not None:
            self._change(state, before, projection)
        state |= {side: basis for side, basis in projection._asdict().items() if basis is not None}
        gap = state.setdefault("gap", following.gap)
        # the first time all are computed at once; afterwards each has its own step within a gap
        turn = following.gap * place // len(self._places) if following.staggered and before is None else 0
        state["next_refresh"] += turn or gap
        state["refreshes"] = state.get("refreshes", 0) + 1
        state["refresh_seconds"] = state.get("refresh_seconds", 0.0) + self._now(parameter) - started
        return True

    def _change(self, state: dict[str, Any], before: Projection, projection: Projection) -> None:
        """Rotate the moments to the new coordinates if configured, and double the gap where the subspace hardly
        moved."""
        names = self._rule.moments
        if self._following.moments == "rotate":
            found = read_moments(state, names)
            turned = self._rule.turned(found, projection.turn_from(before), state["step"])
            state |= stored_moments(dict(zip(names, turned, strict=True)), bits=self._following.bits)
        if self._following.adaptive_gap is not None:
            state["cosines"] = [*state.get("cosines", []), cosine(projection, before)][-_REMEMBERED:]
            settled = fmean(state["cosines"]) >= self._following.adaptive_gap
            if len(state["cosines"]) == _REMEMBERED and settled:
                state["gap"] *= 2

    def _now(self, parameter: Tensor) -> float:
        """Return the time in seconds, once the device has finished all queued work."""
        if parameter.is_cuda:
            torch.cuda.synchronize(parameter.device)
        return perf_counter()


def _projection(state: Mapping[str, Any]) -> Projection:
    return Projection(state.get("left"), state.get("right"))
