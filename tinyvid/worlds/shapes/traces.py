"""Replies that give their evidence: what happens at the times that decide an answer, with references to frames.

The reply "B" becomes "In <frame:1.125> the red circle appears, in <frame:2.625> the blue square disappears. Answer: B".
A reference is a marker with the time of a frame in seconds of the clip. The Processor replaces it with the name of the
frame that the model sees. Variants without references, and with wrong ones, measure what references are worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from tinyvid.text.moments import marker
from tinyvid.worlds.layout import frame_times
from tinyvid.worlds.shapes.questions import SceneQuestion
from tinyvid.worlds.shapes.scene import Event, Scene
from tinyvid.worlds.shapes.wording import LIFE_EVENTS, full_name, happens

TraceStyle = Literal["text", "cited", "shuffled"]
TRACE_STYLES: tuple[str, ...] = get_args(TraceStyle)
SLACK = 5e-4  # of the clip: larger than the rounding of times in questions and rows
LAST = 15 / 16  # earlier frames do not show the end of a clip
MEETINGS = {"pass": "passes", "collision": "collides with"}  # families about two shapes, with their verbs
SIDES = ("left of", "right of", "above", "below")


def traced(
    question: SceneQuestion,
    scene: Scene,
    rng: np.random.Generator,
    *,
    style: TraceStyle,
    moments: np.ndarray,
    seconds: Sequence[float],
) -> SceneQuestion:
    """Put a trace before a reply, and add ``key_frames`` to ``meta``: the times of its evidence in seconds.

    A question is returned unchanged if no times decide its answer, or if no shown frame is evidence.

    Args:
        question: The question.
        scene: The scene that it is about.
        rng: Draws the frames of ``shuffled``.
        style: ``cited`` refers to the evidence, ``text`` leaves the references out, and ``shuffled`` refers to random
            frames that the model sees.
        moments: Times of the frames that the model sees, from 0 to 1.
        seconds: Times of the same frames in seconds of the clip.
    """
    told: dict[int, list[str]] = {}  # what each frame shows
    for time in sorted(question.meta["times"]):
        for exact, statement in _statements(question, scene, time):
            place = _evidence(moments, exact)
            if place is None:
                return question
            told.setdefault(place, []).append(statement)
    if not told:
        return question
    places = rng.choice(len(moments), len(told)) if style == "shuffled" else list(told)
    clauses = [" and ".join(statements) for statements in told.values()]
    if style != "text":
        cited = [marker("frame", round(seconds[place], 3)) for place in places]
        clauses = [f"in {at} {clause}" for at, clause in zip(cited, clauses, strict=True)]
    trace = ", ".join(clauses)
    reply = f"{trace[0].upper()}{trace[1:]}. Answer: {question.reply}"
    evidence = [round(seconds[place], 3) for place in told]
    return replace(question, reply=reply, meta={**question.meta, "key_frames": evidence})


def key_frames(times: Sequence[float], *, num_frames: int, fps: float, frames: Sequence[int]) -> list[float]:
    """Return the seconds of the shown frames that are evidence for rounded ``times`` from 0 to 1; see ``traced``."""
    moments = frame_times(num_frames)[list(frames)]
    places = dict.fromkeys(_evidence(moments, time - SLACK) for time in sorted(times))
    return [round(frames[place] / fps, 3) for place in places if place is not None]


def _evidence(moments: np.ndarray, time: float) -> int | None:
    """Return the first shown frame from a time on, or the last one for the end of the clip."""
    place = int(np.searchsorted(moments, time))
    if place < len(moments):
        return place
    return place - 1 if time > 1 - 2 * SLACK and moments[-1] >= LAST else None


def _statements(question: SceneQuestion, scene: Scene, time: float) -> Iterator[tuple[float, str]]:
    """Yield what happens to the shapes in question, or is the case, at a rounded time; each with its exact time."""
    about: list[int] = question.meta["shapes"]
    names = [f"the {full_name(shape)}" for shape in scene.shapes]
    if question.family == "position":
        yield time, _place(question, scene, about, time)
        return
    if question.family == "which_frame" and question.format == "yesno":
        state = scene.state(time)[about[0]]
        yield time - SLACK, f"{names[about[0]]} is {'visible' if state.visible else 'not visible'}"
        return
    for event in scene.events:
        if abs(event.time - time) < SLACK and {event.shape, event.other} - {None} <= {*about}:
            verb = MEETINGS.get(question.family)
            if event.other is not None and verb:
                yield event.time, f"{names[event.shape]} {verb} {names[event.other]}"
            elif event.kind in LIFE_EVENTS and not verb:
                yield event.time, f"{names[event.shape]} {_happens(event, scene)}"
    for index in about:
        for before, after in zip(scene.shapes[index].phases, scene.shapes[index].phases[1:], strict=False):
            if abs(after.start - time) < SLACK and question.family not in MEETINGS:
                yield after.start, f"{names[index]} moves {before.motion}, then {after.motion}"


def _happens(event: Event, scene: Scene) -> str:
    return f"changes to {scene.shapes[event.shape].last_color}" if event.kind == "recolor" else happens(event.kind)


def _place(question: SceneQuestion, scene: Scene, about: Sequence[int], time: float) -> str:
    """Return where a shape is at the start or at the end: in which corner, or on which side of another one."""
    states = scene.state(time)
    names = [f"the {full_name(scene.shapes[index])}" for index in about]
    one = states[about[0]]
    if len(about) == 1:
        corner = f"{'top' if one.y < 0.5 else 'bottom'} {'left' if one.x < 0.5 else 'right'}"
        return f"{names[0]} is in the {corner}"
    other = states[about[1]]
    across = any(side in question.text for side in SIDES[:2])
    first = one.x < other.x if across else one.y < other.y
    side = SIDES[(0 if across else 2) + (not first)]
    return f"{names[0]} is {side} {names[1]}"
