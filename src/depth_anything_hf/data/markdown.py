"""Write tables in Markdown; what stands in them stays text, whatever a user or a file is called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def escaped(text: object) -> str:
    r"""Escape a text for a line or a cell of Markdown: no pipe, back quote, tag, link or new line of it has an effect.

    Example:
        >>> escaped("my|model\n# `rm` <b>")
        "my\\|model # 'rm' &lt;b>"
    """
    line = " ".join(str(text).split())
    for mark, harmless in (("|", r"\|"), ("`", "'"), ("<", "&lt;"), ("](", r"]\(")):
        line = line.replace(mark, harmless)
    return rf"\{line}" if line.startswith(("#", "---", "===", "> ")) else line


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table; each cell is escaped."""
    lines = [f"| {' | '.join(map(escaped, row))} |" for row in (head, *rows)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]
