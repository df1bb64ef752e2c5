"""Descriptions of a whole clip: every shape with its path, and the events in order."""

from __future__ import annotations

from itertools import pairwise

from tinyvid.worlds.shapes.facts import Asked, Look
from tinyvid.worlds.shapes.palette import DIRECTIONS
from tinyvid.worlds.shapes.scene import Scene
from tinyvid.worlds.shapes.shape import Shape
from tinyvid.worlds.shapes.wording import full_name, happens, life_events, with_article

ASIDE = 0.04  # of the picture: minimum distance at which left and right are clear for shapes that appear together


def caption(look: Look) -> list[Asked]:
    """Ask for a description, if the order of the shapes is clear."""
    order = in_order(look.scene)
    if order is None:
        return []
    reply = "; ".join(described(look.scene.shapes[index]) for index in order) + "."
    return [Asked("Describe the video.", reply, (), (), tuple(order))]


def event_list(look: Look) -> list[Asked]:
    """Ask for the events in order."""
    events = life_events(look.scene)
    phrases = [f"the {full_name(look.scene.shapes[found.shape])} {happens(found.kind)}" for found in events]
    reply = ", then ".join(phrases) if phrases else "nothing"
    shapes, times = tuple(found.shape for found in events), tuple(found.time for found in events)
    return [Asked("List the events in order.", f"{reply}.", (), (), shapes, times)]


def in_order(scene: Scene) -> list[int] | None:
    """Return the shapes in order of appearance, then from left to right, or ``None`` if the order is unclear."""
    entered = {}
    for index, shape in enumerate(scene.shapes):
        entered[index] = (shape.start, next(s.x for s in scene.state(shape.start) if s.index == index))
    order = sorted(entered, key=lambda index: entered[index])
    for one, two in pairwise(order):
        if entered[one][0] == entered[two][0] and entered[two][1] - entered[one][1] < ASIDE:
            return None
    return order


def described(shape: Shape) -> str:
    """Return a clause about a shape: its name, and how it appears, moves, changes and disappears."""
    verbs = ["appears"] if shape.appears is not None else []
    verbs.append(_moves(shape))
    verbs += [f"changes to {shape.recolor[1]}"] if shape.recolor else []
    verbs += ["disappears"] if shape.disappears is not None else []
    return f"{with_article(full_name(shape))} {' and '.join(verbs)}"


def _moves(shape: Shape) -> str:
    if shape.motion in DIRECTIONS:
        return f"moves {shape.motion}" + (f", then {shape.second_motion}" if shape.second_motion else "")
    return "stays still" if shape.motion == "still" else "bounces"
