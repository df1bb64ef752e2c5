"""Random cameras: backgrounds, and views that keep the whole stage in the picture."""

from __future__ import annotations

import numpy as np

from tinyvid.worlds.shapes.scene import Background, Shot

TEXTURE_SHARE = 0.25  # of the scenes with a still camera; a traveling one needs a texture to be seen traveling
TEXTURE = (6.0, 14.0)  # levels
ZOOM = (0.76, 0.9)  # of the stage in pictures that do not show it from edge to edge


def draw_shots(rng: np.random.Generator, *, cut: bool = False, pan: bool = False) -> tuple[Shot, ...]:
    """Draw how the camera sees a scene.

    Args:
        rng: Decides everything.
        cut: Change to another view and another background, between 0.35 and 0.65.
        pan: Travel over the stage, in every shot.
    """
    if not cut and not pan:
        return (Shot(0.0, _background(rng, textured=rng.random() < TEXTURE_SHARE)),)
    starts = [0.0, float(rng.uniform(0.35, 0.65))] if cut else [0.0]
    return tuple(_view(rng, start, pan=pan) for start in starts)


def _view(rng: np.random.Generator, start: float, *, pan: bool) -> Shot:
    zoom = float(rng.uniform(*ZOOM))
    room = (1 / zoom - 1) / 2  # how far the camera can look aside with the whole stage in the picture
    here, there = rng.uniform(-room, room, 2), rng.uniform(-room, room, 2)
    if pan:  # from one side to the other, so that the travel is seen
        side = 1.0 if rng.random() < 0.5 else -1.0
        here[0], there[0] = side * room, -side * room
    travel = (float(there[0] - here[0]), float(there[1] - here[1])) if pan else (0.0, 0.0)
    return Shot(start, _background(rng, textured=True), zoom, (float(here[0]), float(here[1])), travel)


def _background(rng: np.random.Generator, *, textured: bool) -> Background:
    """Draw a dark, slightly tinted gray, in half of the cases brighter toward one edge."""
    middle = rng.uniform(5, 75) + rng.uniform(-18, 18, 3)
    slope = rng.uniform(-25, 25) if rng.random() < 0.5 else 0.0
    top, bottom = np.clip(middle - slope, 0, 110).tolist(), np.clip(middle + slope, 0, 110).tolist()
    noise = float(rng.uniform(0, 6))
    return Background(tuple(top), tuple(bottom), noise, float(rng.uniform(*TEXTURE)) if textured else 0.0)
