import inspect
import os
import stat
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from depth_anything_hf.app import page as page_module
from depth_anything_hf.app.files import Limits
from depth_anything_hf.app.page import answer_problems, build_page, launch_page


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Where `build_page` keeps files, and its changes to the environment, for one test."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.slow
def test_build_page__refuses_what_cannot_be_shown(environment, tmp_path):
    with pytest.raises(ValueError, match="models is empty"):
        build_page([])
    with pytest.raises(ValueError, match="none cannot be loaded"):
        build_page([str(tmp_path / "none")])


@pytest.mark.slow
def test_build_page__is_private(environment, save_checkpoint, tmp_path):
    page = build_page([save_checkpoint("model")], Limits())
    root = Path(os.environ["GRADIO_TEMP_DIR"])
    assert root.parent == tmp_path
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert not page.analytics_enabled
    assert page.delete_cache == (3600, 86400)
    assert len(page.fns) > 8
    assert {one.api_visibility for one in page.fns.values()} == {"private"}


@pytest.mark.slow
@pytest.mark.parametrize("any_checkpoint", [True, False])
def test_build_page__strangers_choose_among_the_given_checkpoints(any_checkpoint, environment, save_checkpoint):
    models = [save_checkpoint("a"), save_checkpoint("b", 20.0), save_checkpoint("c")]
    page = build_page(models, any_checkpoint=any_checkpoint)
    parts = {block.label: block for block in page.blocks.values() if isinstance(block, gr.Dropdown)}
    first, second = parts["Checkpoint"], parts["Compare with"]
    assert (first.value, second.value) == (models[0], models[1])
    if any_checkpoint:
        assert first.preprocess("/etc") == second.preprocess("/etc") == "/etc"
    else:
        for part in (first, second):
            assert part.preprocess(models[2]) == models[2]
            with pytest.raises(gr.Error, match="not in the list of choices"):
                part.preprocess("/etc")


@pytest.mark.slow
def test_launch_page__bounds_uploads_and_listens_on_this_machine(environment, save_checkpoint):
    limits = Limits(upload_megabytes=3)
    page = build_page([save_checkpoint("model")], limits)
    try:
        url = launch_page(page, limits)
        assert url == f"http://127.0.0.1:{page.server_port}/"
        assert page.server_name == "127.0.0.1"
        assert page.max_file_size == 3 * 2**20
        assert not page.run_history
        assert page.share_url is None
        assert page.allowed_paths == []
    finally:
        page.close(verbose=False)


def test_answer_problems__tells_what_can_be_mended():
    status = gr.HTML()

    def refuse(session, path):
        raise ValueError(f"<b>{path}</b> is wrong.")

    answer = answer_problems(status, refuse)
    assert inspect.signature(answer) == inspect.signature(refuse)  # by which gradio knows what to pass
    with pytest.warns(UserWarning, match="is wrong"):
        assert answer("session", "a") == {status: '<p class="problem">&lt;b&gt;a&lt;/b&gt; is wrong.</p>'}
    with pytest.warns(UserWarning, match="load it again"):
        assert "too old" in answer(None, "a")[status]


def test_answer_problems__any_other_error_is_told_in_words(caplog):
    def fail(session):
        raise RuntimeError("out of memory <b>\nTried to allocate 3 GiB")

    with pytest.warns(UserWarning, match="did not work"):
        (answer,) = answer_problems(gr.HTML(), fail)("session").values()
    assert answer == '<p class="problem">this did not work (RuntimeError: out of memory &lt;b&gt;)</p>'
    assert "Tried to allocate" in caplog.text  # for who runs the page


def test_forget__deletes_the_visitor_s_files(make_session):
    session = make_session([("m", np.ones((3, 4)), "disparity")])
    page_module._forget(session)
    assert not session.folder.exists()
    page_module._forget(None)  # of a page that never opened
