"""docs/troubleshooting.md lists messages that the library has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.M)


def texts(node: ast.AST) -> list[str]:
    """All strings below a node; what is filled in at run time is a 0 byte."""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
        inside = [text for part in node.values for text in texts(part) if not isinstance(part, ast.Constant)]
        return ["".join(parts), *inside]
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    return [text for child in ast.iter_child_nodes(node) for text in texts(child)]


@pytest.fixture(scope="module")
def source() -> str:
    files = sorted((ROOT / "src").rglob("*.py"))
    return "\n".join(text for file in files for text in texts(ast.parse(file.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("message", ROWS)
def test_page__has_messages_of_the_library(message, source):
    pattern = ".{0,80}?".join(re.escape(part.strip()) for part in message.split("...") if part.strip())
    assert re.search(pattern, source, re.S)


def test_page__has_rows():
    assert len(ROWS) > 50
