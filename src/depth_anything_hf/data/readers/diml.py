"""DIML/CVL RGB-D: indoor frames of a Kinect and outdoor frames of stereo cameras, 16-bit depth in millimeters."""

from __future__ import annotations

import os
from pathlib import Path

from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    find_below,
    make_sample,
    read_codes,
    read_gray,
    read_rgb,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: indoor SCENE/DATE/BATCH/col/NAME_c.png and up_png/NAME_SUFFIX.png (in the small sample SCENE/color/NAME_c.png "
    "and depth_filled/NAME_depth_filled.png), outdoor DAY/BATCH/left/NAME_left.png, depth/NAME_depth.png and "
    "conf/NAME_conf.png (in the sample outleft/NAME.png and depthmap/NAME.png), from https://dimlrgbd.github.io."
)
# domain, folder and ending of images, folder and ending of depth (None: that of the first file), place of the scene in a path
_FORMS = (
    ("indoor", "col", "_c.png", "up_png", None, -5),
    ("indoor", "color", "_c.png", "depth_filled", "_depth_filled.png", -3),
    ("outdoor", "left", "_left.png", "depth", "_depth.png", -4),
    ("outdoor", "outleft", ".png", "depthmap", ".png", -3),
)


def read_diml(root: str | os.PathLike, domain: str = "all", confidence: float = 0.6) -> Samples[DepthSample]:
    """Read DIML, the full set or the small sample.

    Args:
        root: Folder of `indoor` and `outdoor`, or any folder up to five levels above the folders of images.
        domain: "indoor" (holes filled by the makers), "outdoor", or "all".
        confidence: Outdoor pixels of the full set count above it, 0 to 1; the makers' report is quoted with 0.9. 0 reads no
            confidence maps. The sample has none.

    Returns:
        Samples in meters; 0 has no label; `group` is the scene, or the day and camera.

    Raises:
        ValueError: Unknown domain.
        FileNotFoundError: No image, or a depth or confidence map is missing.
        OSError: A file is broken.

    Source: Cho et al., DIML/CVL RGB-D Dataset, arXiv 2110.11590.
    """
    check_choice("domain", domain, ("indoor", "outdoor", "all"))
    root = Path(root).expanduser()
    entries = []
    for form in _FORMS:
        if domain not in ("all", form[0]):
            continue
        _, images, image_end, depths, depth_end, place = form
        endings: dict[Path, str] = {}  # of the depth maps in a folder
        for name in find_below(root, f"{images}/*{image_end}", levels=5):
            folder, stem = Path(name).parent.parent, Path(name).name.removesuffix(image_end)
            if folder not in endings:
                first = min((root / folder / depths).glob("*.png"), default=Path("_up.png")).name
                endings[folder] = depth_end or "_" + first.rpartition("_")[2]
            sure = f"{folder.as_posix()}/conf/{stem}_conf.png" if images == "left" and confidence > 0 else None
            scene = (*root.absolute().parts, *name.split("/"))[place]
            entries.append((name, f"{folder.as_posix()}/{depths}/{stem}{endings[folder]}", sure, confidence, scene))
    return Samples("diml", domain, root, LAYOUT, sorted(entries), _read)


def _read(root: Path, entry: tuple[str, str, str | None, float, str]) -> DepthSample:
    source, depth, sure, confidence, scene = entry
    mask = None if sure is None else read_gray(root / sure) > confidence * 255
    return make_sample(read_rgb(root / source), read_codes(root / depth) / 1000, source, scene, mask=mask)
