"""Questions about events and their times: event, change, order between shapes, seconds, frames."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from tinyvid.worlds.shapes.facts import Asked, Claim, Look, claims_of, without
from tinyvid.worlds.shapes.scene import Event
from tinyvid.worlds.shapes.wording import LIFE_EVENTS, does_event, happens, kind_is_unique, lasts, life_events, listed

NOTHING = "nothing"
EARLY_LATE = 0.1  # of the clip: minimum distance from a limit at which a moment is clearly before or after it
CLEAR_FRAMES = 0.1  # of the frame distance: minimum distance of an event from the time of a frame
LONGEST_COUNT = 12.0  # seconds: in longer clips, frames are more than a second apart


def event(look: Look) -> list[Asked]:
    """Ask what happens to a shape."""
    answers = [happens(kind) for kind in LIFE_EVENTS] + [NOTHING]
    near = [happens(found.kind) for found in life_events(look.scene)]
    asked = []
    for index in range(len(look.scene.shapes)):
        found = _event_of(look, index)
        answer = happens(found.kind) if found else NOTHING
        times = (found.time,) if found else ()
        text = f"What happens to {look.the(index)}?"
        asked.append(Asked(text, answer, without(answer, answers), without(answer, near), (index,), times))
    return asked


def event_claims(look: Look) -> list[Claim]:
    """Claim that something happens to a shape."""
    claims = []
    for index in range(len(look.scene.shapes)):
        found = _event_of(look, index)
        for kind in LIFE_EVENTS:
            truth = found is not None and found.kind == kind
            times = (found.time,) if found else ()
            text = f"Does {look.the(index)} {does_event(kind)} during the video?"
            claims.append(Claim(text, truth, kind, (index,), times))
    return claims


def change(look: Look) -> list[Asked]:
    """Ask for the color of a shape that changes it: the new color, at the start, at the end."""
    asked = []
    for index, shape in enumerate(look.scene.shapes):
        if shape.recolor is None:
            continue
        time, late = shape.recolor
        wordings = [(f"What color does {look.the(index)} change to?", late, shape.color)]
        if kind_is_unique(look.scene, index):
            wordings.append((f"What color is the {shape.kind} at the start?", shape.color, late))
            wordings.append((f"What color is the {shape.kind} at the end?", late, shape.color))
        for text, answer, other in wordings:
            wrong, near = without(answer, look.palette), without(answer, (other, *look.colors))
            if text.startswith("What color does"):  # its name contains the first color
                wrong, near = without(other, wrong), without(other, near)
            asked.append(Asked(text, answer, wrong, near, (index,), (time,)))
    return asked


def change_claims(look: Look) -> list[Claim]:
    """Claim that a shape changes to its new color, or to another one."""
    asked = [item for item in change(look) if item.text.startswith("What color does")]
    claims = claims_of(look, asked, lambda item, word: f"Does {look.the(item.shapes[0])} change to {word}?")
    for index, shape in enumerate(look.scene.shapes):
        if shape.recolor is None:
            pool = without(shape.color, look.palette)
            word = pool[look.rng.integers(len(pool))]
            claims.append(Claim(f"Does {look.the(index)} change to {word}?", False, word, (index,)))
    return claims


def order_between(look: Look) -> list[Asked]:
    """Ask which of two or three events happens first, or last."""
    events = life_events(look.scene)
    asked = []
    for chosen in _groups(events):
        for which, right in (("first", chosen[0]), ("last", chosen[-1])):
            phrases = [_phrase(look, found) for found in chosen]
            answer = phrases[chosen.index(right)]
            mixed = [phrases[place] for place in look.rng.permutation(len(phrases))]
            shapes, times = tuple(found.shape for found in chosen), tuple(found.time for found in chosen)
            text, above = f"Which happens {which}: {listed(mixed)}?", f"Which happens {which}?"
            asked.append(Asked(text, answer, without(answer, phrases), (), shapes, times, above))
    return asked


def order_between_claims(look: Look) -> list[Claim]:
    """Claim that one event comes before or after another."""
    claims = []
    events = life_events(look.scene)
    for one in events:
        for two in events:
            if one is two:
                continue
            before = bool(look.rng.random() < 0.5)
            text = f"Does {look.the(one.shape)} {does_event(one.kind)} {'before' if before else 'after'} "
            truth = (one.time < two.time) == before
            claims.append(
                Claim(f"{text}{_phrase(look, two)}?", truth, "", (one.shape, two.shape), (one.time, two.time))
            )
    return claims


def when(look: Look) -> list[Asked]:
    """Ask when something happens, with options in seconds."""
    asked = []
    for found in life_events(look.scene) if look.duration else []:
        text = f"{lasts(look.duration)} When does {look.the(found.shape)} {does_event(found.kind)}?"
        answer, *wrong = _moments(look, found.time)
        asked.append(Asked(text, answer, tuple(wrong), (), (found.shape,), (found.time,)))
    return asked


def when_open(look: Look) -> list[Asked]:
    """Ask after how many whole seconds something happens, in short clips, if it is clear."""
    asked = []
    for found in life_events(look.scene) if look.duration and look.duration <= LONGEST_COUNT else []:
        seconds = found.time * (look.duration or 0.0)
        if 0.2 <= seconds % 1 <= 0.8:
            what = f"{look.the(found.shape)} {does_event(found.kind)}"
            text = f"{lasts(look.duration)} After how many whole seconds does {what}?"
            asked.append(Asked(text, str(int(seconds)), (), (), (found.shape,), (found.time,)))
    return asked


def when_claims(look: Look) -> list[Claim]:
    """Claim that something happens within the first seconds, about half of the clip."""
    claims = []
    for found in life_events(look.scene) if look.duration else []:
        limit = _seconds(look, look.rng.uniform(0.42, 0.58))
        share = float(limit) / (look.duration or 1.0)
        if abs(found.time - share) >= EARLY_LATE:
            what = f"{look.the(found.shape)} {does_event(found.kind)}"
            text = f"{lasts(look.duration)} Does {what} in the first {limit} seconds?"
            claims.append(Claim(text, found.time < share, "", (found.shape,), (found.time,)))
    return claims


def which_frame(look: Look) -> list[Asked]:
    """Ask for the first frame that shows an event, unless the event is close to the time of a frame."""
    asked = []
    total = len(look.moments)
    for found in life_events(look.scene):
        number = int(np.searchsorted(look.moments, found.time)) + 1
        if number > total or np.abs(look.moments - found.time).min() * total < CLEAR_FRAMES:
            continue
        wrong = tuple(str(n) for n in range(1, total + 1) if abs(n - number) >= max(2, total // 5))
        what = f"{look.the(found.shape)} {does_event(found.kind)}"
        text = f"In which of the {total} frames does {what}?"
        asked.append(Asked(text, str(number), wrong, (), (found.shape,), (found.time,)))
    return [item for item in asked if item.wrong]


def which_frame_claims(look: Look) -> list[Claim]:
    """Claim that a shape is visible in a frame, for shapes that appear or disappear."""
    claims = []
    total = len(look.moments)
    for found in life_events(look.scene):
        clear = np.flatnonzero(np.abs(look.moments - found.time) * total >= 1.5)
        if found.kind == "recolor" or not len(clear):
            continue
        frame = int(clear[look.rng.integers(len(clear))])
        moment = float(look.moments[frame])
        truth = (moment > found.time) == (found.kind == "appear")
        text = f"Is {look.the(found.shape)} visible in frame {frame + 1} of {total}?"
        claims.append(Claim(text, truth, "", (found.shape,), (moment,)))
    return claims


def _event_of(look: Look, index: int) -> Event | None:
    return next((found for found in life_events(look.scene) if found.shape == index), None)


def _phrase(look: Look, found: Event) -> str:
    return f"{look.the(found.shape)} {happens(found.kind)}"


def _groups(events: list[Event]) -> list[list[Event]]:
    """Return all pairs of events and, if there are three events, the triple, in order of time."""
    pairs = [[one, two] for number, one in enumerate(events) for two in events[number + 1 :]]
    return [*pairs, events] if len(events) == 3 else pairs


def _seconds(look: Look, time: float) -> str:
    """Return a time in seconds as text, with tenths in clips shorter than 10 s."""
    seconds = time * (look.duration or 0.0)
    return f"{seconds:.1f}" if (look.duration or 0.0) < 10 else str(math.floor(seconds + 0.5))


def _moments(look: Look, time: float) -> list[str]:
    """Return the words for a time and for three clearly different ones."""
    moments = [time]
    while len(moments) < 4:
        if len(moments) == 1:
            spread = look.rng.uniform(0.08, 0.92, 3).tolist()
        both = sorted([time, *spread])
        if min(later - sooner for sooner, later in pairwise(both)) >= 0.12:
            moments += spread
    return [f"at {_seconds(look, moment)} seconds" for moment in moments]
