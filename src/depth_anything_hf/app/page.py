"""Build the web page, serve it, and answer its buttons."""

from __future__ import annotations

import atexit
import functools
import html
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
from PIL import Image

from depth_anything_hf.app.exports import add_archive, add_point_clouds, copy_session, repaint
from depth_anything_hf.app.files import Limits
from depth_anything_hf.app.layout import lay_out
from depth_anything_hf.app.look import CSS
from depth_anything_hf.app.model_cache import Checkpoints
from depth_anything_hf.app.points import describe_points, draw_points, hover_maps, mark_pixel, mark_shown
from depth_anything_hf.app.predict_files import predict_files
from depth_anything_hf.app.session import Session
from depth_anything_hf.scenes.simple import render_scenes

_logger = logging.getLogger(__name__)
_DAY = 86400  # seconds
_EXAMPLE_SEED = 8  # a street, and a box nearby


def build_page(
    models: Sequence[str],
    limits: Limits | None = None,
    any_checkpoint: bool = False,
    checkpoints: Checkpoints | None = None,
) -> gr.Blocks:
    """Build the page. The checkpoints are loaded and shown on a rendered scene first, so that a wrong name fails here.

    Files go to a private temporary folder, which is deleted when Python ends; the process's `GRADIO_TEMP_DIR` is set
    to it, and its `GRADIO_ANALYTICS_ENABLED` to False.

    Args:
        models (`Sequence[str]`): Hub ids or folders to choose from; the first is shown, compared with the second.
        limits (`Limits`, *optional*): Largest uploads.
        any_checkpoint (`bool`): Whether visitors may name others: Hub ids, which are downloaded, and folders of this
            machine. Not safe if strangers can open the page.
        checkpoints (`Checkpoints`, *optional*): Cache that loads them.

    Returns:
        `gr.Blocks`: Page for `launch_page`.

    Raises:
        ImportError: gradio is not installed.
        ValueError: There is no model, or one that cannot be loaded.
    """
    if not models:
        raise ValueError("models is empty; pass at least one Hub id or folder.")
    limits, checkpoints = limits or Limits(), checkpoints or Checkpoints()
    root = Path(tempfile.mkdtemp(prefix="depth-anything-hf-app-"))  # readable by this user only
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    os.environ |= {"GRADIO_TEMP_DIR": str(root), "GRADIO_ANALYTICS_ENABLED": "False"}
    example = _draw_example(root)
    welcome, _ = predict_files([example], list(dict.fromkeys(models[:2])), checkpoints, root, limits)

    with gr.Blocks(title="Depth Anything", analytics_enabled=False, delete_cache=(3600, _DAY)) as page:
        parts = lay_out(models, limits, any_checkpoint)
        parts.session = gr.State(None, delete_callback=_forget)
        _connect(parts, checkpoints, root, limits)
        shown = _view(parts)

        page.load(lambda: shown(copy_session(welcome, root)), None, _viewed(parts), api_visibility="private")
    return page


def launch_page(page: gr.Blocks, limits: Limits, host: str | None = "127.0.0.1", port: int | None = None) -> str:
    """Serve the page and return at once; `page.block_thread()` waits for its end.

    Args:
        page (`gr.Blocks`): Result of `build_page`.
        limits (`Limits`): Limits passed to `build_page`.
        host (`str`, *optional*): Address to listen on; None: gradio's environment decides, as on a Space.
        port (`int`, *optional*): Port. Default: the first free one from 7860.

    Returns:
        `str`: The page's address.

    Raises:
        OSError: The port is taken.
    """
    plain, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=limits.upload_megabytes * gr.FileSize.MB,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        theme=gr.themes.Soft(primary_hue="indigo", font=plain, font_mono=mono),
        css=CSS,
    )
    return url


def _draw_example(root: Path) -> Path:
    """Render the scene that a visitor sees first."""
    file = root / "example" / "scene.png"
    file.parent.mkdir()
    pixels = render_scenes([_EXAMPLE_SEED], 384, 512, supersample=2).images[0]
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    return file


def _viewed(parts: SimpleNamespace) -> list:
    """List the components that `_view` fills."""
    names = "session compare seen probe hover reading gallery downloads archive status row column"
    return [getattr(parts, name) for name in names.split()]


def _view(parts: SimpleNamespace) -> Callable[[Session], dict]:
    """Return the function that shows a session."""

    def shown(session: Session) -> dict:
        photograph = session.photograph
        labels = [one.label for one in photograph.predictions]
        pictures = [session.picture(seen) for seen in range(len(labels) + 1)]
        names = ["photograph", *labels]
        several = len(session.photographs) > 1
        thumbnails = [(str(one.preview), one.name) for one in session.photographs] if several else None
        height, width = photograph.size
        return {
            parts.session: session,
            parts.compare: gr.ImageSlider((pictures[-2], pictures[-1]), label=f"Compare: {names[-2]} | {names[-1]}"),
            parts.seen: gr.Radio(names, value=names[session.seen]),
            parts.probe: gr.Image(draw_points(session), label=f"Read: {photograph.name}, {width} x {height}"),
            parts.hover: hover_maps(photograph),
            parts.reading: describe_points(session),
            parts.gallery: gr.Gallery(thumbnails, visible=several),
            parts.downloads: session.downloads(),
            parts.archive: gr.Button(visible=several),
            parts.status: "",
            parts.row: height // 2,
            parts.column: width // 2,
        }

    return shown


