"""This module shows the progress of work longer than a second on stderr: bars on a terminal, else a line now and then.

Bars nest (batches inside epochs) and share one display: the outermost bar opens it, and closes it. Drawing happens
inside `advance`, so there is no thread whose locks a forked data worker could inherit.
"""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from math import inf
from time import monotonic
from typing import Self, TypeVar

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from peft_vision.core.output import Console, complain
from peft_vision.core.process_variables import speaks

Item = TypeVar("Item")

QUIET_SECONDS = 1.0
LINE_SECONDS = 10.0
FRAME_SECONDS = 0.1
RATE_FRAMES = 300  # the rate is over the last 30 s, or the last 300 items when these are slow

_open: list["Progress"] = []  # outermost first; module state, because a process has only one terminal


def track(iterable: Iterable[Item], *, label: str, total: int, unit: str = "it") -> Iterator[Item]:
    """Yield the items of `iterable`; each counts as done when the next is asked for."""
    with Progress(label=label, total=total, unit=unit) as progress:
        for item in iterable:
            yield item
            progress.advance()


class Progress:
    """A bar, as in `with Progress(label="train", total=50000, unit="images") as bar: bar.advance(64, loss="0.41")`.

    `done`: how much resumed work had done before; it fills the bar and does not count for the rate.
    """

    def __init__(self, *, label: str, total: int, unit: str = "it", done: int = 0) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = done
        self.shown: dict[str, str] = {}
        self._samples: deque[tuple[float, int]] = deque(maxlen=RATE_FRAMES)

    def __enter__(self) -> Self:
        self._last = (monotonic(), self.done)
        self._samples.append(self._last)
        self._display: _Bars | _Lines | _Nothing = _open[0]._display if _open else _display()
        _open.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _open.remove(self)
        if not _open:
            self._display.close()

    def advance(self, n: int = 1, **shown: str) -> None:
        """Count `n` more of the total as done; `shown` are short live values that stay until replaced."""
        self.done += n
        self.shown |= shown
        now = monotonic()
        self._last = (now, self.done)
        if now - self._samples[-1][0] >= FRAME_SECONDS:
            self._samples.append(self._last)
        if now >= self._display.next_draw:
            self._display.draw(_open, now)

    def status(self, now: float) -> str:
        """Return rate, time left and shown values, such as `310 images/s, 0:12 left, loss 0.41`."""
        (since, before), (last, done) = self._samples[0], self._last
        parts = [f"{name} {value}" for name, value in self.shown.items()]
        if done == before or last == since:
            return ", ".join(parts)
        # up to the last advance: an epoch half done must not slow the rate of epochs down
        rate = (done - before) / (last - since)
        left = (self.total - done) / rate - (now - last)
        speed = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        return ", ".join([f"{speed} {self.unit}/s", f"{clock(max(left, 0))} left", *parts])


class _Bars:
    """A display that draws one row per bar on a terminal, and removes them when the work is done."""

    def __init__(self, console: Console) -> None:
        # rich sends a redirected stream to its own console, here stderr: `> file` must keep what is printed
        redirect = sys.stdout.isatty()
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=redirect)
        self.next_draw = monotonic() + QUIET_SECONDS

    def draw(self, bars: list[Progress], now: float) -> None:
        self.next_draw = now + FRAME_SECONDS
        rows = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(4):
            rows.add_column(no_wrap=True)
        for bar in bars:
            drawn = ProgressBar(total=max(bar.total, 1), completed=bar.done, width=16)
            # Text, because rich would read markup in a plain string
            rows.add_row(Text(bar.label), drawn, Text(f"{bar.done}/{bar.total}"), Text(bar.status(now)))
        self._live.start()
        self._live.update(rows, refresh=True)

    def close(self) -> None:
        self._live.stop()


class _Lines:
    """A display that logs one line of all bars, from the outermost in, at most every LINE_SECONDS."""

    def __init__(self) -> None:
        self.next_draw = monotonic() + QUIET_SECONDS

    def draw(self, bars: list[Progress], now: float) -> None:
        self.next_draw = now + LINE_SECONDS
        complain(" | ".join(self._text(bar, now) for bar in bars))

    def _text(self, bar: Progress, now: float) -> str:
        percent = 100 * bar.done / max(bar.total, 1)
        done = f"{bar.label} {bar.done}/{bar.total} ({percent:.0f} %)"
        return ", ".join(filter(None, [done, bar.status(now)]))

    def close(self) -> None:
        pass


class _Nothing:
    """A display that shows nothing, for all but one of several processes that do the same work."""

    next_draw = inf

    def close(self) -> None:
        pass


def terminal() -> Console | None:
    """Return a console for standard error, or None if nothing that moves can be drawn there."""
    # rich alone would call a file a terminal under FORCE_COLOR, and fill a log with escape codes
    if not sys.stderr.isatty():
        return None
    console = Console(file=sys.stderr)
    return None if console.is_dumb_terminal or not console.is_terminal else console


def _display() -> "_Bars | _Lines | _Nothing":
    if not speaks():
        return _Nothing()
    console = terminal()
    return _Lines() if console is None else _Bars(console)


def clock(seconds: float) -> str:
    """Return a duration as text, such as 0:12 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
