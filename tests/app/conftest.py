from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the web page needs the extra app")

from depth_anything_hf.app.session import Photograph, Prediction, Session
from depth_anything_hf.pictures.visualization import save_depth


@pytest.fixture
def save_checkpoint(make_model, tiny_processor, tmp_path) -> Callable[..., str]:
    """Function that saves a tiny model: `save_checkpoint("name", max_depth=None, seed=0)` returns the folder."""

    def save(name: str, max_depth: float | None = None, seed: int = 0) -> str:
        model = make_model(max_depth=max_depth, seed=seed)
        if max_depth is None:
            model.head.conv3.bias.data.fill_(1.0)  # above zero
        model.save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def make_session(tmp_path) -> Callable[..., Session]:
    """Function that makes a session of one photograph from depth maps: `make_session([(label, depth, space), ...])`."""

    def make(maps: list[tuple[str, np.ndarray, str]], preview: tuple[int, int] | None = None) -> Session:
        folder = Path(tmp_path / "session")
        made = []
        for index, (label, depth, space) in enumerate(maps):
            made.append(Prediction(label, space, save_depth(folder / str(index), depth, space)))
        height, width = preview or maps[0][1].shape
        Image.new("RGB", (width, height), "white").save(folder / "preview.png")
        photograph = Photograph("a.png", maps[0][1].shape, folder / "preview.png", tuple(made))
        return Session(folder, (photograph,), ())

    return make
