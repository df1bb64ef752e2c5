"""What happens in a clip: shots, camera, freeze, brightness and a small picture on top, drawn independently.

Everything that is asked about is drawn first; photos, videos and views are chosen afterwards, whatever was drawn. So a
picture says nothing about the answers. Times run from 0 to 1; an event is between two frames that a model sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MOVES = (*DIRECTIONS, "in", "out", "still")
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up", "in": "out", "out": "in"}
CORNERS = ("top left", "top right", "bottom left", "bottom right")
SPEEDS = ("steady", "faster", "slower")
FADES = ("constant", "darker", "brighter")
SHOTS = {1: 0.56, 2: 0.22, 3: 0.22}  # probability of each number of shots
COURSES = {"single": 0.44, "two": 0.22, "return": 0.14, "freeze": 0.2}  # of the camera, in clips of one shot
FADED = {"constant": 0.5, "darker": 0.25, "brighter": 0.25}
PATCHED = {"none": 0.5, "appears": 0.25, "always": 0.25}
RAMP = 0.75  # with "faster", the speed grows from 1 - RAMP to 1 + RAMP
IN_THE_MIDDLE = 0.15  # fraction of events with several possible halves that are in neither
LEAST_SAMPLED = 8  # frames; fewer cannot show three shots with two frames each


@dataclass(frozen=True, slots=True)
class Patch:
    """A small picture on top of the clip.

    Attributes:
        appears: When it appears; 0 if it is there all the time.
        corner: Where it is, if it appears; an empty string otherwise.
        motion: ``left``, ``right``, ``up``, ``down`` or ``still``.
        size: Side, as a fraction of the shorter side of the frame.
        length: How far it moves, as a fraction of the space that it has.
        place: Where it is across its motion, from 0 to 1.
        along: Where it is along it, if it is still.
    """

    appears: float
    corner: str
    motion: str
    size: float
    length: float
    place: float
    along: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is asked about a clip.

    Attributes:
        num_shots: 1 to 3.
        returns: Whether the third shot shows the first one again.
        cuts: When shots begin, without the first.
        course: ``single``: one move, or none; ``two``: one after the other; ``return``: there and back; ``freeze``: a
            move during which the picture freezes.
        moves: Of the camera: directions, ``in``, ``out`` or ``still``.
        speed: ``steady``, ``faster`` or ``slower``.
        frozen: When a freeze begins and ends.
        fade: ``constant``, ``darker`` or ``brighter``.
        patch: A small picture on top, if any.
        amount: How far the camera moves in each direction, as a fraction of the view.
        zoom: By which factor.
        light: Brightness at its maximum, up to 1.
        dim: Brightness at the dark end of a fade, as a fraction of ``light``.
    """

    num_shots: int
    returns: bool
    cuts: tuple[float, ...]
    course: str
    moves: tuple[str, ...]
    speed: str
    frozen: tuple[float, float] | None
    fade: str
    patch: Patch | None
    amount: float
    zoom: float
    light: float
    dim: float

    def clock(self, times: np.ndarray) -> np.ndarray:
        """Return the time that frames at ``times`` show: a freeze stops it."""
        if self.frozen is None:
            return times
        start, end = self.frozen
        return np.where(times < start, times, np.where(times < end, start, times - (end - start)))


def draw_plan(rng: np.random.Generator, moments: np.ndarray) -> Plan:
    """Draw a plan.

    Args:
        rng: Source of randomness.
        moments: Times of the frames that a model sees, at least eight; events are at frame times of the file between
            them: (i / N) for a frame i of N.
    """
    num_shots = int(_of(rng, SHOTS))
    course = str(_of(rng, COURSES)) if num_shots == 1 else "single"
    moves = _moves(rng, course)
    moving = moves != ("still",)
    uneven = course == "single" and num_shots == 1 and moving and rng.random() < 0.5
    speed = _pick(rng, SPEEDS[1:]) if uneven else "steady"
    gaps = _Gaps(rng, moments)
    frozen = gaps.freeze() if course == "freeze" else None
    long = course in ("two", "return")
    amount = rng.uniform(0.25, 0.45) if long else rng.uniform(0.4, 0.6) if uneven else rng.uniform(0.3, 0.75)
    return Plan(
        num_shots=num_shots,
        returns=num_shots == 3 and bool(rng.random() < 0.5),
        cuts=gaps.cuts(num_shots - 1),
        course=course,
        moves=moves,
        speed=speed,
        frozen=frozen,
        fade=str(_of(rng, FADED)),
        patch=_patch(rng, gaps, frozen),
        amount=float(amount),
        zoom=float(rng.uniform(1.35, 1.6) if long else rng.uniform(1.5, 2.0)),
        light=float(rng.uniform(0.8, 1.0)),
        dim=float(rng.uniform(0.3, 0.5)),
    )


