"""Frame samplers: pure rules that choose frame indices from the properties of a clip, without decoding.

Only ``content`` looks before it chooses, at small copies of frames that it receives one by one.

Symbols: N frames in the clip, n frames to take. Indices count from the first frame of the clip, after ``start`` and
``end`` are applied. Published scores depend on the sampler, so choose the one that the benchmark used.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from tinyvid.errors import ConfigError
from tinyvid.registry import SAMPLERS, PositiveFloat, PositiveInt
from tinyvid.types import Choice, Overflow, VideoMeta


@dataclass(kw_only=True)
class _FixedCount:
    """Base class of samplers with the option ``num_frames``."""

    looks: ClassVar[Literal[False]] = False
    overflow: ClassVar[Overflow] = "refuse"

    num_frames: PositiveInt = 16

    def __post_init__(self) -> None:
        _check_positive(type(self).__name__.lower(), num_frames=self.num_frames)


@SAMPLERS.register("uniform")
@dataclass(kw_only=True)
class Uniform(_FixedCount):
    """Take frames evenly from the first to the last: ``floor(i * (N - 1) / (n - 1))``.

    TinyLLaVA-Video's training and most video models use this rule. Frames repeat if the clip has fewer than
    ``num_frames``.

    Args:
        num_frames: Frames to take.
        unique: Drop repeated frames of a short clip (as TinyLLaVA-Video does on Video-MME and MLVU).

    Raises:
        ConfigError: ``num_frames`` is not positive.
    """

    unique: bool = False

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return ``num_frames`` indices, or fewer if ``unique`` is set and the clip is short."""
        indices = _ends(meta.num_frames, self.num_frames)
        return sorted(set(indices)) if self.unique else indices


@SAMPLERS.register("fps")
@dataclass(kw_only=True)
class Fps:
    """Take a number of frames per second of video, up to a cap.

    ``spacing=rate`` takes the frame shown at 0, 1/fps, 2/fps, ... seconds, using the time of each frame if the rate of
    the clip varies, and each frame at most once. ``spacing=ends`` takes ``max(1, int(duration * fps))`` frames evenly
    from the first to the last, which TinyLLaVA-Video calls 1 fps; it counts frames, as the original does. If there
    are more than ``max_frames``, both take ``max_frames`` evenly from the first to the last.

    Args:
        fps: Frames to take per second of video.
        max_frames: Maximum number of frames.
        spacing: ``rate`` or ``ends``.
        overflow: What to do if the frames do not fit in the LLM's context: ``refuse`` raises an error, ``fewer_frames``
            drops frames evenly, and ``fewer_tokens`` uses fewer tokens per frame if the connector supports it.

    Raises:
        ConfigError: ``fps`` or ``max_frames`` is not positive.
    """

    looks: ClassVar[Literal[False]] = False

    fps: PositiveFloat = 1.0
    max_frames: PositiveInt = 64
    spacing: Literal["rate", "ends"] = "rate"
    overflow: Overflow = "refuse"

    def __post_init__(self) -> None:
        _check_positive("fps", fps=self.fps, max_frames=self.max_frames)
        if self.spacing not in ("rate", "ends"):
            raise ConfigError(f"sampler 'fps': spacing={self.spacing!r} is unknown; use 'rate' or 'ends'")

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return at least one and at most ``max_frames`` indices."""
        if self.spacing == "ends":
            return _ends(meta.num_frames, min(self.max_frames, max(1, int(meta.duration * self.fps))))
        ticks = _ticks(meta, self.fps)
        if len(ticks) <= self.max_frames:
            return ticks
        if meta.times is None:
            return _ends(meta.num_frames, self.max_frames)
        return [ticks[i] for i in _ends(len(ticks), self.max_frames)]


@SAMPLERS.register("smolvlm")
@dataclass(kw_only=True)
class SmolVLM:
    """Take ``round(duration * fps)`` frames evenly, up to a cap, each at most once, and skip the ends of long clips.

    SmolVLM2 uses this rule. A clip is long if ``duration - 2 * skip > max_frames * fps``.

    Args:
        fps: Frames to take per second of video.
        max_frames: Maximum number of frames.
        skip: Seconds to skip at both ends of a long clip; 0 for none.
        overflow: As in ``fps``.

    Raises:
        ConfigError: ``fps`` or ``max_frames`` is not positive, or ``skip`` is negative.
    """

    looks: ClassVar[Literal[False]] = False

    fps: PositiveFloat = 1.0
    max_frames: PositiveInt = 64
    skip: float = 1.0
    overflow: Overflow = "refuse"

    def __post_init__(self) -> None:
        _check_positive("smolvlm", fps=self.fps, max_frames=self.max_frames)
        if not 0 <= self.skip < math.inf:
            raise ConfigError(f"sampler 'smolvlm': skip={self.skip:g} must be a number of seconds of at least 0")

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return at least one and at most ``max_frames`` different indices."""
        count = max(1, min(round(self.fps * meta.duration), self.max_frames))
        first, last = 0, meta.num_frames - 1
        if self.skip and meta.duration - 2 * self.skip > self.max_frames * self.fps:
            inner = int(self.skip * meta.fps), min(int(meta.num_frames - self.skip * meta.fps), last)
            first, last = inner if inner[0] < inner[1] else (first, last)
        return sorted({int(i) for i in np.linspace(first, last, count, dtype=int)})


