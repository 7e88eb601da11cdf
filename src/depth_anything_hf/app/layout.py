"""The layout of the web page."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import gradio as gr

from depth_anything_hf.app.files import Limits
from depth_anything_hf.app.look import COLORMAPS, FOLDER, FOLDER_SCRIPT, HOVER, HOVER_SCRIPT, SPOKEN
from depth_anything_hf.app.model_cache import MAX_RESOLUTION
from depth_anything_hf.data.image_files import readable_formats

TITLE = "# Depth Anything\nDrop a picture, compare two checkpoints, point at anything and read its depth."


def lay_out(models: Sequence[str], limits: Limits, any_checkpoint: bool) -> SimpleNamespace:
    """Build the components of the page, inside `gr.Blocks`; the first two of `models` are preselected."""
    gr.Markdown(TITLE, elem_id="title")
    parts = SimpleNamespace()
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            _lay_out_questions(parts, models, limits, any_checkpoint)
        with gr.Column(scale=3, min_width=500):
            _lay_out_answers(parts)
    return parts


def _lay_out_questions(parts: SimpleNamespace, models: Sequence[str], limits: Limits, any_checkpoint: bool) -> None:
    parts.files = gr.File(label="Drop images or a folder", file_count="multiple", elem_id="files", height=170)
    accepted = (
        f"{', '.join(readable_formats())} up to {limits.upload_megabytes} MB and {limits.megapixels:g} megapixels each"
    )
    gr.HTML(accepted, html_template=FOLDER, js_on_load=FOLDER_SCRIPT, elem_id="choose", apply_default_css=False)
    with gr.Group():
        parts.first = gr.Dropdown(
            list(models),
            value=models[0],
            label="Checkpoint",
            info="choose, or type a Hub id or a folder" if any_checkpoint else None,
            allow_custom_value=any_checkpoint,
        )
        parts.second = gr.Dropdown(
            [("none", ""), *((name, name) for name in models)],
            value=models[1] if len(models) > 1 else "",
            label="Compare with",
            allow_custom_value=any_checkpoint,
        )
        with gr.Row():
            resolution = f"pixels, up to {MAX_RESOLUTION}; 0: the checkpoint's own"
            parts.resolution = gr.Number(0, label="Resolution", info=resolution, precision=0, min_width=120)
            parts.colormap = gr.Dropdown(
                COLORMAPS, value=COLORMAPS[0], label="Color map", info="near is bright", min_width=120
            )
    parts.predict = gr.Button("Predict", variant="primary", elem_id="predict")
    parts.status = gr.HTML(elem_id="status", html_template=SPOKEN, apply_default_css=False)


def _lay_out_answers(parts: SimpleNamespace) -> None:
    picture: dict[str, Any] = {"type": "filepath", "format": "png", "interactive": False, "buttons": ["fullscreen"]}
    with gr.Row(equal_height=False):
        parts.compare = gr.ImageSlider(label="Compare", elem_id="compare", **picture)
        with gr.Column(min_width=160):
            alt = "The picture that is read, with the points that you marked"
            parts.probe = gr.Image(label="Read", elem_id="probe", alt_text=alt, **picture)
            parts.seen = gr.Radio(["photograph"], type="index", label="Read on", elem_id="seen", container=False)
    with gr.Group(elem_id="readings"):
        parts.hover = gr.HTML(elem_id="hover", html_template=HOVER, js_on_load=HOVER_SCRIPT, apply_default_css=False)
        parts.reading = gr.HTML(elem_id="reading", html_template=SPOKEN, apply_default_css=False)
    with gr.Accordion("Mark a point without a mouse", open=False), gr.Row(equal_height=True):
        parts.row = gr.Number(0, label="Row", precision=0, min_width=100, elem_id="row")
        parts.column = gr.Number(0, label="Column", precision=0, min_width=100, elem_id="column")
        parts.mark = gr.Button("Mark", elem_id="mark")
    gallery: dict[str, Any] = {
        "columns": 6,
        "height": 160,
        "fit_columns": False,
        "allow_preview": False,
        "buttons": [],
    }
    parts.gallery = gr.Gallery(label="Choose an image", visible=False, interactive=False, elem_id="gallery", **gallery)
    parts.downloads = gr.File(label="Download", file_count="multiple", interactive=False, elem_id="downloads")
    with gr.Row(equal_height=False):
        info = "of the camera, degrees, for the point cloud"
        parts.fov = gr.Slider(30, 120, value=65, step=1, label="Horizontal field of view", info=info)
        with gr.Column(min_width=160):
            parts.cloud = gr.Button("Add point cloud (PLY)", elem_id="cloud", size="md")
            parts.archive = gr.Button("Add all images (ZIP)", elem_id="archive", size="md", visible=False)
