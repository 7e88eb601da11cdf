import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the 52 real labelled images; the test skips where it is missing."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DEPTH_ANYTHING_HF_REAL_DATA") or default)
    if not (folder / "metadata.jsonl").is_file():
        pytest.skip(f"no real data at {folder}: set DEPTH_ANYTHING_HF_REAL_DATA to the folder of the labelled images")
    return folder
