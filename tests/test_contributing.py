"""The recipes of CONTRIBUTING.md work as they are printed: each diff is applied to a copy of the package and used."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = dict(
    re.findall(r"^## Add a ([a-z ]+)\n.*?^```diff\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
)
USES = {
    "loss": """
        import torch
        from depth_anything_hf.losses import LOSSES
        from depth_anything_hf.training.recipe import loss_terms
        maps, everywhere = torch.rand(2, 4, 6), torch.ones(2, 4, 6, dtype=torch.bool)
        assert LOSSES["edges"](maps, maps, everywhere).tolist() == [0, 0]
        (term,) = loss_terms({"edges": 0.5})
        assert term.compute(maps, maps, everywhere).item() == 0
    """,
    "reader": """
        from pathlib import Path
        import numpy as np
        from PIL import Image
        from depth_anything_hf.data.readers import open_reader
        for folder, values in (("images", np.zeros((2, 3, 3), np.uint8)), ("depth", np.full((2, 3), 1500, np.uint16))):
            Path("root", folder).mkdir(parents=True)
            Image.fromarray(values).save(f"root/{folder}/a.png")
        (sample,) = open_reader("rooms", "root")
        assert sample.values.tolist() == [[1.5] * 3] * 2 and sample.source == "images/a.png"
    """,
    "feature encoder": """
        import torch
        from transformers import ConvNextConfig, ConvNextModel
        from depth_anything_hf.training.convolutional_encoder import ConvolutionalEncoder
        from depth_anything_hf.training.encoders import frozen_patch_features
        network = ConvNextModel(ConvNextConfig(hidden_sizes=[4, 8, 8, 16], depths=[1, 1, 1, 1])).eval()
        tokens = frozen_patch_features(ConvolutionalEncoder(network), torch.zeros(2, 3, 64, 96), (2, 3))
        assert tokens.shape == (2, 6, 16)
    """,
    "subcommand": """
        import numpy as np
        from PIL import Image
        from depth_anything_hf.cli.main import main
        from depth_anything_hf.data.folder import write_image_folder
        from depth_anything_hf.data.records import encode_record
        depth = np.array([[1.0, 2.0, 0.0, 0.0]])
        write_image_folder([encode_record(Image.new("RGB", (4, 1)), depth, mask=depth > 0)], "folder")
        assert main(["stats", "folder"]) == 0
    """,
}


def apply(diff: str, root: Path) -> list[str]:
    """Apply a diff without line numbers: each hunk's old lines must stand in the file exactly once; return the files."""
    files = re.split(r"^--- \S+\n\+\+\+ b/", diff, flags=re.MULTILINE)[1:]
    for file in files:
        name, *hunks = re.split(r"\n?@@\n", file)
        path = root / name
        for hunk in hunks:
            lines = hunk.splitlines()
            old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] in marks) for marks in (" -", " +"))
            text = path.read_text(encoding="utf-8") if old else ""
            assert old or not path.exists(), f"{name} is there"
            assert not old or text.count(old) == 1, f"{name} does not have:\n{old}"
            path.write_text(text.replace(old, new) if old else new, encoding="utf-8")
    return [file.partition("\n")[0] for file in files]


def test_recipes__are_all_tested_and_touch_two_files_at_most():
    assert RECIPES.keys() == USES.keys()
    assert {diff.count("\n+++ b/") for diff in RECIPES.values()} == {1, 2}


@pytest.mark.slow
def test_recipes__work_as_printed(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    changed = [file for name in RECIPES for file in apply(RECIPES[name], tmp_path)]
    for check in (("check",), ("format", "--check")):
        command = [sys.executable, "-m", "ruff", *check, "--config", ROOT / "pyproject.toml", *changed]
        subprocess.run(command, cwd=tmp_path, check=True)
    code = "\n".join(f"print({name!r})\n{textwrap.dedent(USES[name])}" for name in RECIPES)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]  # one process: each would import PyTorch anew
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 images have labels; 50.0% of their pixels" in done.stdout


def test_apply__refuses_lines_that_are_not_there(tmp_path):
    (tmp_path / "a.py").write_text("one\ntwo\n")
    diff = "--- a/a.py\n+++ b/a.py\n@@\n {}\n+new\n"
    with pytest.raises(AssertionError, match=r"a\.py does not have"):
        apply(diff.format("three"), tmp_path)
    assert apply(diff.format("one"), tmp_path) == ["a.py"]
    assert (tmp_path / "a.py").read_text() == "one\nnew\ntwo\n"
