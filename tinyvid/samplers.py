"""Which frames of a clip to look at: pure rules from what is known of the clip to frame indices, without decoding.

Symbols: N frames in the clip, n frames asked for. Indices count from the first frame of the stretch that ``start`` and
``end`` leave, so every rule honours them. Published scores depend on the rule: choose the one that a benchmark used.
"""

import math
from typing import Literal

import numpy as np

from tinyvid.bounds import PositiveFloat, PositiveInt
from tinyvid.errors import ConfigError
from tinyvid.registry import SAMPLERS
from tinyvid.types import VideoMeta


@SAMPLERS.register("uniform")
class Uniform:
    """Take frames evenly from the first to the last: ``floor(i * (N - 1) / (n - 1))``.

    The rule of TinyLLaVA-Video's training and of most video models. A clip shorter than ``num_frames`` repeats frames.

    Args:
        num_frames: Frames to take.
        unique: Take each frame once, so that a short clip gives fewer frames (TinyLLaVA-Video on Video-MME and MLVU).

    Raises:
        ConfigError: ``num_frames`` is not positive.
    """

    def __init__(self, *, num_frames: PositiveInt = 16, unique: bool = False) -> None:
        _check_positive("uniform", num_frames=num_frames)
        self.num_frames = num_frames
        self.unique = unique

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return ``num_frames`` indices, or fewer where ``unique`` and the clip is short."""
        indices = _ends(meta.num_frames, self.num_frames)
        return sorted(set(indices)) if self.unique else indices


@SAMPLERS.register("fps")
class Fps:
    """Take a number of frames per second of video, up to a cap.

    ``spacing=rate`` takes the frame on screen at 0, 1/fps, 2/fps, ... seconds, on the average clock of the clip; where
    the clip has a lower rate than asked for, it takes every frame once. ``spacing=ends`` takes
    ``max(1, int(duration * fps))`` frames evenly from the first to the last, which is what TinyLLaVA-Video calls 1 fps.
    Beyond ``max_frames``, both spread ``max_frames`` evenly from the first to the last.

    Args:
        fps: Frames to take per second of video.
        max_frames: Most frames to take.
        spacing: ``rate`` or ``ends``.

    Raises:
        ConfigError: ``fps`` or ``max_frames`` is not positive.
    """

    def __init__(
        self, *, fps: PositiveFloat = 1.0, max_frames: PositiveInt = 64, spacing: Literal["rate", "ends"] = "rate"
    ) -> None:
        _check_positive("fps", fps=fps, max_frames=max_frames)
        if spacing not in ("rate", "ends"):
            raise ConfigError(f"sampler 'fps': spacing={spacing!r} is unknown; use 'rate' or 'ends'")
        self.fps = fps
        self.max_frames = max_frames
        self.spacing = spacing

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return at least one and at most ``max_frames`` indices."""
        wanted = meta.duration * self.fps
        if self.spacing == "ends":
            return _ends(meta.num_frames, min(self.max_frames, max(1, int(wanted))))
        # A hundred-thousandth of a frame absorbs the rounding of N / fps * fps.
        count = min(max(1, math.ceil(wanted - 1e-5)), meta.num_frames)
        if count > self.max_frames:
            return _ends(meta.num_frames, self.max_frames)
        if self.fps >= meta.fps:
            return list(range(count))
        return [min(math.floor(k * meta.fps / self.fps + 1e-5), meta.num_frames - 1) for k in range(count)]


@SAMPLERS.register("midpoint")
class Midpoint:
    """Cut the clip into equal segments and take the middle of each: ``int(s / 2 + round(s * i))``, ``s = (N - 1) / n``.

    The rule of MVBench; a clip shorter than ``num_frames`` repeats frames.

    Args:
        num_frames: Frames to take.

    Raises:
        ConfigError: ``num_frames`` is not positive.
    """

    def __init__(self, *, num_frames: PositiveInt = 16) -> None:
        _check_positive("midpoint", num_frames=num_frames)
        self.num_frames = num_frames

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return ``num_frames`` indices."""
        segment = (meta.num_frames - 1) / self.num_frames
        # Python and numpy both round halves to even.
        return [int(segment / 2 + round(segment * i)) for i in range(self.num_frames)]


@SAMPLERS.register("stepping")
class Stepping:
    """Step through the clip from its first frame: ``i * (N // n)`` with ``n = min(num_frames, int(duration))``.

    The rule of LongVideoBench: at most one frame per second, the end of the last step never seen. A clip under one
    second gives its first frame.

    Args:
        num_frames: Most frames to take.

    Raises:
        ConfigError: ``num_frames`` is not positive.
    """

    def __init__(self, *, num_frames: PositiveInt = 16) -> None:
        _check_positive("stepping", num_frames=num_frames)
        self.num_frames = num_frames

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return at least one and at most ``num_frames`` indices."""
        count = min(self.num_frames, max(1, int(meta.duration)), meta.num_frames)
        return [i * (meta.num_frames // count) for i in range(count)]


def _ends(total: int, count: int) -> list[int]:
    """Return ``count`` indices evenly from 0 to ``total - 1``, both included, rounded down."""
    return [int(i) for i in np.linspace(0, total - 1, count, dtype=int)]


def _check_positive(name: str, **values: float) -> None:
    """Refuse what the registry refuses, for those who call a constructor themselves."""
    for option, value in values.items():
        if not value > 0:
            raise ConfigError(f"sampler '{name}': {option}={value!r} must be positive; ask for at least one frame")
