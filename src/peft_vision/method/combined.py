"""This module combines several methods in one run: each attaches its parameters to the same encoder, in order.

At most one of them determines what the head reads, and thereby the phases in which it is trained. Parts of different
kinds need not suit one learning rate, nor does the head, so each may train at a multiple of the optimizer's.
"""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, NonNegativeFloat, PositiveFloat
from torch import nn

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.observation import Kind
from peft_vision.backbone.stage import Need
from peft_vision.core.config import ConfigError, HashDefaultOfEach, build_parts, component, nearest
from peft_vision.head.base import Reads
from peft_vision.method.base import Method, Pace, Paces, Phase, Readout


def _built(parts: Any) -> dict[str, Method]:
    return build_parts(parts, Method, "method.parts", example="[lora,vqt]")


HEAD = "head"  # stands beside the names of the parts


@component
class Combined(Method):
    """A method that attaches several methods. `parts`: the methods by name. `layers` other than all apply to every
    part. `probe_first` is set here and not in a part. `lr_factors` and `weight_decays`: by the name of a part, or
    head: what the learning rate is multiplied by, and the decay in the place of the optimizer's own (None: that)."""

    parts: Annotated[dict[str, Method], BeforeValidator(_built)]
    lr_factors: Annotated[dict[str, PositiveFloat], HashDefaultOfEach(1.0)]
    weight_decays: Annotated[dict[str, NonNegativeFloat | None], HashDefaultOfEach(None)]

    def check(self, where: str = "method") -> None:
        """Raise ConfigError where a part sets an option that is set here, or fails its own check, or where a factor or
        decay is of no part."""
        if HEAD in self.parts:
            raise ConfigError(f"{where}.parts: a part cannot be named {HEAD}, which stands for the head")
        for field, usual in (("lr_factors", 1.0), ("weight_decays", None)):
            for name, value in getattr(self, field).items():
                if name not in (*self.parts, HEAD) and value != usual:
                    known = [*self.parts, HEAD]
                    raise ConfigError(
                        f"{where}.{field}: no part is named {name}; there are {', '.join(known)}{nearest(name, known)}"
                    )
        for name, part in self.parts.items():
            key = f"{where}.parts.{name}"
            if part.probe_first:
                raise ConfigError(
                    f"{key}.probe_first: the probe is in front of all parts; set {where}.probe_first=true"
                )
            if isinstance(part, Combined) and part._pace(HEAD) != Pace():
                raise ConfigError(
                    f"{key}: the head is that of all parts; set {where}.lr_factors.{HEAD} and weight_decays"
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
        self.attach_paced(encoder)

    def attach_paced(self, encoder: Encoder) -> Paces:
        """Attach each part in order, and return the paces of what each lets train. Raise ConfigError where one discards
        parameters of the backbone or of an earlier part."""
        known = dict.fromkeys(encoder.parameters(), "the backbone")
        paces: dict[nn.Parameter, Pace] = {}
        readout, reader = Pace(), self._reader_name()
        for name, part in self._parts().items():
            before = {parameter for parameter in encoder.parameters() if parameter.requires_grad}
            own = part.attach_paced(encoder)
            for parameter in encoder.parameters():
                if parameter.requires_grad and parameter not in before:
                    inner = own.encoder[parameter] if parameter in own.encoder else Pace()
                    paces[parameter] = inner.within(self._pace(name))
            readout = own.readout.within(self._pace(name)) if name == reader else readout
            present = set(encoder.parameters())
            if lost := {owner for parameter, owner in known.items() if parameter not in present}:
                raise ConfigError(
                    f"method.parts.{name}: it throws away what {' and '.join(sorted(lost))} has in the same place; "
                    "wrap what is there, or append to it"
                )
            known |= {parameter: name for parameter in present if parameter not in known}
        return Paces(paces, readout, self._pace(HEAD))

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

    def _pace(self, name: str) -> Pace:
        """Return the pace of a part, or of the head, in this method."""
        return Pace(self.lr_factors.get(name, 1.0), self.weight_decays.get(name))

    def _reader(self) -> Method:
        return self._parts()[self._reader_name()]

    def _reader_name(self) -> str:
        """Return the name of the part that determines what the head reads; the first part if none does."""
        readers = [name for name, part in self.parts.items() if _decides(part)]
        if len(readers) > 1:
            raise ConfigError(f"method.parts: {' and '.join(readers)} each decide what the head reads; take one")
        return next(iter([*readers, *self.parts]))


def _decides(part: Method) -> bool:
    """Return whether `part` determines what the head reads, or in which phases it is trained."""
    if isinstance(part, Combined):
        return any(map(_decides, part.parts.values()))
    cls = type(part)
    return cls.readout is not Method.readout or cls.phases is not Method.phases
