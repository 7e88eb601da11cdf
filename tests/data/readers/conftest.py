import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.codes import depth_map_to_image
from depth_anything_hf.data.readers.base import Samples


@pytest.fixture
def save_photo() -> Callable[..., Path]:
    """Function that writes a photograph of one color: `save_photo(path, height, width, red=9)`."""

    def save(path: Path, height: int, width: int, red: int = 9) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (red, 0, 0)).save(
            path, **({"quality": 100} if path.suffix != ".png" else {})
        )
        return path

    return save


@pytest.fixture
def save_codes() -> Callable[[Path, list], Path]:
    """Function that writes a 16-bit gray PNG."""

    def save(path: Path, codes: list) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        depth_map_to_image(np.array(codes, dtype=np.uint16)).save(path)
        return path

    return save


@pytest.fixture
def check_files() -> Callable[..., None]:
    """Function that checks what holds for every reader of depth, given the files of its second sample.

    The samples survive pickling; breaking or removing each of the files leaves the first sample as it was, and gives
    an error that names the file for the second one. With `own_pixels` the map's size is the sensor's.
    """

    def check(samples: Samples, files_of_second: list[Path], own_pixels: bool = False, space: str = "depth") -> None:
        before = samples[0]
        assert (samples.root / before.source.split("#")[0]).is_file()
        assert before.values.dtype == np.float32
        assert (before.space, before.mask.dtype) == (space, bool)
        assert before.values.shape == before.mask.shape
        assert own_pixels or before.values.shape == before.image.size[::-1]
        copied = pickle.loads(pickle.dumps(samples))
        assert (len(copied), copied.name, copied.split) == (len(samples), samples.name, samples.split)
        assert np.array_equal(copied[0].values, before.values)
        for path in files_of_second:
            content = path.read_bytes()
            path.write_bytes(b"broken")
            with pytest.raises(OSError, match=f"{path.name} cannot be read"):
                samples[1]
            path.unlink()
            with pytest.raises(FileNotFoundError, match=rf"{path.name} is missing\. Expected: .*http"):
                samples[1]
            assert np.array_equal(samples[0].values, before.values)
            path.write_bytes(content)
        assert samples[1].source != before.source

    return check
