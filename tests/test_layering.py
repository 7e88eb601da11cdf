"""Imports point up the list of rooms only, and the top level stays small."""

import ast
from pathlib import Path

import pytest

import depth_anything_hf

PACKAGE = Path(depth_anything_hf.__file__).parent
# A room imports only rooms that stand before it.
ROOMS = (
    "version",
    "maps",
    "losses",
    "augmentation",
    "scenes",
    "data",
    "model",
    "pictures",
    "prediction",
    "evaluation",
    "sharing",
    "training",
    "labeling",
    "export",
    "app",
    "quickstart",
    "cli",
)
ORDER = {room: place for place, room in enumerate(ROOMS)}
EXEMPT = ("__init__", "__main__")
MOST_ENTRIES = 20  # on the top level
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported_rooms(source: str, module: str) -> set[str]:
    """Rooms that a module of the package imports anywhere in it; `module` is its path inside the package."""
    rooms = set()
    package = ("depth_anything_hf", *Path(module).parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        rooms |= {part[1] for part in parts if part[0] == "depth_anything_hf" and len(part) > 1}
    return rooms & ORDER.keys()  # not the package's own names; a room without a place fails on its own


def wrong_imports(source: str, module: str) -> set[str]:
    """Rooms that `module` may not import."""
    room = Path(module).parts[0].removesuffix(".py")
    return {other for other in imported_rooms(source, module) if other != room and not ORDER[other] < ORDER[room]}


@pytest.mark.parametrize("module", MODULES)
def test_imports__come_from_rooms_above(module):
    room = Path(module).parts[0].removesuffix(".py")
    if room in EXEMPT:
        return
    assert room in ORDER, f"{module} is in no room; give it a place in ROOMS"
    assert wrong_imports((PACKAGE / module).read_text(encoding="utf-8"), module) == set()


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("maps/geometry.py", "from depth_anything_hf.losses import silog_loss", {"losses"}),
        ("maps/geometry.py", "import depth_anything_hf.training.trainer", {"training"}),
        ("maps/geometry.py", "from depth_anything_hf import sharing", {"sharing"}),
        ("data/records.py", "def f():\n    from depth_anything_hf.model.modeling import M", {"model"}),
        ("losses/silog.py", "from ..cli.main import main", {"cli"}),
        ("losses/silog.py", "from .. import sharing, maps", {"sharing"}),
        ("losses/silog.py", "from depth_anything_hf.augmentation import cutmix", {"augmentation"}),
        ("version.py", "from .maps import geometry", {"maps"}),
        ("maps/alignment.py", "from depth_anything_hf.maps.geometry import invert", set()),
        ("losses/silog.py", "from . import reduction", set()),
        ("cli/main.py", "from depth_anything_hf.version import __version__", set()),
        ("cli/main.py", "import torch, depth_anything_hf.quickstart", set()),
        ("training/trainer.py", "from depth_anything_hf.training.arguments import A", set()),
    ],
)
def test_wrong_imports__finds_planted_ones(module, line, found):
    assert wrong_imports(line, module) == found


def test_rooms__are_found():
    assert {"maps/geometry.py", "losses/silog.py", "training/trainer.py"} <= set(MODULES)
    modeling = (PACKAGE / "model/modeling.py").read_text(encoding="utf-8")
    assert imported_rooms(modeling, "model/modeling.py") == {"model", "losses"}


def import_graph() -> dict[str, set[str]]:
    """Modules of the package that each imports when it is itself imported, not later inside a function."""
    names = {module.removesuffix(".py").removesuffix("/__init__").replace("/", "."): module for module in MODULES}
    graph = {}
    for name, module in names.items():
        tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
        found = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("depth_anything_hf."):
                base = node.module.removeprefix("depth_anything_hf.")
                found |= {base, *(f"{base}.{alias.name}" for alias in node.names)} & names.keys()
        graph[name] = found
    return graph


@pytest.mark.slow
def test_imports__have_no_circle():
    graph, done = import_graph(), set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_top_level__is_small():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_tests__mirror_the_rooms():
    rooms = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir() and list(path.rglob("test_*.py"))}
    assert rooms - {"examples"} <= set(ROOMS)


def test_files__are_named_for_what_they_hold():
    assert [module for module in MODULES if Path(module).name in ("utils.py", "helpers.py", "misc.py")] == []
