import threading
import urllib.request

import pytest

pytestmark = pytest.mark.slow

gradio = pytest.importorskip("gradio", reason="the web page needs the extra app")


def test_app__serves_the_page_within_a_visitor_s_limits(
    load_example, make_model, tiny_processor, tmp_path, monkeypatch
):
    make_model().save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    served = threading.Event()
    pages = []

    def visit(page):  # in place of waiting for the end
        pages.append((page, urllib.request.urlopen(page.local_url, timeout=60).read()))
        served.set()

    monkeypatch.setattr(gradio.Blocks, "block_thread", visit)
    assert load_example("app").main(["--model", str(tmp_path / "model")]) == 0
    assert served.is_set()
    page, text = pages[0]
    try:
        assert b"Depth Anything" in text
        assert page.server_name == "127.0.0.1"
        assert page.max_file_size == 10 * 2**20
        choices = [block for block in page.blocks.values() if isinstance(block, gradio.Dropdown)]
        assert not any(block.allow_custom_value for block in choices)
    finally:
        page.close(verbose=False)
