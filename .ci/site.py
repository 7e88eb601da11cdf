"""What `mkdocs build` needs beyond its configuration: links out of docs/, formulas, the command line's help, docstrings."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = "repository"  # folder of the site for files that pages link to and that lie outside docs/
SHARED = re.compile(
    r"^    ([\w*]+(?:, [\w*]+)+)((?: \(.*?\))?:.*(?:\n {5,}.*)*)", re.MULTILINE
)  # `height, width: ...`
LINK = re.compile(r"(\]\()([^)#:\s]+)([)#])")


def _path(uri: str) -> str:
    """Return the path in the repository of a file of the site."""
    return uri.removeprefix(f"{OUTSIDE}/") if uri.startswith(f"{OUTSIDE}/") else f"docs/{uri}"


def _uri(path: str) -> str:
    """Return where a file of the repository lies in the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{OUTSIDE}/{path}"


def _target(uri: str, link: str) -> str | None:
    """Return the path in the repository of the file that a page links to, else None."""
    path = os.path.normpath(os.path.join(os.path.dirname(_path(uri)), link))
    if not (ROOT / path).is_file():
        return None
    # A template is no page: it is shown as it is.
    return path + ".txt" if path.endswith(".md") and "{{" in (ROOT / path).read_text(encoding="utf-8") else path


def on_files(files, config):
    """Add the files outside docs/ that pages link to, so that the site is whole without a server of the repository."""
    pages = list(files.documentation_pages())
    for page in pages:
        for _, link, _ in LINK.findall(page.content_string):
            path = _target(page.src_uri, link)
            if path and _uri(path) not in files.src_uris:
                content = (ROOT / path.removesuffix(".txt")).read_bytes()
                files.append(File.generated(config, _uri(path), content=content))
                if path.endswith(".md"):
                    pages.append(files.src_uris[_uri(path)])
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links to where their files lie in the site, and write each subcommand's help where a page asks for it."""
    if "<!-- help of every subcommand -->" in markdown:
        markdown = markdown.replace("<!-- help of every subcommand -->", _help())
    here = page.file.src_uri

    def in_site(link: re.Match) -> str:
        path = _target(here, link[2])
        return link[1] + os.path.relpath(_uri(path), os.path.dirname(here) or ".") + link[3] if path else link[0]

    return LINK.sub(in_site, markdown)


def _help() -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80"}
    from_cli = [sys.executable, "-c", "from depth_anything_hf.cli.main import SUBCOMMANDS; print(*SUBCOMMANDS)"]
    names = subprocess.run(from_cli, env=environment, capture_output=True, text=True, check=True).stdout.split()
    parts = []
    for name in names:
        command = [sys.executable, "-m", "depth_anything_hf", name, "--help"]
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        parts.append(f"## {name}\n\n```text\n{shown.strip()}\n```")
    return "\n\n".join(parts)


def on_page_content(html, page, config, files):
    """Turn formulas into MathML, which browsers draw without a script."""
    formula = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
    return formula.sub(lambda m: convert(unescape(m[2]), "block" if m[1] == "div" else "inline"), html)


def plain_docstring(text: str) -> str:
    """Return a docstring in the form that griffe reads: types without backticks, `Examples:`, no type where none is."""
    lines, section = [], None
    for line in SHARED.sub(_one_each, text).splitlines():
        heading = re.fullmatch(r"(Args|Attributes|Returns|Yields|Raises|Example|Examples):", line)
        if heading:
            section = heading[1]
            line = "Examples:" if section == "Example" else line
        elif section in ("Args", "Attributes"):
            line = re.sub(r"^(    [\w*, ]+?) \((`.*?|\*optional\*)\):", _parameter, line)
        elif section in ("Returns", "Yields") and line.strip():
            typed = re.match(r"    `([^`]+)`(?: or `([^`]+)`)?: ?(.*)", line)
            line = (
                f"    {' | '.join(filter(None, typed.groups()[:2]))}: {typed[3]}" if typed else f"    : {line.strip()}"
            )
            section = "read"
        lines.append(line)
    return "\n".join(lines)


def _one_each(found: re.Match) -> str:
    return "\n".join(f"    {name}{found[2]}" for name in found[1].split(", "))


def _parameter(found: re.Match) -> str:
    types = " | ".join(re.findall(r"`([^`]+)`", found[2]))
    if "*optional*" in found[2]:
        types = f"{types}, optional" if types else ""
    return f"{found[1]} ({types}):" if types else f"{found[1]}:"


class PlainDocstrings(griffe.Extension):
    """Rewrite docstrings before they are parsed, and show each name once: in the file that defines it."""

    def on_package(self, *, pkg, **kwargs):
        """Forget which names a room exports again from its files."""
        for module in (pkg, *pkg.modules.values()):
            module.exports = None

    def on_instance(self, *, obj, **kwargs):
        """Rewrite one."""
        if obj.docstring:
            text = plain_docstring(obj.docstring.value)
            named_tuple = obj.is_class and "NamedTuple" in map(str, obj.bases)
            obj.docstring.value = text.replace("\nArgs:\n", "\nAttributes:\n") if named_tuple else text
