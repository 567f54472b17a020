"""This module combines several methods in one run: each attaches its parameters to the same encoder, in order.

At most one of them determines what the head reads, and thereby the phases in which it is trained.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.observation import Kind
from peft_vision.backbone.stage import Need
from peft_vision.core.config import ConfigError, build, component
from peft_vision.head.base import Reads
from peft_vision.method.base import Method, Phase, Readout


def _built(parts: Any) -> dict[str, Method]:
    if not isinstance(parts, Mapping) or not parts:
        raise ConfigError(f"method.parts: got {parts!r}, should name methods, such as [lora,vqt]")
    return {
        name: node if isinstance(node, Method) else build(node, Method, f"method.parts.{name}")
        for name, node in parts.items()
    }


@component
class Combined(Method):
    """A method that attaches several methods. `parts`: the methods by name. `layers` other than all apply to every
    part. `probe_first` is set here and not in a part."""

    parts: Annotated[dict[str, Method], BeforeValidator(_built)]

    def check(self, where: str = "method") -> None:
        """Raise ConfigError where a part sets an option that is set here, or fails its own check."""
        for name, part in self.parts.items():
            key = f"{where}.parts.{name}"
            if part.probe_first:
                raise ConfigError(
                    f"{key}.probe_first: the probe is in front of all parts; set {where}.probe_first=true"
                )
            if self.layers != "all" and part.layers not in ("all", self.layers):
                raise ConfigError(
                    f"{key}.layers: got {part.layers!r}, but {where}.layers={self.layers!r} are those of every part; "
                    f"{where}.layers=all leaves each its own"
                )
            part.check(key)

    def trained_otherwise(self, *, drops: bool) -> bool:
        """Return whether version 0.1.0 trained any part differently."""
        return any(part.trained_otherwise(drops=drops) for part in self.parts.values())

    def needs(self) -> frozenset[Need]:
        """Return what any of the parts needs."""
        return frozenset().union(*(part.needs() for part in self.parts.values()))

    def border(self) -> int:
        return sum(part.border() for part in self.parts.values())

    def attach(self, encoder: Encoder) -> None:
        """Attach each part in order. Raise ConfigError where one discards parameters of the backbone or of an earlier
        part."""
        known = dict.fromkeys(encoder.parameters(), "the backbone")
        for name, part in self._parts().items():
            part.attach(encoder)
            present = set(encoder.parameters())
            if lost := {owner for parameter, owner in known.items() if parameter not in present}:
                raise ConfigError(
                    f"method.parts.{name}: it throws away what {' and '.join(sorted(lost))} has in the same place; "
                    "wrap what is there, or append to it"
                )
            known |= {parameter: name for parameter in present if parameter not in known}

    def reads(self) -> frozenset[Kind]:
        return self._reader().reads()

    def readout(self, encoder: Encoder) -> Readout:
        """Return the readout of the part that determines what the head reads; without such a part, the pooled
        features."""
        return self._reader().readout(encoder)

    def grid_readout(self, encoder: Encoder, reads: Reads) -> Readout:
        """Return the readout for a head that reads one grid or several. Raise ConfigError where a part makes one vector
        of an image."""
        return self._reader().grid_readout(encoder, reads)

    def phases(self, encoder: Encoder) -> tuple[Phase, ...]:
        """Return the phases of the part that provides the readout. Raise ConfigError where no phase trains what the
        other parts attached."""
        phases = self._reader().phases(encoder)
        if encoder.trains and all(phase.probe for phase in phases):
            raise ConfigError(
                f"method.parts: one of {', '.join(self.parts)} trains the head alone, so the others never would"
            )
        return phases

    def _parts(self) -> dict[str, Method]:
        """Return the parts; `layers` other than all replace those of each part."""
        if self.layers == "all":
            return self.parts
        return {name: replace(part, layers=self.layers) for name, part in self.parts.items()}

    def _reader(self) -> Method:
        parts = self._parts()
        readers = {name: part for name, part in parts.items() if _decides(part)}
        if len(readers) > 1:
            raise ConfigError(f"method.parts: {' and '.join(readers)} each decide what the head reads; take one")
        return next(iter({**readers, **parts}.values()))


def _decides(part: Method) -> bool:
    """Return whether `part` determines what the head reads, or in which phases it is trained."""
    if isinstance(part, Combined):
        return any(map(_decides, part.parts.values()))
    cls = type(part)
    return cls.readout is not Method.readout or cls.phases is not Method.phases