def _moves(rng: np.random.Generator, course: str) -> tuple[str, ...]:
    if course == "single":
        return (_pick(rng, MOVES),)
    first = _pick(rng, MOVES[:6])
    if course != "two":
        return (first,)
    return first, _pick(rng, [move for move in MOVES[:6] if move not in (first, OPPOSITE[first])])


def _patch(rng: np.random.Generator, gaps: _Gaps, frozen: tuple[float, float] | None) -> Patch | None:
    kind = _of(rng, PATCHED)
    if kind == "none":
        return None
    appears = gaps.one(1, 1, before=None if frozen is None else frozen[0]) if kind == "appears" else 0.0
    return Patch(
        appears=appears,
        corner=_pick(rng, CORNERS) if kind == "appears" else "",
        motion="still" if kind == "appears" else _pick(rng, [*DIRECTIONS, "still"]),
        size=float(rng.uniform(0.24, 0.34)),
        length=float(rng.uniform(0.4, 0.62)),
        place=float(rng.uniform(0.1, 0.9)),
        along=float(rng.random()),
    )


class _Gaps:
    """Draws times of events in the gaps between the frames that a model sees: gap g is before frame g."""

    def __init__(self, rng: np.random.Generator, moments: np.ndarray) -> None:
        self.rng = rng
        self.moments = moments
        self.num = len(moments)
        self.least = max(2, self.num // 4)  # frames that the model sees of each shot, and of a freeze

    def cuts(self, count: int) -> tuple[float, ...]:
        """Draw the times of cuts; a model sees at least ``least`` frames of each shot."""
        if count == 0:
            return ()
        if count == 1:
            return (self.one(self.least, self.least),)
        first = int(self.rng.integers(self.least, self.num - 2 * self.least + 1))
        second = int(self.rng.integers(first + self.least, self.num - self.least + 1))
        return self._time(first), self._time(second)

    def freeze(self) -> tuple[float, float]:
        """Draw the start and the end of a freeze: at the end of the clip, or before it if there is room."""
        start = self._gap(2, self.num - self.least)
        first, last = start + self.least + 1, self.num - 2
        if first > last or self.rng.random() < 0.5:
            return self._time(start), 1.0
        return self._time(start), self._time(int(self.rng.integers(first, last + 1)))

    def one(self, after: int, until: int, *, before: float | None = None) -> float:
        """Draw the time of an event with at least ``after`` frames before it and ``until`` frames from it on."""
        last = self.num - until
        if before is not None:
            last = int(np.searchsorted(self.moments, before)) - 1
        return self._time(self._gap(after, last))

    def _gap(self, first: int, last: int) -> int:
        """Draw a gap: its half first, as questions ask for it."""
        halves: dict[str, list[int]] = {}
        for gap in range(first, last + 1):
            halves.setdefault(half(self.moments, gap), []).append(gap)
        sides = sorted(set(halves) - {""})
        if "" in halves and (not sides or self.rng.random() < IN_THE_MIDDLE):
            return _pick(self.rng, halves[""])
        return _pick(self.rng, halves[sides[int(self.rng.integers(len(sides)))]])

    def _time(self, gap: int) -> float:
        """Draw a time in a gap at which a frame of the file begins."""
        step = 2 * self.moments[0]  # frame i begins at i * step and is shown in the middle of its time
        before, after = (round((self.moments[number] - self.moments[0]) / step) for number in (gap - 1, gap))
        return float(self.rng.integers(before + 1, after + 1) * step)


def half(moments: np.ndarray, gap: int) -> str:
    """Return in which half of the clip a gap between two sampled frames is; an empty string if it is in both."""
    if moments[gap] < 0.5:
        return "first half"
    return "second half" if moments[gap - 1] > 0.5 else ""


def half_of(moments: np.ndarray, time: float) -> str:
    """Return in which half of the clip an event is, as seen in the sampled frames; an empty string if unclear."""
    return half(moments, int(np.searchsorted(moments, time)))


def _pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def _of(rng: np.random.Generator, chances: Mapping[Any, float]) -> Any:
    names = list(chances)
    return names[int(np.searchsorted(np.cumsum(list(chances.values())), rng.random(), side="right"))]