@SAMPLERS.register("midpoint")
class Midpoint(_FixedCount):
    """Cut the clip into equal segments and take the middle of each: ``int(s / 2 + round(s * i))``, ``s = (N - 1) / n``.

    MVBench uses this rule. Frames repeat if the clip has fewer than ``num_frames``.

    Args:
        num_frames: Frames to take.

    Raises:
        ConfigError: ``num_frames`` is not positive.
    """

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return ``num_frames`` indices."""
        segment = (meta.num_frames - 1) / self.num_frames
        # Both Python and NumPy round halves to even.
        return [int(segment / 2 + round(segment * i)) for i in range(self.num_frames)]


@SAMPLERS.register("stepping")
class Stepping(_FixedCount):
    """Step through the clip from its first frame: ``i * (N // n)`` with ``n = min(num_frames, int(duration))``.

    LongVideoBench uses this rule: at most one frame per second, and no frame after the last step. For a clip shorter
    than one second, it takes the first frame.

    Args:
        num_frames: Maximum number of frames.

    Raises:
        ConfigError: ``num_frames`` is not positive.
    """

    def __call__(self, meta: VideoMeta) -> list[int]:
        """Return at least one and at most ``num_frames`` indices."""
        count = min(self.num_frames, max(1, int(meta.duration)), meta.num_frames)
        return [i * (meta.num_frames // count) for i in range(count)]


@SAMPLERS.register("content")
@dataclass(kw_only=True)
class Content:
    """Take more frames where the picture changes: one frame per ``change``, up to a cap.

    It looks at ``fps`` frames per second. The difference between two neighbors is the mean absolute difference of
    small copies, from 0 to 1, clipped to ``change``, so that a hard cut adds only one frame. The sum of the differences
    over ``change`` gives the number of frames. They are placed at equal steps of a weighted average of the cumulative
    change (weight ``1 - even``) and time (weight ``even``), so that static parts are sampled, too. If the change gives
    at most ``min_frames``, the sampler takes ``min_frames`` evenly.

    Args:
        fps: Frames per second to look at; also the maximum rate of the chosen frames.
        max_frames: Maximum number of frames.
        min_frames: Minimum number of frames, if the clip has that many.
        change: Amount of change per frame, in (0, 1].
        even: Weight of time, from 0 (change only) to 1 (even spacing).
        overflow: As in ``fps``.

    Raises:
        ConfigError: An option is out of range, or ``min_frames`` exceeds ``max_frames``.
    """

    looks: ClassVar[Literal[True]] = True

    fps: PositiveFloat = 1.0
    max_frames: PositiveInt = 64
    min_frames: PositiveInt = 4
    change: PositiveFloat = 0.05
    even: float = 0.25
    overflow: Overflow = "refuse"

    def __post_init__(self) -> None:
        low, high = self.min_frames, self.max_frames
        _check_positive("content", fps=self.fps, max_frames=high, min_frames=low, change=self.change)
        if low > high:
            raise ConfigError(f"sampler 'content': min_frames={low} exceeds max_frames={high}; lower it")
        if self.change > 1 or not 0 <= self.even <= 1:
            given = f"change={self.change:g} and even={self.even:g}"
            raise ConfigError(f"sampler 'content': {given} must be at most 1, and even at least 0")

    def __call__(self, meta: VideoMeta, look: Callable[[Sequence[int]], Iterator[np.ndarray]]) -> Choice:
        """Return at least one and at most ``max_frames`` different indices."""
        seen = _ticks(meta, self.fps)
        if len(seen) <= self.min_frames:
            return Choice(seen, f"all {len(seen)} frames at {self.fps:g} frames/s")
        changes = np.minimum([_difference(*pair) for pair in pairwise(look(seen))], self.change)  # (n - 1,)
        total = float(changes.sum())
        earned = 1 + math.floor(total / self.change + 1e-9)
        looked = f"of {len(seen):,} examined, total change {total:.3g}"
        if earned <= self.min_frames:
            chosen = _ends(len(seen), self.min_frames)
            return Choice([seen[i] for i in chosen], f"{len(chosen)} frames {looked}: evenly spaced, too little change")
        count = min(earned, self.max_frames)
        steps = (1 - self.even) * changes / total + self.even / len(changes)
        chosen = _equal_steps(steps, count)
        capped = f", capped from {earned:,}" if count < earned else ""
        return Choice([seen[i] for i in chosen], f"{count:,} frames {looked}: spaced by change{capped}")


def _difference(before: np.ndarray, after: np.ndarray) -> float:
    """Return the mean absolute difference between two frames (h, w, 3), from 0 to 1."""
    return float(np.abs(after.astype(np.int16) - before).mean()) / 255


def _equal_steps(steps: np.ndarray, count: int) -> list[int]:
    """Return ``count`` distinct points out of n at equal distances, including both ends if ``count`` is at least 2.

    Args:
        steps: (n - 1,), distances from each point to the next; not all zero.
        count: At most n.
    """
    places = np.concatenate([[0.0], np.cumsum(steps)])  # (n,)
    wanted = np.linspace(0, places[-1], count)
    nearest = np.searchsorted(places, wanted - 1e-12 * places[-1])
    chosen: list[int] = []
    for number, place in enumerate(nearest):  # if several fall on one point, move the next ones
        least = chosen[-1] + 1 if chosen else 0
        chosen.append(min(max(int(place), least), len(places) - count + number))
    return chosen


def _ticks(meta: VideoMeta, fps: float) -> list[int]:
    """Return the frames shown at 0, 1/fps, 2/fps, ... seconds, each once."""
    if meta.times is not None:
        passed = np.ceil(meta.times * fps - 1e-5)  # (N,), ticks before each frame
        passed[0] = 0  # a clip may start shortly before its first frame
        until = max(1.0, math.ceil(meta.duration * fps - 1e-5))
        return [int(i) for i in np.flatnonzero(np.append(passed[1:], until) > passed)]
    # The tolerance of 1e-5 frames absorbs the rounding error of N / fps * fps.
    count = min(max(1, math.ceil(meta.duration * fps - 1e-5)), meta.num_frames)
    if fps >= meta.fps:
        return list(range(count))
    return [min(math.floor(k * meta.fps / fps + 1e-5), meta.num_frames - 1) for k in range(count)]


def _ends(total: int, count: int) -> list[int]:
    """Return ``count`` evenly spaced indices from 0 to ``total - 1`` inclusive, rounded down."""
    return [int(i) for i in np.linspace(0, total - 1, count, dtype=int)]


def _check_positive(name: str, **values: float) -> None:
    """Raise the error that the registry raises, for direct calls of a constructor."""
    for option, value in values.items():
        if not value > 0:
            raise ConfigError(f"sampler '{name}': {option}={value!r} must be positive")
