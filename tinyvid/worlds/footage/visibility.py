"""Whether everything that may be asked about a clip can be seen in the frames that a model sees.

The tests of a picture do not depend on what was drawn for the clip: a picture without texture is rejected even for a
still camera, so that a plain sky says nothing about the camera.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

SKETCH = 96  # shorter side of the frames that are looked at, in pixels
SHIFT = 3  # pixels; a slow pan moves this far from one sampled frame to the next
TEXTURE = 3.0  # gray levels by which a part of a frame changes if it is shifted
TEXTURED = 6  # parts of nine that must have texture in both directions
LEAST_LIGHT = 25.0  # gray levels
CUT = 0.12  # change of a frame by a cut, as a fraction of its brightness
CONTRAST = 20.0  # gray levels between a small picture and what it hides
DETAIL = 12.0  # standard deviation of the gray levels of a small picture


def fault_of_frames(sketch: np.ndarray, cuts: list[int]) -> str:
    """Return why something cannot be seen; an empty string if all can.

    Args:
        sketch: Sampled frames without small picture and change of brightness, uint8 (F, H, W, 3).
        cuts: Numbers of the sampled frames with which a new shot begins.
    """
    gray = sketch.astype(np.float32).mean(-1)  # (F, H, W)
    edges = [0, *cuts, len(gray)]
    looked = {number for first, last in pairwise(edges) for number in (first, (first + last) // 2, last - 1)}
    for number in sorted(looked):
        if gray[number].mean() < LEAST_LIGHT:
            return "a dark picture"
        if _textured(gray[number]) < TEXTURED:
            return "a plain picture"
    for number in cuts:
        before, after = gray[number - 1], gray[number]
        if np.abs(after - before).mean() < CUT * max(before.mean(), after.mean()):
            return "two similar shots"
    return ""


def fault_of_patch(sketch: np.ndarray, small: np.ndarray, places: list[tuple[int, int, int]]) -> str:
    """Return why a small picture cannot be seen; an empty string if it can.

    Args:
        sketch: Frames that it is on top of, without it, uint8 (n, H, W, 3).
        small: The small picture, uint8 (side, side, 3).
        places: Left, top and side in each frame.
    """
    if small.astype(np.float32).mean(-1).std() < DETAIL:
        return "a plain small picture"
    for frame, (left, top, side) in zip(sketch, places, strict=True):
        hidden = frame[top : top + side, left : left + side].astype(np.float32)
        if np.abs(hidden - small).mean() < CONTRAST:
            return "a small picture like what it hides"
    return ""


def _textured(gray: np.ndarray) -> int:
    """Return how many of nine parts of a frame (H, W) would change visibly if the camera moved in any direction."""
    right = np.abs(gray[:-SHIFT, SHIFT:] - gray[:-SHIFT, :-SHIFT])
    down = np.abs(gray[SHIFT:, :-SHIFT] - gray[:-SHIFT, :-SHIFT])
    count = 0
    for rows in np.array_split(np.arange(right.shape[0]), 3):
        for columns in np.array_split(np.arange(right.shape[1]), 3):
            part = np.ix_(rows, columns)
            count += bool(min(right[part].mean(), down[part].mean()) >= TEXTURE)
    return count
