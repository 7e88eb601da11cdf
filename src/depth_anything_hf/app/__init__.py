"""The web page: drop images, compare two checkpoints, read and download their depth."""

try:
    import gradio  # noqa: F401
except ImportError as error:
    raise ImportError('the web page needs gradio: pip install "depth_anything_hf[app]"') from error
