"""Use the installed wheel as a user does: names, data files, command line. Started by `.ci/package`."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

import depth_anything_hf

MOST_MEGABYTES = 10

package = Path(depth_anything_hf.__file__).resolve()
assert package.is_relative_to(Path(sys.prefix).resolve()), f"{package} is not the wheel's"
assert not [path for path in sys.path if Path(path).resolve().is_relative_to(os.environ["CHECKOUT"] + "/src")], (
    sys.path
)
installed = distribution("depth_anything_hf")
assert Path(str(installed.locate_file(""))).resolve().is_relative_to(Path(sys.prefix).resolve())
assert installed.version == depth_anything_hf.__version__

for name in depth_anything_hf.__all__:
    getattr(depth_anything_hf, name)

for name in (
    "py.typed",
    "sharing/templates/model_card.md",
    "sharing/templates/dataset_card.md",
    "model/mini/model.safetensors",
):
    assert (files("depth_anything_hf") / name).is_file(), f"the wheel lacks {name}"
source = Path(os.environ["CHECKOUT"], "src/depth_anything_hf")
missing = [p for p in source.rglob("*.py") if not (package.parent / p.relative_to(source)).is_file()]
assert not missing, f"the wheel lacks {missing}"


def run(*arguments: str) -> str:
    """Run the installed command."""
    done = subprocess.run(["depth-anything-hf", *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


assert depth_anything_hf.__version__ in run("--version")
rows = np.linspace(0, 255, 60, dtype=np.uint8)[:, None]
Image.fromarray(np.stack([np.broadcast_to(rows, (60, 80))] * 3, axis=-1)).save("photo.png")
run("predict", "photo.png", "--out", "depth")
written = sorted(path.name for path in Path("depth").iterdir())
assert [name for name in written if name.startswith("photo_png")], written

megabytes = Path(os.environ["WHEEL"]).stat().st_size / 1e6
print(f"wheel: {megabytes:.2f} MB, {len(depth_anything_hf.__all__)} public names; predict wrote {', '.join(written)}")
assert megabytes < MOST_MEGABYTES, f"the wheel has {megabytes:.2f} MB; the limit is {MOST_MEGABYTES}"
