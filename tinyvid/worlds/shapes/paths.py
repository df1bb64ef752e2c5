"""Random paths: one motion, two in sequence, one shape that passes another, two that collide."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tinyvid.worlds.shapes.palette import DIRECTIONS, MOTIONS, OPPOSITE, STEP, Motion
from tinyvid.worlds.shapes.rendering import EXTENT
from tinyvid.worlds.shapes.shape import Phase, Shape

CHECKED = np.linspace(0, 1, 33)  # moments at which shapes must not touch
APART = 1.02  # minimum distance of two centers, relative to the sum of their radii
APART_TURNING = 1.25  # the same of a shape that turns back, which would seem to have hit what is next to it
EDGE = 0.01  # of the stage: what stays free around a shape
MOTION_SHARES = (0.17, 0.17, 0.17, 0.17, 0.08, 0.24)  # of MOTIONS; shapes that are passed or hit stay still as well
TWO_PHASE_SHARE = 0.4  # of the shapes that move in a direction and take part in no event
TURN_BACK_SHARE = 0.15  # of those; shapes that collide turn back as well
_UP_TO = np.cumsum(MOTION_SHARES)[:-1]
Point = tuple[float, float]


@dataclass
class Draft:
    """A shape whose path may still change."""

    shape: Shape

    def __post_init__(self) -> None:
        self.set_phases(())

    def set_phases(self, phases: tuple[Phase, ...]) -> None:
        """Set the path, and compute its positions at the checked moments."""
        self.shape = replace(self.shape, phases=phases)
        if phases:
            self.places = self.shape.at(CHECKED)
            margin = CHECKED[1]  # the moments before it enters and after it leaves stand for what lies between
            self.shown = (self.shape.start - margin < CHECKED) & (self.shape.end + margin > CHECKED)
            self.apart = APART_TURNING if self.shape.second_motion == OPPOSITE.get(phases[0].motion, "") else APART


def too_close(one: Draft, other: Draft) -> bool:
    """Return whether two shapes touch, or nearly touch, while both are visible."""
    both = one.shown & other.shown
    gap = one.places - other.places
    least = max(one.apart, other.apart) * (one.shape.radius + other.shape.radius)
    return bool(((gap * gap).sum(1)[both] < least * least).any())


def draw_path(
    rng: np.random.Generator, draft: Draft, *, bounces: tuple[int, int] = (2, 4), motion: str | None = None
) -> bool:
    """Draw a path within the stage, and return whether it fits. ``motion`` sets the motion."""
    shape = draft.shape
    chosen: Motion = motion or MOTIONS[np.searchsorted(_UP_TO, rng.random())]  # type: ignore[assignment]
    life = shape.end - shape.start
    if chosen == "bounce":
        return _draw_bounce(rng, draft, bounces)
    free = shape.appears is None and shape.disappears is None and shape.recolor is None
    if chosen in DIRECTIONS and motion is None and free and rng.random() < TWO_PHASE_SHARE:
        across = [direction for direction in DIRECTIONS if direction not in (chosen, OPPOSITE[chosen])]
        second = OPPOSITE[chosen] if rng.random() < TURN_BACK_SHARE else across[rng.integers(2)]
        return _draw_two_phases(rng, draft, chosen, second)
    travel = (0.0, 0.0)
    if chosen in DIRECTIONS:
        length = rng.uniform(0.25, 0.4) if life < 0.45 else rng.uniform(0.35, 0.65)
        travel = (STEP[chosen][0] * length, STEP[chosen][1] * length)
    origin = _room(rng, shape.radius, travel)
    if origin is None:
        return False
    target = (origin[0] + travel[0], origin[1] + travel[1])
    draft.set_phases((Phase(chosen, shape.start, shape.end, origin, target),))
    return True


def _draw_bounce(rng: np.random.Generator, draft: Draft, bounces: tuple[int, int]) -> bool:
    """Draw a bouncing path. Sixteen frames can show four bounces in a whole clip, and fewer in a part of it."""
    shape = draft.shape
    life = shape.end - shape.start
    most = min(bounces[1], max(int(4.5 * life), 1)) if life < 1 else bounces[1]
    if most < bounces[0]:
        return False
    height = float(rng.uniform(0.22, 0.38))
    ground = _room(rng, shape.radius, (0.0, -height))
    if ground is None:
        return False
    count = int(rng.integers(bounces[0], most + 1))
    draft.set_phases((Phase("bounce", shape.start, shape.end, ground, ground, count, height),))
    return True


def _draw_two_phases(rng: np.random.Generator, draft: Draft, first: Motion, second: Motion) -> bool:
    turn = float(rng.uniform(0.42, 0.58))
    one, two = rng.uniform(0.28, 0.45, 2).tolist()
    there = (STEP[first][0] * one, STEP[first][1] * one)
    back = (STEP[second][0] * two, STEP[second][1] * two)
    both = (there[0] + back[0], there[1] + back[1])
    origin = _room(rng, draft.shape.radius, there, both)
    if origin is None:
        return False
    corner, target = _moved(origin, there), _moved(origin, both)
    draft.set_phases((Phase(first, 0.0, turn, origin, corner), Phase(second, turn, 1.0, corner, target)))
    return True


def draw_pass(rng: np.random.Generator, mover: Draft, still: Draft) -> bool:
    """Let one shape pass a still one at a distance, and return whether it fits."""
    direction = DIRECTIONS[rng.integers(4)]
    axis = 0 if STEP[direction][0] else 1
    gap = 1.05 * (mover.shape.radius + still.shape.radius)
    for _ in range(8):
        if not draw_path(rng, mover, motion=direction) or not draw_path(rng, still, motion="still"):
            continue
        phase, place = mover.shape.phases[0], still.shape.phases[0].origin
        low, high = sorted((phase.origin[axis], phase.target[axis]))
        level = low + 0.1 <= place[axis] <= high - 0.1
        if level and abs(place[1 - axis] - phase.origin[1 - axis]) >= gap:
            return True
    return False


def draw_collision(rng: np.random.Generator, first: Draft, second: Draft) -> float | None:
    """Let two shapes meet and turn back, or one turn back from a still one; return the time of contact.

    Returns:
        The time from 0 to 1, or ``None`` if the paths do not fit.
    """
    direction = DIRECTIONS[rng.integers(4)]
    time = float(rng.uniform(0.38, 0.62))
    reach = 0.97 * (_reach(first.shape.kind, direction) * first.shape.radius
                    + _reach(second.shape.kind, OPPOSITE[direction]) * second.shape.radius)  # fmt: skip
    both_move = rng.random() < 0.5
    lengths = rng.uniform(0.2, 0.3, 4) if both_move else rng.uniform(0.28, 0.4, 4)
    step = STEP[direction]
    # Offsets from the position of the first shape at contact.
    contact = (step[0] * reach, step[1] * reach)
    ends_first = [(-step[0] * length, -step[1] * length) for length in lengths[:2]]
    ends_second = [_moved(contact, (step[0] * length, step[1] * length)) for length in lengths[2:]]
    radius = max(first.shape.radius, second.shape.radius)
    touch = _room(rng, radius, contact, *ends_first, *(ends_second if both_move else ()))
    if touch is None:
        return None
    first.set_phases(_there_and_back(direction, time, touch, *ends_first))
    place = _moved(touch, contact)
    if both_move:
        away = [_moved(touch, end) for end in ends_second]
        second.set_phases(
            (
                Phase(OPPOSITE[direction], 0.0, time, away[0], place),
                Phase(direction, time, 1.0, place, away[1]),
            )
        )
    else:
        second.set_phases((Phase("still", 0.0, 1.0, place, place),))
    return time


def _there_and_back(direction: Motion, time: float, touch: Point, before: Point, after: Point) -> tuple[Phase, ...]:
    return (
        Phase(direction, 0.0, time, _moved(touch, before), touch),
        Phase(OPPOSITE[direction], time, 1.0, touch, _moved(touch, after)),
    )


def _reach(kind: str, direction: str) -> float:
    """Return the extent of a shape from its center in a direction, in radii."""
    side = {"left": 0, "up": 1, "right": 2, "down": 3}[direction]
    return abs(EXTENT[kind][side])


def _room(rng: np.random.Generator, radius: float, *offsets: Point) -> Point | None:
    """Draw a center at which the shape is within the stage, also at every offset."""
    place = []
    for axis in (0, 1):
        ways = [0.0] + [offset[axis] for offset in offsets]
        low, high = radius + EDGE - min(ways), 1 - radius - EDGE - max(ways)
        if low > high:
            return None
        place.append(float(rng.uniform(low, high)))
    return place[0], place[1]


def _moved(place: Point, offset: Point) -> Point:
    return place[0] + float(offset[0]), place[1] + float(offset[1])
