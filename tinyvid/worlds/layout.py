"""The sizes, lengths and frame times of the clips of a set, which all worlds share."""

from __future__ import annotations

import re
from typing import Protocol

import numpy as np

from tinyvid.errors import ConfigError

MIN_SIDE = 16  # pixels; nothing is recognizable in smaller frames
MIN_FRAMES = 8  # fewer frames cannot show a bounce or the order of events
MAX_SIDE, MAX_FRAMES = 4096, 100_000  # larger values are surely a mistake


class FileOptions(Protocol):
    """Options for the files of a set; each clip draws one value from each list."""

    @property
    def sizes(self) -> list[str]:
        """Sizes in pixels, as ``WIDTHxHEIGHT``."""

    @property
    def fps(self) -> list[float]:
        """Frame rates."""

    @property
    def seconds(self) -> list[float]:
        """Durations."""


def check_layout(options: FileOptions) -> None:
    """Check the sizes, frame rates and durations of a set.

    Raises:
        ConfigError: A list is empty, a size is invalid, or a clip would have too few or too many frames.
    """
    for name in ("sizes", "fps", "seconds"):
        if not getattr(options, name):
            raise ConfigError(f"{name} is empty; list at least one value")
    for size in options.sizes:
        parse_size(size)
    for rate in options.fps:
        for length in options.seconds:
            frames_of(rate, length)


def draw_layout(options: FileOptions, rng: np.random.Generator) -> tuple[int, int, float, int]:
    """Draw the width, height, frame rate and number of frames of a clip."""
    width, height = parse_size(options.sizes[rng.integers(len(options.sizes))])
    fps = float(options.fps[rng.integers(len(options.fps))])
    return width, height, fps, frames_of(fps, options.seconds[rng.integers(len(options.seconds))])


def parse_size(size: str) -> tuple[int, int]:
    """Return width and height of ``WIDTHxHEIGHT``.

    Raises:
        ConfigError: The size is malformed, odd or out of range.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(size))
    sides = [int(side) for side in match.groups()] if match else []
    if not sides or not all(MIN_SIDE <= side <= MAX_SIDE and side % 2 == 0 for side in sides):
        raise ConfigError(
            f"sizes: {size!r} must have the form 128x72, with even numbers of pixels from {MIN_SIDE} to {MAX_SIDE}"
        )
    return sides[0], sides[1]


def frames_of(fps: float, seconds: float) -> int:
    """Return the number of frames of a clip.

    Raises:
        ConfigError: There would be too few or too many.
    """
    frames = round(fps * seconds) if fps > 0 and seconds > 0 and fps * seconds < 1e9 else 0
    if not MIN_FRAMES <= frames <= MAX_FRAMES:
        raise ConfigError(
            f"fps={fps:g} and seconds={seconds:g} give {frames:,} frames; a clip needs {MIN_FRAMES} to {MAX_FRAMES:,}"
        )
    return frames


def frame_times(num_frames: int) -> np.ndarray:
    """Return the times of the frames of a clip, from 0 to 1: frame i of T shows (i + 0.5) / T."""
    return (np.arange(num_frames) + 0.5) / num_frames


def sampled_times(num_frames: int, num_sampled: int) -> np.ndarray:
    """Return the times of the ``num_sampled`` frames that the sampler ``uniform`` chooses from a file."""
    return frame_times(num_frames)[np.linspace(0, num_frames - 1, num_sampled, dtype=int)]
