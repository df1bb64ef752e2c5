"""Compute the facts about every shape of a clip as numbers, the targets of matched supervision."""

import numpy as np

from recipes.shapes.sizes import MAX_SHAPES, NUM_FRAMES
from tinyvid.worlds.shapes import COLORS, KINDS, MOTIONS, Scene, Shape
from tinyvid.worlds.shapes.wording import life_events

EVENTS = ("nothing", "appear", "disappear", "recolor")
NONE = -1  # missing target

# Categorical facts with their number of classes.
CHOICES = {
    "first_color": len(COLORS),
    "last_color": len(COLORS),
    "kind": len(KINDS),
    "motion": len(MOTIONS),
    "second_motion": len(MOTIONS),
    "has_second": 2,
    "event": len(EVENTS),
    "rank": 4,  # rank of its event among all events: none, first, second, third
    "frame": NUM_FRAMES + 1,  # first frame after the event; the last class is none
    "passes_color": len(COLORS),  # color of the shape that it passes
    "passes_kind": len(KINDS),
    "passes": 2,
    "is_passed": 2,
    "collides_color": len(COLORS),
    "collides_kind": len(KINDS),
    "collides": 2,
    "count": MAX_SHAPES + 1,
    "start_count": MAX_SHAPES + 1,
    "end_count": MAX_SHAPES + 1,
    "same_kind": MAX_SHAPES + 1,
    "same_color": MAX_SHAPES + 1,
    "start_visible": 2,
    "end_visible": 2,
}
# Real-valued facts with their width; NaN if missing.
NUMBERS = {"time": 1, "start_center": 2, "end_center": 2}


def facts(scene: Scene, aspect: float, moments: np.ndarray) -> dict[str, np.ndarray]:
    """Return every fact of ``CHOICES`` as int8 (N,), of ``NUMBERS`` as float32 (N, width); N is ``MAX_SHAPES``.

    Args:
        scene: The scene.
        aspect: Width of the frames divided by their height.
        moments: Times of the frames that the model sees, from 0 to 1.
    """
    found = {name: np.full(MAX_SHAPES, NONE, dtype="int8") for name in CHOICES}
    found |= {name: np.full((MAX_SHAPES, width), np.nan, dtype="float32") for name, width in NUMBERS.items()}
    edges = scene.track(np.array([1 / 32, 31 / 32]), aspect=aspect)
    shared = {
        "count": len(scene.shapes),
        "start_count": int(scene.track(np.array([0.0])).visible.sum()),
        "end_count": int(scene.track(np.array([1.0])).visible.sum()),
    }
    for index, shape in enumerate(scene.shapes):
        for name, value in (shared | _of_shape(scene, shape) | _of_events(scene, index, moments)).items():
            found[name][index] = value
        for place, when in enumerate(("start", "end")):
            found[f"{when}_visible"][index] = edges.visible[place, index]
            if edges.visible[place, index]:
                found[f"{when}_center"][index] = edges.center[place, index]
    return found


def _of_shape(scene: Scene, shape: Shape) -> dict[str, int]:
    colors = [other.color for other in scene.shapes]
    return {
        "first_color": COLORS.index(shape.color),
        "last_color": COLORS.index(shape.last_color),
        "kind": KINDS.index(shape.kind),
        "motion": MOTIONS.index(shape.motion),
        "second_motion": MOTIONS.index(shape.second_motion) if shape.second_motion else NONE,
        "has_second": shape.second_motion is not None,
        "same_kind": sum(other.kind == shape.kind for other in scene.shapes),
        "same_color": colors.count(shape.color),
    }


def _of_events(scene: Scene, index: int, moments: np.ndarray) -> dict[str, int | float]:
    found: dict[str, int | float] = {"event": 0, "rank": 0, "frame": NUM_FRAMES}
    for rank, event in enumerate(life_events(scene)):
        if event.shape == index:
            frame = int(np.searchsorted(moments, event.time))
            found |= {"event": EVENTS.index(event.kind), "rank": rank + 1, "frame": frame, "time": event.time}
    found |= {"passes": 0, "is_passed": 0, "collides": 0}
    for event in scene.events:
        if event.kind not in ("pass", "collide") or index not in (event.shape, event.other):
            continue
        partner = scene.shapes[event.other if event.shape == index else event.shape]  # type: ignore[index]
        verb = "passes" if event.kind == "pass" else "collides"
        if event.kind == "pass" and event.other == index:
            found["is_passed"] = 1
            continue
        found |= {verb: 1, f"{verb}_color": COLORS.index(partner.color), f"{verb}_kind": KINDS.index(partner.kind)}
    return found
