import pytest


@pytest.fixture
def checkpoint(make_model, tiny_processor, tmp_path):
    """Folder of a tiny model with its processor."""
    make_model().save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")
