"""This script turns each notebook of the documentation into a page, as a hook of MkDocs (see mkdocs.yml)."""

import json
import re
from pathlib import Path
from typing import Any


def markdown_of(path: Path) -> str:
    """Return a notebook's cells as Markdown: texts as they are, code in fences."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [_part(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join([*parts, f"This page is [a notebook]({path.name}), which you can run."]) + "\n"


def _part(kind: str, source: str) -> str:
    if kind == "markdown":
        return source
    return f"```{'bash' if source.startswith('!') else 'python'}\n{source}\n```"


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook; the notebook itself lies beside it."""
    from mkdocs.structure.files import File

    docs = Path(config["docs_dir"])
    for path in sorted(docs.glob("notebooks/*.ipynb")):
        name = path.relative_to(docs).with_suffix(".md").as_posix()
        files.append(File.generated(config, name, content=markdown_of(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to notebooks, which other readers of Markdown show, lead to their pages."""
    return re.sub(r"\((notebooks/\w+)\.ipynb\)", r"(\1.md)", markdown)
