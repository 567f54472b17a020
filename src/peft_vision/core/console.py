"""This module prints text that comes from others with rich: names with brackets or colons are not markup, and no
control character in them reaches the terminal."""

from collections.abc import Iterable

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from peft_vision.core.printable import printable


class Console(RichConsole):
    """A rich console that prints plain text as it is; colours come from styles alone."""

    def __init__(self, **options: object) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render text without control characters; rich's own control segments, which move the cursor, pass
        unchanged."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
