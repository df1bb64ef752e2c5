"""Render scenes to frames from signed distances, with one pixel of anti-aliasing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tinyvid.errors import ConfigError
from tinyvid.worlds.layout import MIN_SIDE, frame_times
from tinyvid.worlds.shapes.palette import RGB
from tinyvid.worlds.shapes.scene import Scene, Shot, Tracks

TILES = 7  # of the background's texture, across the stage
# Left, top, right and bottom of each kind, in radii from its center.
EXTENT = {
    "circle": (-1.0, -1.0, 1.0, 1.0),
    "square": (-0.86, -0.86, 0.86, 0.86),
    "triangle": (-0.953, -0.95, 0.953, 0.7),
    "cross": (-0.95, -0.95, 0.95, 0.95),
}


def render(scene: Scene, *, num_frames: int, width: int = 64, height: int = 64) -> np.ndarray:
    """Render a scene as uint8 (num_frames, height, width, 3); frame i of T shows the moment (i + 0.5) / T.

    Args:
        scene: The scene to render.
        num_frames: Number of frames, evenly spaced over the scene.
        width: Width in pixels.
        height: Height in pixels.

    Raises:
        ConfigError: ``num_frames`` is less than 1, or a side is too small to show a shape.
    """
    if num_frames < 1:
        raise ConfigError(f"num_frames={num_frames} must be at least 1")
    return render_at(scene, frame_times(num_frames), width=width, height=height)


def render_at(scene: Scene, times: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """Render a scene at sorted ``times`` (T,) as uint8 (T, height, width, 3); see ``render``."""
    if min(width, height) < MIN_SIDE:
        raise ConfigError(f"width={width}, height={height}: both must be at least {MIN_SIDE} pixels")
    frames = _backgrounds(scene, times, width, height)
    tracks = scene.track(times, aspect=width / height)
    for index in range(len(scene.shapes)):
        _paint(frames, scene, tracks, index)
    return frames


def boxes(scene: Scene, *, num_frames: int, width: int, height: int) -> list[list[list[float] | None]]:
    """Return a box in pixels, [left, top, right, bottom], per frame and shape; ``None`` for hidden shapes."""
    tracks = scene.track(frame_times(num_frames), aspect=width / height)
    return [
        [box_at(scene, tracks, frame, index, width, height) for index in range(len(scene.shapes))]
        for frame in range(num_frames)
    ]


def box_at(scene: Scene, tracks: Tracks, frame: int, index: int, width: int, height: int) -> list[float] | None:
    """Return the box of a shape in a frame of ``tracks``; see ``boxes``."""
    if not tracks.visible[frame, index]:
        return None
    left, top, right, bottom = EXTENT[scene.shapes[index].kind]
    x, y = tracks.center[frame, index] * (width, height)
    radius = tracks.radius[frame, index] * min(width, height)
    return [round(float(v), 1) for v in (x + left * radius, y + top * radius, x + right * radius, y + bottom * radius)]


def _paint(frames: np.ndarray, scene: Scene, tracks: Tracks, index: int) -> None:
    """Blend one shape into all frames in which it is visible."""
    height, width = frames.shape[1:3]
    shape = scene.shapes[index]
    shown = np.flatnonzero(tracks.visible[:, index])
    if not len(shown):
        return
    center = tracks.center[shown, index] * (width, height)  # (S, 2), pixels
    radius = tracks.radius[shown, index] * min(width, height)  # (S,)
    reach = math.ceil(radius.max()) + 1
    corner = np.floor(center).astype(int) - reach  # (S, 2): where the window around each center begins
    span = np.arange(2 * reach + 1)
    columns, rows = corner[:, :1] + span, corner[:, 1:] + span  # (S, R)
    x = (columns + 0.5 - center[:, :1])[:, None, :]  # (S, 1, R)
    y = (rows + 0.5 - center[:, 1:])[:, :, None]  # (S, R, 1)
    cover = np.clip(0.5 - DISTANCE[shape.kind](x, y, radius[:, None, None]), 0.0, 1.0)  # (S, R, R)
    inside = ((columns >= 0) & (columns < width))[:, None, :] & ((rows >= 0) & (rows < height))[:, :, None]
    frame, row, column = np.nonzero((cover > 0) & inside)
    paint = np.where(tracks.recolored[shown, index, None], _paint_of(scene, index, 1), _paint_of(scene, index, 0))
    alpha = cover[frame, row, column][:, None]
    place = (shown[frame], rows[frame, row], columns[frame, column])
    frames[place] = (frames[place] * (1 - alpha) + paint[frame] * alpha + 0.5).astype(np.uint8)


def _paint_of(scene: Scene, index: int, number: int) -> np.ndarray:
    shape = scene.shapes[index]
    color = shape.last_color if number else shape.color
    return np.clip((np.array(RGB[color]) + shape.shade[:3]) * shape.shade[3], 0, 255)


def _backgrounds(scene: Scene, times: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the frames (T, H, W, 3) without shapes."""
    frames = np.empty((len(times), height, width, 3), dtype=np.uint8)
    look, zoom = scene.camera(times)
    starts = [shot.start for shot in scene.shots] + [np.inf]
    for number, shot in enumerate(scene.shots):
        now = np.flatnonzero((times >= starts[number]) & (times < starts[number + 1]))
        if not len(now):
            continue
        plain = _plain(shot, scene.seed + number, width, height)
        if not shot.background.texture:
            frames[now] = _to_levels(plain)
        elif not any(shot.pan):
            frames[now] = _to_levels(plain + _texture(shot, look[now[0]], zoom[now[0]], width, height))
        else:
            for frame in now:
                frames[frame] = _to_levels(plain + _texture(shot, look[frame], zoom[frame], width, height))
    return frames


def _plain(shot: Shot, seed: int, width: int, height: int) -> np.ndarray:
    """Return the part of a background that does not move with the stage: gradient and noise, float (H, W, 3)."""
    share = (np.arange(height) + 0.5)[:, None, None] / height
    top, bottom = np.array(shot.background.top), np.array(shot.background.bottom)
    plain = np.broadcast_to(top + share * (bottom - top), (height, width, 3))
    if not shot.background.noise:
        return plain
    noise = np.random.default_rng(seed).standard_normal((height, width, 3), dtype=np.float32)
    return plain + shot.background.noise * noise


def _texture(shot: Shot, look: np.ndarray, zoom: float, width: int, height: int) -> np.ndarray:
    """Return a chequered pattern that is fixed to the stage, float (H, W, 1)."""
    scale = zoom * min(width, height)
    x = (np.arange(width) + 0.5 - width / 2) / scale + look[0]
    y = (np.arange(height) + 0.5 - height / 2) / scale + look[1]
    waves = np.sin(np.pi * TILES * y)[:, None] * np.sin(np.pi * TILES * x)[None, :]
    return (shot.background.texture * np.clip(3 * waves, -1, 1))[..., None]


def _to_levels(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 255) + 0.5).astype(np.uint8)


def _circle(x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - radius


def _square(x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.86 * radius


def _triangle(x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    low = y - 0.15 * radius
    return np.maximum(0.866 * np.abs(x) - 0.5 * low, low) - 0.55 * radius


def _cross(x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    long, short = 0.95 * radius, 0.32 * radius
    return np.minimum(np.maximum(x - long, y - short), np.maximum(x - short, y - long))


# Signed distance in pixels from the edge of a shape, negative inside, for offsets from its center in pixels.
DISTANCE: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}
