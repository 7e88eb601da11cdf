import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def load_example() -> Callable[[str], ModuleType]:
    """Function that imports a script of `examples/`: `load_example("name").main([...])` runs it in this process."""

    def load(name: str) -> ModuleType:
        key = f"examples_{name}"
        if key not in sys.modules:
            spec = importlib.util.spec_from_file_location(key, EXAMPLES / f"{name}.py")
            sys.modules[key] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[key])
        return sys.modules[key]

    return load