def _connect(parts: SimpleNamespace, checkpoints: Checkpoints, root: Path, limits: Limits) -> None:
    """Connect each button with its action. A problem that the visitor can solve is shown, and the page stays as it is."""
    shown, status = _view(parts), parts.status
    marked = [parts.session, parts.probe, parts.reading, status]
    private = {"api_visibility": "private"}
    answered = functools.partial(answer_problems, status)

    @functools.partial(answer_problems, status, emptied=(parts.files,))  # ready for the next upload
    def predict(before, paths, first, second, resolution, colormap, progress=gr.Progress()):  # noqa: B008 (gradio's way)
        names = list(dict.fromkeys(name for name in (first, second) if name))
        bar = functools.partial(progress.tqdm, desc="Predicting", unit="images")
        own = resolution or None
        paths = paths or before.paths
        session, problems = predict_files(paths, names, checkpoints, root, limits, own, colormap, bar)
        _forget(before)
        if problems:
            gr.Warning(f"{len(problems)} of {len(paths)} left out: {html.escape(problems[0])}")
        lines = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
        done = f"<p>{len(session.photographs)} of {len(paths)} predicted.</p>"
        message = done + (f'<ul class="problem">{lines}</ul>' if problems else "")
        return shown(session) | {status: message, parts.files: None}

    def mark(session: Session) -> dict:
        values = session, draw_points(session), describe_points(session), ""
        return dict(zip(marked, values, strict=True))

    @answered
    def click(session: Session, event: gr.SelectData):
        return mark(mark_shown(session, *event.index))

    @answered
    def look(session: Session, seen: int):
        return mark(replace(session, seen=seen))

    @answered
    def mark_by_number(session: Session, row: int, column: int):
        return mark(mark_pixel(session, row, column))

    @answered
    def choose(session: Session, event: gr.SelectData):
        return shown(replace(session, shown=event.index, points=()))

    @answered
    def recolor(session: Session, colormap: str):
        return shown(repaint(session, colormap))

    def add(make: Callable[..., Session]) -> Callable:
        @answered
        def added(session: Session, *inputs):
            session = make(session, *inputs)
            return {parts.session: session, parts.downloads: session.downloads(), status: ""}

        return added

    state, everything = parts.session, _viewed(parts)
    settings = [getattr(parts, name) for name in ("session", "files", "first", "second", "resolution", "colormap")]
    for start in (parts.predict.click, parts.files.upload):
        start(predict, settings, [*everything, parts.files], show_progress_on=parts.compare, **private)
    parts.seen.input(look, [state, parts.seen], marked, show_progress="hidden", **private)
    parts.probe.select(click, state, marked, show_progress="hidden", **private)
    parts.mark.click(mark_by_number, [state, parts.row, parts.column], marked, show_progress="hidden", **private)
    parts.gallery.select(choose, state, everything, show_progress_on=parts.compare, **private)
    parts.colormap.input(recolor, [state, parts.colormap], everything, show_progress_on=parts.compare, **private)
    extras = [state, parts.downloads, status]
    parts.cloud.click(add(add_point_clouds), [state, parts.fov], extras, **private)
    parts.archive.click(add(add_archive), state, extras, **private)


def answer_problems(status: gr.HTML, function: Callable, emptied: Sequence = ()) -> Callable:
    """Return `function` so that an error is shown in `status`, in words, and the page stays as it is.

    `function` takes the session and more, and returns the changes, `{component: value}`; after an error the components
    in `emptied` are emptied.
    """

    @functools.wraps(function)  # gradio reads the signature
    def answer(session: Session | None, *inputs):
        try:
            if session is None:  # the server was restarted, or the visitor was away for an hour
                raise ValueError("This page is too old to continue; load it again.")
            return function(session, *inputs)
        except (ImportError, OSError, ValueError) as error:
            words = html.escape(str(error))
        except Exception as error:  # such as a full memory; the traceback is for who runs the page
            _logger.exception("the page could not answer")
            words = html.escape(f"this did not work ({type(error).__name__}: {str(error).partition(chr(10))[0]})")
        gr.Warning(words)
        return dict.fromkeys(emptied) | {status: f'<p class="problem">{words}</p>'}

    return answer


def _forget(session: Session | None) -> None:
    """Delete a visitor's files."""
    if session is not None:
        shutil.rmtree(session.folder, ignore_errors=True)
