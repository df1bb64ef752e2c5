"""Random scenes: how many shapes, what happens to them, and a stage on which all of that fits.

What a scene must contain is drawn first, the number of shapes before anything can be rejected, so that crowded scenes
are as common as they are meant to be. Paths are then drawn until they fit; the number of tries is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tinyvid.errors import ConfigError, DataError, suggest
from tinyvid.worlds.shapes.palette import COLORS, KINDS, MAX_SHAPES, MOTIONS, RGB, Pair
from tinyvid.worlds.shapes.paths import Draft, draw_collision, draw_pass, draw_path, too_close
from tinyvid.worlds.shapes.scene import Background, Event, Scene, Shot
from tinyvid.worlds.shapes.shape import Shape

NUM_SHAPES = (0.2, 0.3, 0.3, 0.2)  # shares of scenes with one to four shapes
NUM_EVENTS = {1: (0.4, 0.6), 2: (0.15, 0.2, 0.65), 3: (0.15, 0.15, 0.55, 0.15), 4: (0.15, 0.15, 0.55, 0.15)}
EVENT_KINDS = ("appear", "disappear", "recolor")
EVENT_SHARES = (0.42, 0.42, 0.16)  # shapes that act together only change color, which makes up for the last share
EVENT_TIMES = (0.22, 0.78)
EVENT_GAP = 0.2  # any two events are this far apart: three of sixteen frames
PASS_SHARE, COLLIDE_SHARE = 0.3, 0.15  # of the scenes with several shapes
RESTARTS = 1000  # scenes that may be begun: of crowded ones, one in thousands takes more than 60
MAX_EVENTS, MAX_BOUNCES = 3, 6
TRIES = 12  # paths that a shape may try before the scene begins anew
TEXTURE_SHARE = 0.25  # of the scenes with a still camera; a traveling one needs a texture to be seen traveling
TEXTURE = (6.0, 14.0)  # levels
ZOOM = (0.76, 0.9)  # of the stage in pictures that do not show it from edge to edge


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a scene must have, checked."""

    count: int
    num_events: int
    bounces: tuple[int, int]
    motion: str | None
    setup: str | None


def sample_scene(
    rng: np.random.Generator,
    *,
    num_shapes: int | None = None,
    min_events: int = 0,
    exclude: Sequence[Pair] = (),
    require: Sequence[Pair] = (),
    colors: Sequence[str] = COLORS,
    require_motion: str | None = None,
    bounces: tuple[int, int] = (2, 4),
    cut: bool = False,
    pan: bool = False,
) -> Scene:
    """Draw a scene in which nothing overlaps and no two events come close.

    Args:
        rng: Source of randomness.
        num_shapes: 1 to 4; ``None`` draws it.
        min_events: Minimum number of shapes that appear, disappear or change color; each shape does so at most once.
        exclude: Pairs of color and kind that no shape may have, not even after a color change.
        require: Pairs of initial color and kind; each scene contains at least one of them.
        colors: Colors to draw from.
        require_motion: A motion that one shape must have throughout.
        bounces: Minimum and maximum number of bounces; a shape that is visible for part of the clip bounces less.
        cut: Show the scene in two shots with different backgrounds and views.
        pan: Pan the camera.

    Raises:
        ConfigError: An argument is invalid, or the arguments contradict each other.
        DataError: No scene was found; use fewer shapes or events.
    """
    _check(num_shapes, min_events, exclude, require, colors, require_motion, bounces)
    wish = _draw_wish(rng, num_shapes, min_events, bounces, require_motion)
    for _ in range(RESTARTS):
        drafts = _draw_drafts(rng, wish, exclude=exclude, require=require, colors=colors)
        collision = _place(rng, drafts, wish) if drafts else None
        if drafts is None or collision is None:
            continue
        shapes = tuple(draft.shape for draft in drafts)
        return Scene(
            shapes=shapes,
            shots=_draw_shots(rng, cut=cut, pan=pan),
            collisions=collision,
            seed=int(rng.integers(1 << 31)),
        )
    raise DataError(
        f"no scene with {wish.count} shapes and {wish.num_events} events was found in {RESTARTS} tries; "
        "use fewer shapes, events or bounces"
    )


def _check(
    num_shapes: int | None,
    min_events: int,
    exclude: Sequence[Pair],
    require: Sequence[Pair],
    colors: Sequence[str],
    require_motion: str | None,
    bounces: tuple[int, int],
) -> None:
    most = MAX_SHAPES if num_shapes is None else num_shapes
    if not 1 <= most <= MAX_SHAPES:
        raise ConfigError(f"num_shapes={num_shapes} must be between 1 and {MAX_SHAPES}")
    if not 0 <= min_events <= min(most, MAX_EVENTS):
        raise ConfigError(
            f"min_events={min_events} is impossible with {most} shapes: each shape has at most one event and each clip "
            f"at most {MAX_EVENTS}; use 0 to {min(most, MAX_EVENTS)}"
        )
    if require_motion is not None and require_motion not in MOTIONS:
        raise ConfigError(f"require_motion={require_motion!r} is unknown. {suggest(require_motion, MOTIONS)}")
    if not 1 <= bounces[0] <= bounces[1] <= MAX_BOUNCES:
        raise ConfigError(f"bounces={list(bounces)} must be a range within 1 to {MAX_BOUNCES}, such as [2, 4]")
    _check_pairs(most, exclude, require, colors)


