"""Depth of videos: read frame by frame, aligned with the past, written as they come."""

try:
    import av  # noqa: F401  (before any module here asks for it, for the message)
except ImportError as error:
    raise ImportError('video needs PyAV: pip install "depth_anything_hf[video]".') from error

from depth_anything_hf.prediction.video.reading import Frame, VideoReader
from depth_anything_hf.prediction.video.saving import (
    OUTPUTS,
    DepthFrame,
    VideoReport,
    iter_video_depth,
    read_depth_video,
    save_video_depth,
)
from depth_anything_hf.prediction.video.writing import VideoWriter

__all__ = [
    "OUTPUTS",
    "DepthFrame",
    "Frame",
    "VideoReader",
    "VideoReport",
    "VideoWriter",
    "iter_video_depth",
    "read_depth_video",
    "save_video_depth",
]
