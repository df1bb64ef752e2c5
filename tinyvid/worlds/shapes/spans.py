"""Questions about spans of time: from when to when something is the case, and what happens in a clip with its times.

Replies contain times as markers in seconds of the clip, such as ``<time:1.2>``. The Processor replaces them with the
words that the template has for a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations
from typing import NamedTuple

import numpy as np

from tinyvid.text.moments import marker
from tinyvid.worlds.shapes.captions import in_order
from tinyvid.worlds.shapes.facts import Asked, Look
from tinyvid.worlds.shapes.palette import DIRECTIONS
from tinyvid.worlds.shapes.scene import Scene
from tinyvid.worlds.shapes.shape import Shape
from tinyvid.worlds.shapes.wording import does, full_name, kind_is_unique, lasts

LEAST_GAPS = 2  # minimum length of a span in question, in gaps between the frames that a model sees


class Span(NamedTuple):
    """Something that is the case from one time to another, from 0 to 1, and not before or after.

    Attributes:
        start: When it begins.
        end: When it ends.
        what: A question without its first word: ``is the red circle visible``.
        shapes: Numbers of the shapes that it is about.
    """

    start: float
    end: float
    what: str
    shapes: tuple[int, ...]

    @property
    def bounds(self) -> tuple[float, ...]:
        """Its start and end, without those of the clip."""
        return tuple(time for time in (self.start, self.end) if 0 < time < 1)


def grounding(look: Look) -> list[Asked]:
    """Ask from when to when something is the case, if that is long enough and not the whole clip."""
    asked = []
    least = LEAST_GAPS * (np.diff(look.moments).max() if len(look.moments) > 1 else 1.0)
    for span in _spans(look) if look.duration else ():
        if not span.bounds or span.end - span.start < least:
            continue
        reply = f"From {_marker(look, span.start)} to {_marker(look, span.end)}."
        place = "inside" if len(span.bounds) == 2 else "start" if span.start == 0 else "end"
        text = f"{lasts(look.duration)} When {span.what}?"
        asked.append(Asked(text, reply, (), (), span.shapes, span.bounds, balanced=place))
    return asked


def dense_caption(look: Look) -> list[Asked]:
    """Ask for every motion and every new color with its times, if the order of the shapes is clear."""
    order = in_order(look.scene)
    if order is None or not look.duration:
        return []
    told = [
        (start, end, f"The {full_name(look.scene.shapes[index])} {what}.")
        for index in order
        for start, end, what in _story(look.scene.shapes[index])
    ]
    told.sort(key=lambda event: event[0])  # stable: shapes with the same start stay in order
    lines = [f"{_marker(look, start)} to {_marker(look, end)} {sentence}" for start, end, sentence in told]
    times = sorted({time for start, end, _ in told for time in (start, end) if 0 < time < 1})
    text = f"{lasts(look.duration)} Describe every event with its time."
    return [Asked(text, "\n".join(lines), (), (), tuple(order), tuple(times))]


def _spans(look: Look) -> Iterator[Span]:
    shapes = look.scene.shapes
    for index, shape in enumerate(shapes):
        yield from _of_shape(look, index, shape)
    come_or_go = [index for index, shape in enumerate(shapes) if shape.end - shape.start < 1]
    for one, two in permutations(come_or_go, 2):
        yield from _of_pair(look, one, two)
    yield from _of_counts(look.scene)


def _of_shape(look: Look, index: int, shape: Shape) -> Iterator[Span]:
    start, end, about = shape.start, shape.end, (index,)
    appears = shape.appears is not None and look.rng.random() < 0.5
    yield Span(start, end, f"does {look.the(index)} appear" if appears else f"is {look.the(index)} visible", about)
    if start > 0:
        yield Span(0.0, start, f"is {look.the(index)} not visible", about)
    if end < 1:
        yield Span(end, 1.0, f"is {look.the(index)} not visible", about)
    for phase in shape.phases:
        yield Span(phase.start, phase.end, f"does {look.the(index)} {does(phase.motion)}", about)
    if shape.recolor and kind_is_unique(look.scene, index):
        time, late = shape.recolor
        yield Span(start, time, f"is the {shape.kind} {shape.color}", about)
        yield Span(time, end, f"is the {shape.kind} {late}", about)


def _of_pair(look: Look, one: int, two: int) -> Iterator[Span]:
    """Yield when both shapes are visible, and when only the first one is, if that is one span."""
    first, second = look.scene.shapes[one], look.scene.shapes[two]
    if one < two:
        what = f"are both {look.the(one)} and {look.the(two)} visible"
        yield Span(max(first.start, second.start), min(first.end, second.end), what, (one, two))
    before, after = (first.start, min(first.end, second.start)), (max(first.start, second.end), first.end)
    alone = [(start, end) for start, end in (before, after) if start < end]
    if len(alone) == 1:
        yield Span(*alone[0], f"is {look.the(one)} visible but not {look.the(two)}", (one, two))


def _of_counts(scene: Scene) -> Iterator[Span]:
    """Yield the numbers of shapes that are visible at a time, if that is one span of the clip."""
    changes = sorted({0.0, 1.0, *(time for shape in scene.shapes for time in (shape.start, shape.end))})
    middles = np.array([(start + end) / 2 for start, end in pairwise(changes)])
    counts = scene.track(middles).visible.sum(1).tolist() if len(middles) else []
    for (start, end), number in zip(pairwise(changes), counts, strict=True):
        if number and counts.count(number) == 1:
            objects = "is exactly 1 object" if number == 1 else f"are exactly {number} objects"
            bounds = {start, end} - {0.0, 1.0}
            about = [index for index, shape in enumerate(scene.shapes) if bounds & {shape.start, shape.end}]
            yield Span(start, end, f"{objects} visible", tuple(about))


def _story(shape: Shape) -> Iterator[tuple[float, float, str]]:
    """Yield start, end and verb of everything that a shape does."""
    for phase in shape.phases:
        moves = {"still": "stays still", "bounce": "bounces"}
        yield phase.start, phase.end, f"moves {phase.motion}" if phase.motion in DIRECTIONS else moves[phase.motion]
    if shape.recolor:
        yield shape.recolor[0], shape.end, f"is {shape.recolor[1]}"


def _marker(look: Look, time: float) -> str:
    return marker("time", round(time * (look.duration or 0.0), 2))
