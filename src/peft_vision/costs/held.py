"""This module counts the bytes of what a model holds before its first step, frozen matrices in few bits as such."""

from dataclasses import dataclass, replace

from peft_vision.backbone.frozen_weights import frozen_bytes
from peft_vision.models.model import Model


@dataclass(frozen=True)
class HeldBytes:
    """The bytes that a model holds, each tensor counted once. `trained`: of the parameters that train in any phase;
    `frozen`: of the others and of buffers, those in few bits included; `packed`: of the matrices in `bits` bits with
    what scales them."""

    trained: int = 0
    frozen: int = 0
    packed: int = 0
    bits: int | None = None

    @classmethod
    def of(cls, model: Model) -> "HeldBytes":
        """Count what a fresh model holds."""
        trained = {id(parameter) for parameter in model.trained().values()}
        tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        ours = sum(tensor.nbytes for key, tensor in tensors.items() if key in trained)
        rest = sum(tensor.nbytes for key, tensor in tensors.items() if key not in trained)
        if (matrices := frozen_bytes(model.encoder)) is None:
            return cls(ours, rest)
        return cls(ours, rest + matrices.num_bytes, matrices.num_bytes, matrices.bits)

    def with_models(self, count: int) -> "HeldBytes":
        """Return what so many models on the same frozen weights hold."""
        return replace(self, trained=count * self.trained)

    @property
    def total(self) -> int:
        """Return the bytes of all."""
        return self.trained + self.frozen

    def __str__(self) -> str:
        packed = "" if self.bits is None else f", {_mib(self.packed)} of it matrices in {self.bits} bit"
        return f"{_mib(self.total)}: {_mib(self.trained)} that train, {_mib(self.frozen)} frozen{packed}"


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.2f} MiB"
