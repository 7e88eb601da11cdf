"""Imports point down only, files stay short."""

import ast
from pathlib import Path

import pytest

import depth_anything_hf

PACKAGE = Path(depth_anything_hf.__file__).parent
# A room imports rooms of lower floors, and rooms of its own floor that stand before it.
FLOORS = (
    ("geometry", "alignment", "temporal", "resizing"),
    ("losses", "augmentation", "data", "charts", "visualization", "control_image", "point_cloud"),
    (
        "bundled",
        "configuration",
        "modeling",
        "image_processing",
        "inference",
        "tiling",
        "encoder",
        "convert",
        "adapters",
        "sharing",
    ),
    ("evaluation", "labeling", "training"),
    ("export", "comparison", "parity", "hub", "video"),
    ("quickstart", "app", "cli"),
)
ORDER = {room: (floor, place) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)}
EXEMPT = ("__init__", "__main__")
LONGEST_FILE = 330  # lines, not reached
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
    return rooms & ORDER.keys()  # not the package's own names; a room without a floor fails on its own


def upward_imports(source: str, module: str) -> set[str]:
    """Rooms that `module` may not import."""
    room = Path(module).parts[0].removesuffix(".py")
    return {other for other in imported_rooms(source, module) if other != room and not ORDER[other] < ORDER[room]}


@pytest.mark.parametrize("module", MODULES)
def test_imports__point_down(module):
    room = Path(module).parts[0].removesuffix(".py")
    if room in EXEMPT:
        return
    assert room in ORDER, f"{module} is in no room; give it a floor in FLOORS"
    assert upward_imports((PACKAGE / module).read_text(encoding="utf-8"), module) == set()


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("geometry.py", "from depth_anything_hf.alignment import apply_fit", {"alignment"}),
        ("geometry.py", "import depth_anything_hf.training.trainer", {"training"}),
        ("geometry.py", "from depth_anything_hf import hub", {"hub"}),
        ("data/records.py", "def f():\n    from depth_anything_hf.modeling import M", {"modeling"}),
        ("losses/silog.py", "from ..cli.main import main", {"cli"}),
        ("losses/silog.py", "from .. import hub, geometry", {"hub"}),
        ("losses/silog.py", "from depth_anything_hf.augmentation import cutmix", {"augmentation"}),
        ("hub.py", "from .quickstart import run", {"quickstart"}),
        ("alignment.py", "from depth_anything_hf.geometry import invert", set()),
        ("losses/silog.py", "from . import reduction", set()),
        ("cli/main.py", "from depth_anything_hf import __version__", set()),
        ("cli/main.py", "import torch, depth_anything_hf.quickstart", set()),
        ("training/trainer.py", "from depth_anything_hf.training.arguments import A", set()),
    ],
)
def test_upward_imports__finds_planted_ones(module, line, found):
    assert upward_imports(line, module) == found


def test_rooms__are_found():
    assert {"geometry.py", "losses/silog.py", "training/trainer.py"} <= set(MODULES)
    assert imported_rooms((PACKAGE / "modeling.py").read_text(encoding="utf-8"), "modeling.py") == {
        "configuration",
        "geometry",
        "losses",
    }


@pytest.mark.parametrize("module", MODULES)
def test_files__are_short(module):
    assert len((PACKAGE / module).read_text(encoding="utf-8").splitlines()) < LONGEST_FILE


def test_files__are_named_for_what_they_hold():
    assert [module for module in MODULES if Path(module).name in ("utils.py", "helpers.py", "misc.py")] == []
