"""Linear probe: nothing but the head trains; the encoder's features never change."""

from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import ConfigError, component
from peft_vision.method.base import Method


@component
class Linear(Method):
    def attach(self, encoder: Encoder) -> None:
        """Add nothing. Raise ConfigError for `layers` other than all."""
        if self.layers != "all":
            raise ConfigError(
                f"method.layers: got {self.layers!r}, but a linear probe works in no layer; leave it at all"
            )
