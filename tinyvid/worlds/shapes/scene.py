"""A scene: shapes as functions of time, and the camera that films them. It contains no randomness and no pixels.

Time runs from 0 to 1 over the clip, whatever its length in seconds. The stage is the unit square, x to the right and
y downwards. A picture shows the stage in the middle of its largest square; a wider or taller picture shows more
background at the sides, so shapes are never distorted, and shapes that touch in one picture touch in all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tinyvid.worlds.shapes.palette import DIRECTIONS, STEP, EventKind
from tinyvid.worlds.shapes.shape import Shape

CLEAR = 0.06  # of the stage: minimum distance beyond a shape at which another one has passed it


@dataclass(frozen=True, slots=True)
class Background:
    """The background behind the shapes.

    Attributes:
        top: RGB at the upper edge of the picture.
        bottom: RGB at the lower edge; the color in between is interpolated linearly.
        noise: Standard deviation of the noise, in levels of 0-255; the noise is the same in every frame.
        texture: Amplitude of a checkered pattern that is fixed to the stage, in levels of 0-255.
    """

    top: tuple[float, float, float]
    bottom: tuple[float, float, float]
    noise: float = 0.0
    texture: float = 0.0


@dataclass(frozen=True, slots=True)
class Shot:
    """How the camera looks at the stage until the next shot begins.

    Attributes:
        start: Time at which it begins.
        background: The background behind the shapes.
        zoom: Size of the stage in the picture; below 1, the camera has room to pan.
        shift: Point on the stage at which the camera looks when the shot begins, relative to the center.
        pan: Distance that the camera travels over the stage until the shot ends, at constant speed.
    """

    start: float
    background: Background
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    pan: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ShapeState:
    """A shape at one moment.

    Attributes:
        index: Number of the shape in the scene.
        visible: Whether it is present.
        color: Its color at this moment.
        kind: ``circle``, ``square``, ``triangle`` or ``cross``.
        x: Center in the picture, 0 at the left edge and 1 at the right.
        y: Center in the picture, 0 at the upper edge and 1 at the lower.
        radius: Radius, as a fraction of the shorter side of the picture.
    """

    index: int
    visible: bool
    color: str
    kind: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens at one moment.

    Attributes:
        time: Time of the event.
        kind: ``appear``, ``disappear``, ``recolor``, ``pass`` or ``collide``.
        shape: Number of the shape to which it happens, or that moves.
        other: Number of the shape that is passed or hit.
    """

    time: float
    kind: EventKind
    shape: int
    other: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """All shapes at many moments.

    Attributes:
        times: float (T,).
        visible: bool (T, N).
        recolored: bool (T, N), whether a shape has already changed its color.
        center: float (T, N, 2), x and y in the picture, each from 0 to 1.
        radius: float (T, N), as a fraction of the shorter side of the picture.
    """

    times: np.ndarray
    visible: np.ndarray
    recolored: np.ndarray
    center: np.ndarray
    radius: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Everything about a clip except its duration, frame rate and size.

    Attributes:
        shapes: One to four shapes, in drawing order.
        shots: One shot, or two with a cut in between.
        collisions: Events of kind ``collide``.
        seed: Seed of the background noise.
    """

    shapes: tuple[Shape, ...]
    shots: tuple[Shot, ...]
    collisions: tuple[Event, ...] = field(default=())
    seed: int = 0

    def track(self, times: np.ndarray, *, aspect: float = 1.0) -> Tracks:
        """Return all positions at ``times`` (T,), from 0 to 1; ``aspect`` is width / height of the picture."""
        times = np.asarray(times, dtype=np.float64)
        stage = np.stack([shape.at(times) for shape in self.shapes], 1)  # (T, N, 2)
        visible = np.stack([shape.visible(times) for shape in self.shapes], 1)
        changes = np.array([shape.recolor[0] if shape.recolor else 2.0 for shape in self.shapes])
        look, zoom = self.camera(times)
        center = (stage - 0.5 - look[:, None]) * zoom[:, None, None]
        center[..., 0] *= min(1.0, 1.0 / aspect)
        center[..., 1] *= min(1.0, aspect)
        radius = zoom[:, None] * np.array([shape.radius for shape in self.shapes])
        return Tracks(times, visible, times[:, None] >= changes, center + 0.5, radius)

    def camera(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the point at which the camera looks, (T, 2) relative to the center of the stage, and its zoom (T,)."""
        look, zoom = np.zeros((len(times), 2)), np.ones(len(times))
        ends = [shot.start for shot in self.shots[1:]] + [1.0]
        for shot, end in zip(self.shots, ends, strict=True):
            now = times >= shot.start
            share = (times[now] - shot.start) / (end - shot.start)
            look[now] = np.array(shot.shift) + share[:, None] * np.array(shot.pan)
            zoom[now] = shot.zoom
        return look, zoom

    def state(self, time: float, *, aspect: float = 1.0) -> list[ShapeState]:
        """Return every shape at a moment, including hidden ones, in the order of ``shapes``; see ``track``."""
        tracks = self.track(np.array([time]), aspect=aspect)
        return [
            ShapeState(
                index=index,
                visible=bool(tracks.visible[0, index]),
                color=shape.last_color if tracks.recolored[0, index] else shape.color,
                kind=shape.kind,
                x=float(tracks.center[0, index, 0]),
                y=float(tracks.center[0, index, 1]),
                radius=float(tracks.radius[0, index]),
            )
            for index, shape in enumerate(self.shapes)
        ]

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """All events, in order of time."""
        found = list(self.collisions)
        for index, shape in enumerate(self.shapes):
            if shape.appears is not None:
                found.append(Event(shape.appears, "appear", index))
            if shape.disappears is not None:
                found.append(Event(shape.disappears, "disappear", index))
            if shape.recolor is not None:
                found.append(Event(shape.recolor[0], "recolor", index))
            for other in range(len(self.shapes)):
                time = self.passing_time(index, other)
                if time is not None:
                    found.append(Event(time, "pass", index, other))
        return tuple(sorted(found, key=lambda event: (event.time, event.shape)))

    def passing_time(self, mover: int, other: int) -> float | None:
        """Return the time at which ``mover`` is level with ``other``, or ``None`` if it does not clearly pass it."""
        if not self.passing(mover, other):
            return None
        phase, axis = self.shapes[mover].phases[0], _axis(self.shapes[mover].motion)
        level = self.shapes[other].phases[0].origin[axis]
        share = (level - phase.origin[axis]) / (phase.target[axis] - phase.origin[axis])
        return phase.start + share * (phase.end - phase.start)

    def passing(self, mover: int, other: int) -> bool | None:
        """Return whether one shape passes another, or ``None`` if that is unclear.

        A shape that moves in one direction passes a still one if, while both are visible, it moves from clearly one
        side of it to clearly the other side. A still shape passes nothing.
        """
        first, second = self.shapes[mover], self.shapes[other]
        if mover == other or len(first.phases) > 1 or len(second.phases) > 1:
            return None
        if first.motion == "still" and second.motion in DIRECTIONS:
            return False
        if first.motion not in DIRECTIONS or second.motion != "still":
            return None
        window = np.array([max(first.start, second.start), min(first.end, second.end)])
        if window[0] >= window[1]:
            return False
        axis = _axis(first.motion)
        ahead = (second.phases[0].origin[axis] - first.at(window)[:, axis]) * STEP[first.motion][axis]
        if ahead[0] >= CLEAR and ahead[1] <= -CLEAR:
            return True
        return False if ahead[1] >= CLEAR or ahead[0] <= -CLEAR else None


def _axis(motion: str) -> int:
    return 0 if STEP[motion][0] else 1
