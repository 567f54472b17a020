"""This module handles corrupt pictures: it raises an error that names one and counts the rest, or drops them and
warns."""

import logging
from collections.abc import Mapping

import torch

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.data.pictures import Labelled

_log = logging.getLogger("peft_vision")
_NAMED = 20


def left_out(
    parts: Mapping[str, Labelled], faults: Mapping[str, Mapping[int, str]], *, skip: bool
) -> tuple[dict[str, Labelled], int]:
    """Return `parts` without the positions in `faults`, and the number of these. ConfigError for any unless `skip`."""
    corrupt = [
        (parts[split].pictures.name(int(parts[split].indices[position])), one_line(reason))
        for split, found in faults.items()
        for position, reason in found.items()
    ]
    if not corrupt:
        return dict(parts), 0
    if not skip:
        (name, reason), more = corrupt[0], len(corrupt) - 1
        also = f", and {more} more {'is' if more == 1 else 'are'} corrupt" if more else ""
        raise ConfigError(
            f"data: cannot read {name} ({reason}){also}\nrepair or remove, or data.on_corrupt=skip leaves out"
        )
    shown = ", ".join(name for name, _ in corrupt[:_NAMED])
    unnamed = f" and {len(corrupt) - _NAMED} more" if corrupt[_NAMED:] else ""
    _log.warning("left out %d corrupt images: %s%s", len(corrupt), shown, unnamed)
    return {split: _without(part, faults[split]) for split, part in parts.items()}, len(corrupt)


def _without(part: Labelled, positions: Mapping[int, str]) -> Labelled:
    kept = torch.ones(len(part), dtype=torch.bool)
    kept[list(positions)] = False
    return part.subset(kept.nonzero().squeeze(1))
