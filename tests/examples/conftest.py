import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def load_example() -> Callable[[str], ModuleType]:
    """Function that imports a script of `examples/`: `load_example("topic/name").main([...])` runs it in this process."""

    def load(name: str) -> ModuleType:
        key = f"examples_{name.replace('/', '_')}"
        if key not in sys.modules:
            file = EXAMPLES / f"{name}.py"
            spec = importlib.util.spec_from_file_location(key, file)
            sys.modules[key] = importlib.util.module_from_spec(spec)
            sys.path.insert(0, str(file.parent))  # as Python does for a script: the other files of its topic
            try:
                spec.loader.exec_module(sys.modules[key])
            finally:
                sys.path.remove(str(file.parent))
        return sys.modules[key]

    return load
