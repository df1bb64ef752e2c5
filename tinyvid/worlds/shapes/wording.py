"""The words of the world: names of shapes, verbs for motions and events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyvid.worlds.shapes.palette import DIRECTIONS
from tinyvid.worlds.shapes.scene import Event, Scene
from tinyvid.worlds.shapes.shape import Shape

FULL_NAMES = 0.7  # fraction of mentions with color and kind; the others use the one that is unique, if any
_THIRD = {"appear": "appears", "disappear": "disappears", "recolor": "changes color"}
_BARE = {"appear": "appear", "disappear": "disappear", "recolor": "change color"}
LIFE_EVENTS = tuple(_THIRD)


def full_name(shape: Shape) -> str:
    """Return the name that is always correct: the first color of the shape, and its kind."""
    return f"{shape.color} {shape.kind}"


def kind_is_unique(scene: Scene, index: int) -> bool:
    """Return whether no other shape of the scene has this kind."""
    return sum(shape.kind == scene.shapes[index].kind for shape in scene.shapes) == 1


def color_is_unique(scene: Scene, index: int) -> bool:
    """Return whether a shape keeps its color and no other shape ever has it."""
    shape = scene.shapes[index]
    others = [color for other in scene.shapes if other is not shape for color in other.colors]
    return shape.recolor is None and shape.color not in others


def name(scene: Scene, index: int, rng: np.random.Generator) -> str:
    """Return an unambiguous name, usually the full one, without an article."""
    shape = scene.shapes[index]
    names = []
    if rng.random() >= FULL_NAMES:
        names += [shape.kind] if kind_is_unique(scene, index) else []
        names += [f"{shape.color} object"] if color_is_unique(scene, index) else []
    return names[rng.integers(len(names))] if names else full_name(shape)


def with_article(words: str) -> str:
    """Return ``words`` after "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def does(motion: str) -> str:
    """Return the words for a motion in a question: "move left", "stay still", "bounce"."""
    if motion in DIRECTIONS:
        return f"move {motion}"
    return "stay still" if motion == "still" else "bounce"


def does_event(kind: str) -> str:
    """Return the words for an event in a question: "appear", "disappear", "change color"."""
    return _BARE[kind]


def happens(kind: str) -> str:
    """Return the words for an event in an answer: "appears", "disappears", "changes color"."""
    return _THIRD[kind]


def life_events(scene: Scene) -> list[Event]:
    """Return appearances, disappearances and color changes, in order, without passing and colliding."""
    return [event for event in scene.events if event.kind in LIFE_EVENTS]


def lasts(duration: float | None) -> str:
    """Return a sentence about the duration in seconds, for questions about seconds."""
    return f"The video lasts {duration:g} seconds."


def listed(words: Sequence[str]) -> str:
    """Return ``a, b or c``."""
    return f"{', '.join(words[:-1])} or {words[-1]}"
