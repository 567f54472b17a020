"""This module finds tensors that should train and never would, because no backward pass reaches them."""

from functools import partial

from torch import Tensor, nn

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line


class Unreached:
    """A watch that observes the parameters of `model` that train now, from its creation until `check`.

    A module that no forward pass calls, put into a place that does not exist, leaves its parameters without a gradient,
    and an optimizer silently skips them.
    """

    def __init__(self, model: nn.Module) -> None:
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._unreached = dict.fromkeys(trained)
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._reach, name))
            for name, parameter in trained.items()
        ]

    def check(self) -> None:
        """Stop watching; raise ConfigError if a parameter got no gradient since."""
        for hook in self._hooks:
            hook.remove()
        if self._unreached:
            first, *others = self._unreached
            more = f" and {len(others)} more" if others else ""
            raise ConfigError(
                f"method: {one_line(first)}{more} should train, and got no gradient in the first step\n"
                "no forward pass reads it: it was put where nothing looks, or what called it was replaced; see the "
                "places in docs/extending.md"
            )

    def _reach(self, name: str, _: Tensor) -> None:
        self._unreached.pop(name, None)
