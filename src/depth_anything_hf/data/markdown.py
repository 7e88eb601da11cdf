"""Write tables in Markdown; what stands in them stays text, whatever a user or a file is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def escaped(text: object) -> str:
    r"""Escape a name, a path or a message so that Markdown shows it as it is, on one line: no cell, code, link or HTML begins.

    Example:
        >>> print(escaped("a|b`<img src=x>`[c](d)"))
        a\|b\`\<img src=x\>\`\[c\](d)
    """
    line = " ".join("".join(one if one.isprintable() else " " for one in str(text)).split())
    return re.sub(r"([\\`|<>\[\]*&]|^#|^---|^===)", r"\\\1", line)


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table; each cell is escaped."""
    lines = [f"| {' | '.join(map(escaped, row))} |" for row in (head, *rows)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]
