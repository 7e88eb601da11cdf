import importlib.metadata
import re
import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import depth_anything_hf

ROOT = Path(__file__).parents[1]
MINI_FILES = ("model.safetensors", "config.json", "preprocessor_config.json", "README.md")
DATA_FILES = ("py.typed", "sharing/templates/model_card.md", *(f"model/mini/{name}" for name in MINI_FILES))


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_import__does_not_load_torch():
    code = (
        "import sys, depth_anything_hf; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    result = run_python("-c", code)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


@pytest.mark.parametrize("name", depth_anything_hf.__all__)
def test_public_name__resolves(name):
    value = getattr(depth_anything_hf, name)
    if name == "__version__":
        return
    assert value.__name__ == name
    assert value.__module__ == f"depth_anything_hf.{depth_anything_hf._HOME_OF[name]}"
    assert name in dir(depth_anything_hf)


def test_public_names__are_all_shown_to_type_checkers():
    code = Path(depth_anything_hf.__file__).read_text(encoding="utf-8").split("if TYPE_CHECKING:")[1]
    shown = [line.split(" import ") for line in code.splitlines() if line.startswith("    from depth_anything_hf.")]
    homes = {name.strip(): home.split("depth_anything_hf.")[1] for home, names in shown for name in names.split(",")}
    assert homes == depth_anything_hf._HOME_OF


def test_unknown_attribute__lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Trainer'; it has .*DepthAnythingTrainer"):
        depth_anything_hf.Trainer  # noqa: B018
    assert not hasattr(depth_anything_hf, "_no_such_name")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_command_line__answers_without_torch(option):
    # The import log of the interpreter lists every module on standard error.
    result = run_python("-X", "importtime", "-m", "depth_anything_hf", option)
    assert result.returncode == 0, result.stderr
    assert (
        "usage: depth-anything-hf SUBCOMMAND" if option == "--help" else depth_anything_hf.__version__
    ) in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines() if "|" in line}
    assert "depth_anything_hf" in imported
    assert not imported & {"torch", "transformers", "numpy"}


def test_version__is_that_of_the_distribution():
    assert depth_anything_hf.__version__ == importlib.metadata.version("depth_anything_hf")


@pytest.mark.parametrize("name", DATA_FILES)
def test_data_file__is_in_the_package(name):
    found = files("depth_anything_hf") / name
    assert found.is_file()  # false for a link that leads nowhere


@pytest.mark.slow
def test_data_files__are_built_into_the_distribution(tmp_path):
    pytest.importorskip("setuptools")
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    built = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {f"depth_anything_hf/{name}" for name in DATA_FILES} <= built
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert sources <= built


def test_version__is_that_of_the_citation_and_has_an_entry_in_the_changelog():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == depth_anything_hf.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {depth_anything_hf.__version__} - " in changes
    new_modules = re.findall(
        r"`([a-z_.]+)`", "".join(line.split("|")[2] for line in changes.splitlines() if "` |" in line)
    )
    assert len(new_modules) > 20
    for name in new_modules:
        assert find_spec(f"depth_anything_hf.{name}") is not None, name


def test_setup__every_requirement_of_users_has_a_lower_and_an_upper_bound():
    """A release of the day must not break an installation; what is installed here is within the bounds."""
    for_users = (ROOT / "setup.py").read_text(encoding="utf-8").partition('"dev":')[0]
    requirements = [Requirement(line) for line in re.findall(r'"([A-Za-z][\w-]*[<>=]+[\d.<>=,]*)"', for_users)]
    assert len(requirements) > 20
    for requirement in requirements:
        bounds = {bound.operator: Version(bound.version) for bound in requirement.specifier}
        assert bounds.keys() == {">=", "<"}, requirement
        assert bounds[">="] < bounds["<"], requirement
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:  # of an extra
            continue
        assert requirement.specifier.contains(installed, prereleases=True), (requirement, installed)
