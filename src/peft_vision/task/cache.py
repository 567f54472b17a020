"""This module lists, verifies or clears the feature store's folder."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from peft_vision.core.config import ConfigError, build, component
from peft_vision.core.output import Console
from peft_vision.core.progress import track
from peft_vision.features.entry import Found, inspect
from peft_vision.features.shelf import removal, size
from peft_vision.features.store import Features
from peft_vision.task.base import Task

_WIDEST = 200
_LONGEST = 100  # characters shown of each value that a file states
_COLUMNS = ("entry", "backbone", "split", "images", "type", "MiB", "last used", "state")


@component
class Cache(Task):
    """A task on the feature store: list shows every entry, verify reads every byte and removes broken entries, clear
    removes all entries."""

    action: Literal["list", "verify", "clear"]

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        features: Features = build(config["features"], Features, "features")
        shelf = features.shelf
        console = Console(soft_wrap=True)
        held = shelf.held()
        total = size(sum(num_bytes for _, num_bytes in held))
        if self.action == "clear":
            removed = shelf.clear()
            console.print(f"removed {removed} entries, {total}, from {shelf.folder}")
            if removed < len(held):
                raise ConfigError(f"{len(held) - removed} entries in {shelf.folder} may not be removed: others' files")
            return
        entries = track(held, label="verifying", total=len(held), unit="entries")
        verify = self.action == "verify"
        found = [(inspect(path, thoroughly=verify), num_bytes) for path, num_bytes in entries]
        if found:
            Console(width=_WIDEST).print(_table(found, verified=verify))  # the table keeps its width in any terminal
        console.print(f"{len(found)} entries, {total} of at most {features.disk_gib:g} GiB, in {shelf.folder}")
        if verify:
            broken = [entry for entry, _ in found if entry.fault]
            removed = sum(removal(entry.path) for entry in broken)
            console.print(f"removed {removed} broken" if broken else "all are whole")
            if removed < len(broken):
                raise ConfigError(f"{len(broken) - removed} broken entries in {shelf.folder} may not be removed")


def _table(found: list[tuple[Found, int]], *, verified: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for column in _COLUMNS:
        table.add_column(justify="right" if column in ("images", "MiB") else "left", no_wrap=True)
    table.add_row(*_COLUMNS)
    for entry, num_bytes in found:
        used = _used(entry.path)
        state = f"broken: {entry.fault}" if entry.fault else "whole" if verified else "not verified"
        origin = entry.origin or {}
        facts = (_plain(origin.get(key, "")) for key in ("backbone", "split", "images", "dtype"))
        table.add_row(entry.path.stem, *facts, f"{num_bytes / 2**20:,.1f}", used, _plain(state))
    return table


def _used(path: Path) -> str:
    """Return when the entry was last used; empty where it is gone or has an impossible time."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    except (OSError, ValueError, OverflowError):
        return ""


def _plain(value: Any) -> Text:
    """Return text from a file of unknown origin, cut short and without control characters or markup for the
    terminal."""
    return Text("".join(letter for letter in str(value)[:_LONGEST] if letter.isprintable()))