def _check_pairs(most: int, exclude: Sequence[Pair], require: Sequence[Pair], colors: Sequence[str]) -> None:
    for name in colors:
        if name not in RGB:
            raise ConfigError(f"colors: {name!r} is unknown. {suggest(str(name), RGB)}")
    for color, kind in (*exclude, *require):
        if color not in RGB or kind not in KINDS:
            raise ConfigError(
                f"pair ({color!r}, {kind!r}) is unknown; colors are {', '.join(RGB)}, shapes are {', '.join(KINDS)}"
            )
    free = {(color, kind) for color in colors for kind in KINDS} - set(exclude)
    if len(free) < 2 * most:
        raise ConfigError(
            f"{len(free)} pairs of color and shape are too few for {most} shapes that may change color; "
            f"allow more colors or exclude fewer pairs, so that at least {2 * most} remain"
        )
    if require and not set(require) & free:
        raise ConfigError(
            f"require={list(require)}: colors and exclude leave none of these pairs; allow at least one of them"
        )


def _draw_wish(
    rng: np.random.Generator, num_shapes: int | None, min_events: int, bounces: tuple[int, int], motion: str | None
) -> _Wish:
    count = num_shapes
    while count is None or count < min_events:
        count = 1 + _draw(rng, NUM_SHAPES)
    num_events = max(min_events, _draw(rng, NUM_EVENTS[count]))
    lot = rng.random()
    setup = None
    if count > 1 and motion is None:
        setup = "pass" if lot < PASS_SHARE else "collide" if lot < PASS_SHARE + COLLIDE_SHARE else None
    return _Wish(count, num_events, bounces, motion, setup)


def _draw(rng: np.random.Generator, shares: Sequence[float]) -> int:
    """Return an index, drawn with the probabilities ``shares``."""
    lot = rng.random()
    for index, share in enumerate(shares):
        lot -= share
        if lot < 0:
            return index
    return len(shares) - 1


def _draw_drafts(
    rng: np.random.Generator, wish: _Wish, *, exclude: Sequence[Pair], require: Sequence[Pair], colors: Sequence[str]
) -> list[Draft] | None:
    """Draw what the shapes look like and what happens to them, without paths; ``None`` if that went wrong."""
    free = [(color, kind) for color in colors for kind in KINDS if (color, kind) not in exclude]
    pairs: list[Pair] = []
    if require:
        wanted = [pair for pair in require if pair in free]
        pairs.append(wanted[rng.integers(len(wanted))])
    while len(pairs) < wish.count:
        pair = free[rng.integers(len(free))]
        if pair not in pairs:
            pairs.append(pair)
    order = rng.permutation(wish.count)
    times = _event_times(rng, wish.num_events)
    if times is None:
        return None
    busy = rng.permutation(wish.count)[: wish.num_events].tolist()
    largest = 0.16 if wish.count < 4 else 0.135
    drafts = []
    taken = set(pairs)
    for index in range(wish.count):
        color, kind = pairs[order[index]]
        shade = (*rng.uniform(-14, 14, 3).tolist(), float(rng.uniform(0.85, 1.0)))
        shape = Shape(color, kind, float(rng.uniform(0.11, largest)), (), shade=shade)
        if index in busy:
            in_setup = wish.setup is not None and index < 2  # the first two act together, and stay
            event = "recolor" if in_setup else EVENT_KINDS[_draw(rng, EVENT_SHARES)]
            changed = _with_event(rng, shape, event, times[busy.index(index)], free, taken)
            if changed is None:
                return None
            shape = changed
        drafts.append(Draft(shape))
    return drafts


def _with_event(
    rng: np.random.Generator, shape: Shape, event: str, time: float, free: Sequence[Pair], taken: set[Pair]
) -> Shape | None:
    """Return the shape with an event; ``None`` if there is no color left to change into."""
    if event == "appear":
        return replace(shape, appears=time)
    if event == "disappear":
        return replace(shape, disappears=time)
    choices = [pair for pair in free if pair[1] == shape.kind and pair not in taken]
    if not choices:
        return None
    pair = choices[rng.integers(len(choices))]
    taken.add(pair)
    return replace(shape, recolor=(time, pair[0]))


def _event_times(rng: np.random.Generator, count: int) -> list[float] | None:
    """Return moments in random order, ``EVENT_GAP`` apart."""
    for _ in range(200):
        times = rng.uniform(*EVENT_TIMES, count)
        if count < 2 or np.diff(np.sort(times)).min() >= EVENT_GAP:
            return times.tolist()
    return None


def _place(rng: np.random.Generator, drafts: list[Draft], wish: _Wish) -> tuple[Event, ...] | None:
    """Give every draft a path; return the collisions, or ``None`` if they do not fit together."""
    collisions: tuple[Event, ...] = ()
    first = 0
    if wish.setup == "pass":
        if not draw_pass(rng, drafts[0], drafts[1]):
            return None
        first = 2
    elif wish.setup == "collide":
        time = draw_collision(rng, drafts[0], drafts[1])
        if time is None:
            return None
        collisions = (Event(time, "collide", 0, 1),)
        first = 2
    for index in range(first, wish.count):
        motion = wish.motion if index == 0 else None
        for _ in range(TRIES):
            if not draw_path(rng, drafts[index], bounces=wish.bounces, motion=motion):
                continue
            if not any(too_close(drafts[index], other) for other in drafts[:index]):
                break
        else:
            return None
    return collisions


def _draw_shots(rng: np.random.Generator, *, cut: bool = False, pan: bool = False) -> tuple[Shot, ...]:
    """Draw how the camera sees a scene, with another view and background after a cut, or traveling in every shot."""
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
