"""tinyvid: compose, fine-tune, evaluate and run your own small video-language model."""

from tinyvid.assistant import Assistant
from tinyvid.config import compose
from tinyvid.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    PluginError,
    TinyvidError,
    VideoError,
)
from tinyvid.types import Message, Sample, Video

__version__ = "0.1.0"

__all__ = [
    "Assistant",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Message",
    "PluginError",
    "Sample",
    "TinyvidError",
    "Video",
    "VideoError",
    "__version__",
    "compose",
]
