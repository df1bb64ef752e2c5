"""Every answer of the shapes world, found again by a checker that shares no code with the generator.

The checker looks at a clip, either through ``Scene.state`` at many moments or at rendered pixels alone, makes out the
things in it and how they move, reads the question as a person would, and answers it.
"""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from tinyvid.worlds.shapes import DEFAULT_FAMILIES, KINDS, RGB, ask, frame_times, render_at, sample_scene

COLORS = list(RGB)
LETTERS = "ABCD"
DIRECTIONS = {(-1, 0): "left", (1, 0): "right", (0, -1): "up", (0, 1): "down"}
VERBS = {"appear": "appears", "disappear": "disappears", "change color": "changes color"}


@dataclass
class Thing:
    """Something that was seen: at each moment its color, or None, and where it was; how large it is."""

    kind: str
    colors: list
    places: np.ndarray
    radius: float

    @property
    def seen(self):
        return [i for i, color in enumerate(self.colors) if color]

    @property
    def first(self):
        return self.colors[self.seen[0]]

    @property
    def last(self):
        return self.colors[self.seen[-1]]

    @property
    def name(self):
        return f"{self.first} {self.kind}"

    def event(self):
        """What happens to it, and between which two moments."""
        start, end = self.seen[0], self.seen[-1]
        if start > 0:
            return "appear", start
        if end < len(self.colors) - 1:
            return "disappear", end + 1
        if self.first != self.last:
            return "change color", next(i for i in self.seen if self.colors[i] != self.first)
        return None

    def motions(self):
        """The motions in order; with them the frame at which the second begins."""
        path = self.places[self.seen]
        if np.ptp(path, axis=0).max() < 0.03:
            return ["still"], 0
        steps = np.diff(path, axis=0)
        vertical = [np.sign(dy) for dx, dy in steps if abs(dy) > 0.004]
        turns = sum(a != b for a, b in pairwise(vertical))
        if np.ptp(path[:, 0]) < 0.03 and turns >= 2:
            return ["bounce"], (turns + 1) // 2
        found, turn = [], 0
        for number, (dx, dy) in enumerate(steps):
            axis = (np.sign(dx), 0) if abs(dx) > abs(dy) else (0, np.sign(dy))
            if max(abs(dx), abs(dy)) > 0.002 and (not found or DIRECTIONS[axis] != found[-1]):
                found.append(DIRECTIONS[axis])
                turn = self.seen[number]
        return found, turn


# --- two ways to look -------------------------------------------------------------------------------------------


def things_of_states(scene, times):
    states = [scene.state(float(time)) for time in times]
    return [
        Thing(
            shape.kind,
            [state[i].color if state[i].visible else None for state in states],
            np.array([(state[i].x, state[i].y) for state in states]),
            shape.radius,
        )
        for i, shape in enumerate(scene.shapes)
    ]


def blobs(frame):
    """Yield (color, kind, x, y, radius) of every patch of paint in a picture, from its pixels alone."""
    tints = np.array([np.array(RGB[color]) * factor for color in COLORS for factor in (0.85, 0.9, 0.95, 1.0)])
    height, width, _ = frame.shape
    bright = frame.max(-1) > 125
    distance = np.abs(frame[bright][:, None].astype(np.int16) - tints.astype(np.int16)).max(-1)  # (pixels, tints)
    color = np.full((height, width), -1)
    color[bright] = np.where(distance.min(-1) <= 21, distance.argmin(-1) // 4, -1)
    for number in np.unique(color[color >= 0]):
        labels, _ = ndimage.label(color == number)
        for label, box in enumerate(ndimage.find_objects(labels), 1):
            mask = labels[box] == label
            rows, columns = mask.shape
            if mask.sum() < 60 or min(rows, columns) < 9:
                continue
            fill, half = mask.mean(), rows // 2
            bottom_heavy = mask[half:].mean() - mask[:half].mean()
            kind = (
                "square" if fill > 0.9 else "circle" if fill > 0.67 else "triangle" if bottom_heavy > 0.2 else "cross"
            )
            reach = {"square": 0.86, "circle": 1.0, "triangle": 0.953, "cross": 0.95}[kind]
            y = (box[0].start + box[0].stop) / 2 / height
            y += 0.125 * columns / 2 / 0.953 / height if kind == "triangle" else 0.0  # its middle is above its box's
            x = (box[1].start + box[1].stop) / 2 / width
            yield COLORS[number], kind, x, y, columns / 2 / reach / width


def things_of_pixels(scene, times, side=96):
    frames = render_at(scene, times, width=side, height=side)
    tracks = {}
    for number, frame in enumerate(frames):
        for color, kind, x, y, radius in blobs(frame):
            tracks.setdefault((color, kind), []).append((number, x, y, radius))
    things = []
    for (color, kind), spots in sorted(tracks.items(), key=lambda item: item[1][0][0]):
        begun = spots[0][0]
        for thing in things:  # the same thing in another color: one ends here where the other begins
            end = thing.seen[-1]
            if thing.kind == kind and end == begun - 1 and np.abs(thing.places[end] - spots[0][1:3]).max() < 0.12:
                break
        else:
            thing = Thing(kind, [None] * len(times), np.full((len(times), 2), np.nan), np.median([s[3] for s in spots]))
            things.append(thing)
        for number, x, y, _ in spots:
            thing.colors[number], thing.places[number] = color, (x, y)
    return things


# --- a person who answers ---------------------------------------------------------------------------------------


@dataclass
class Viewer:
    """Answers questions about the things seen at ``times`` of a clip of ``duration`` seconds."""

    things: list
    times: np.ndarray
    seen_in_frames: list  # of the model: sets of (color, kind)

    def find(self, name):
        words = name.removeprefix("the ").split()
        if len(words) == 1:
            found = [thing for thing in self.things if thing.kind == words[0]]
        elif words[1] == "object":
            found = [thing for thing in self.things if words[0] in thing.colors]
        else:
            found = [thing for thing in self.things if thing.name == name.removeprefix("the ")]
        assert len(found) == 1, f"{name!r} names {len(found)} things"
        return found[0]

    def time(self, thing):
        number = thing.event()[1]
        return (self.times[number - 1] + self.times[number]) / 2

    def corner(self, thing, number):
        x, y = thing.places[number]
        return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"

    def passes(self, one, two):
        """Whether ``one`` gets from one side of the still ``two`` to the other."""
        both = [i for i in one.seen if two.colors[i]]
        if one.motions()[0] == ["still"] or two.motions()[0] != ["still"]:
            return False
        axis = 0 if one.motions()[0][0] in ("left", "right") else 1
        sides = np.sign(one.places[both, axis] - two.places[both, axis])
        return bool(len(sides)) and sides[0] != sides[-1]

    def collide(self, one, two):
        """Whether they come to touch where one of them turns back."""
        both = [i for i in one.seen if two.colors[i]]
        gaps = [np.hypot(*(one.places[i] - two.places[i])) / (one.radius + two.radius) for i in both]
        if not both or min(gaps) > 1.12:
            return False
        nearest = both[int(np.argmin(gaps))]
        for thing in (one, two):
            motions, turn = thing.motions()
            opposite = len(motions) == 2 and {*motions} in ({"left", "right"}, {"up", "down"})
            if opposite and abs(turn - nearest) <= 3:
                return True
        return False

    def happened(self, phrase):
        """The time of "the red circle appears" or "does the red circle appear"."""
        for verb, third in VERBS.items():
            for ending in (third, verb):
                if phrase.endswith(f" {ending}"):
                    thing = self.find(phrase.removesuffix(f" {ending}"))
                    assert thing.event()[0] == verb
                    return self.time(thing)
        raise AssertionError(phrase)

    def describe(self):
        first = {thing.name: (thing.seen[0], thing.places[thing.seen[0]][0]) for thing in self.things}
        return "; ".join(map(self.clause, sorted(self.things, key=lambda thing: first[thing.name]))) + "."

    def clause(self, thing):
        motions, _ = thing.motions()
        event = (thing.event() or (None,))[0]
        moving = {"still": "stays still", "bounce": "bounces"}.get(motions[0], f"moves {', then '.join(motions)}")
        verbs = (["appears"] if event == "appear" else []) + [moving]
        verbs += [f"changes to {thing.last}"] if event == "change color" else []
        verbs += ["disappears"] if event == "disappear" else []
        return f"{'an' if thing.first[0] in 'aeiou' else 'a'} {thing.name} {' and '.join(verbs)}"

    def list_events(self):
        busy = sorted((thing for thing in self.things if thing.event()), key=self.time)
        return (", then ".join(f"the {thing.name} {VERBS[thing.event()[0]]}" for thing in busy) or "nothing") + "."

    def count(self, what, when):
        if when != "in the video":
            number = 0 if when == "at the start" else len(self.times) - 1
            return sum(thing.colors[number] is not None for thing in self.things)
        if what in ("objects", "object"):
            return len(self.things)
        if what.endswith(("object", "objects")):
            return sum(what.split()[0] in thing.colors for thing in self.things)
        return sum(what in (thing.kind, f"{thing.kind}s", f"{thing.kind}es") for thing in self.things)

    def is_there(self, what):
        names = {f"{color} {thing.kind}" for thing in self.things for color in thing.colors if color}
        names |= {thing.kind for thing in self.things}
        names |= {f"{color} object" for thing in self.things for color in thing.colors if color}
        return what in names

    def frame_of(self, thing, verb):
        pairs = [{(color, thing.kind) for color in {thing.first, thing.last}} & seen for seen in self.seen_in_frames]
        if verb == "change color":
            return 1 + next(i for i, pair in enumerate(pairs) if (thing.last, thing.kind) in pair)
        if verb == "appear":
            return 1 + next(i for i, pair in enumerate(pairs) if pair)
        return 2 + max(i for i, pair in enumerate(pairs) if pair)


def rule(pattern):
    def add(function):
        RULES.append((re.compile(pattern), function))
        return function

    return add


RULES = []
rule(r"What color is (.+) at the start\?")(lambda v, name: v.find(name).first)
rule(r"What color is (.+) at the end\?")(lambda v, name: v.find(name).last)
rule(r"What color is (.+)\?")(lambda v, name: v.find(name).first)
rule(r"What color does (.+) change to\?")(lambda v, name: v.find(name).last)
rule(r"What shape is (.+)\?")(lambda v, name: v.find(name).kind)
rule(r"Is (the \w+ object) an? (\w+)\?")(lambda v, name, kind: v.find(name).kind == kind)
rule(r"How many (.+) are there (.+)\?")(lambda v, what, when: str(v.count(what, when)))
rule(r"(?:Is|Are) there exactly (\d) (.+?) (in the video|at the \w+)\?")(
    lambda v, number, what, when: v.count(what, when) == int(number)
)
rule(r"Is there an? (.+) in the video\?")(lambda v, what: v.is_there(what))
rule(r"Where is (.+) at the start\?")(lambda v, name: v.corner(v.find(name), 0))
rule(r"Where is (.+) at the end\?")(lambda v, name: v.corner(v.find(name), -1))
rule(r"Where does (.+) move first\?")(lambda v, name: v.find(name).motions()[0][0])
rule(r"Where does (.+) move last\?")(lambda v, name: v.find(name).motions()[0][-1])
rule(r"In which order does (.+) move\?")(lambda v, name: ", then ".join(v.find(name).motions()[0]))
rule(r"How does (.+) move\?")(lambda v, name: ", ".join(v.find(name).motions()[0]))
rule(r"Does (.+) move (\w+) before it moves (\w+)\?")(lambda v, name, a, b: v.find(name).motions()[0] == [a, b])
rule(r"Does (.+) move (\w+)\?")(lambda v, name, way: v.find(name).motions()[0] == [way])
rule(r"Does (.+) stay still\?")(lambda v, name: v.find(name).motions()[0] == ["still"])
rule(r"Does (.+) bounce\?")(lambda v, name: v.find(name).motions()[0] == ["bounce"])
rule(r"How many times does (.+) bounce\?")(lambda v, name: str(v.find(name).motions()[1]))
rule(r"Does (.+) bounce exactly (\d) times?\?")(lambda v, name, n: v.find(name).motions()[1] == int(n))
rule(r"Does (.+) pass (.+)\?")(lambda v, one, two: v.passes(v.find(one), v.find(two)))
rule(r"Do (.+) and (.+) collide\?")(lambda v, one, two: v.collide(v.find(one), v.find(two)))
rule(r"Does (.+) change to (\w+)\?")(
    lambda v, name, color: (
        v.find(name).event() is not None and v.find(name).event()[0] == "change color" and v.find(name).last == color
    )
)
rule(r"List the events in order\.")(lambda v: v.list_events())
rule(r"Describe the video\.")(lambda v: v.describe())


@rule(r"Is (.+) (left of|right of|above|below) (.+) at the (start|end)\?")
def _(viewer, one, side, two, when):
    number = 0 if when == "start" else -1
    dx, dy = viewer.find(one).places[number] - viewer.find(two).places[number]
    return {"left of": dx < 0, "right of": dx > 0, "above": dy < 0, "below": dy > 0}[side]


@rule(r"Is (.+) in the (top|bottom) (left|right) at the (start|end)\?")
def _(viewer, name, row, column, when):
    return viewer.corner(viewer.find(name), 0 if when == "start" else -1) == f"{row} {column}"


@rule(r"Is (.+) visible in frame (\d+) of (\d+)\?")
def _(viewer, name, number, total):
    assert int(total) == len(viewer.seen_in_frames)
    thing = viewer.find(name)
    return any((color, thing.kind) in viewer.seen_in_frames[int(number) - 1] for color in (thing.first, thing.last))


@rule(r"In which of the (\d+) frames does (.+) (appear|disappear|change color)\?")
def _(viewer, total, name, verb):
    assert int(total) == len(viewer.seen_in_frames)
    return str(viewer.frame_of(viewer.find(name), verb))


@rule(r"Is (the \w+) (\w+)\?")
def _(viewer, name, color):
    return viewer.find(name).first == color


@rule(r"What happens to (.+)\?")
def _(viewer, name):
    event = viewer.find(name).event()
    return VERBS[event[0]] if event else "nothing"


@rule(r"Does (.+) (appear|disappear|change color) during the video\?")
def _(viewer, name, verb):
    return (viewer.find(name).event() or (None,))[0] == verb


@rule(r"Does (.+ (?:appear|disappear|change color)) (before|after) (.+)\?")
def _(viewer, one, relation, two):
    return (viewer.happened(one) < viewer.happened(two)) == (relation == "before")


@rule(r"The video lasts ([\d.]+) seconds\. After how many whole seconds does (.+)\?")
def _(viewer, duration, what):
    return str(int(viewer.happened(what) * float(duration)))


@rule(r"The video lasts ([\d.]+) seconds\. Does (.+) in the first ([\d.]+) seconds\?")
def _(viewer, duration, what, limit):
    return viewer.happened(what) * float(duration) < float(limit)


@rule(r"Which object does (.+) (pass|collide with)\?")
def _(viewer, name, verb):
    one = viewer.find(name)
    meets = viewer.passes if verb == "pass" else viewer.collide
    (met,) = [thing.name for thing in viewer.things if thing is not one and meets(one, thing)]
    return met


def answer(viewer, question):
    """The reply that the viewer gives to a question, as it stands."""
    head, *lines = question.text.split("\n")
    options = [line.partition(". ")[2] for line in lines]
    assert [line[0] for line in lines] == list(LETTERS[: len(lines)])
    assert len(set(options)) == len(options), f"an option is given twice: {question.text!r}"
    choice = re.fullmatch(r"Which happens (first|last)(?:: (.+))?\?", head)
    seconds = re.fullmatch(r"The video lasts ([\d.]+) seconds\. When does (.+)\?", head)
    if choice:
        phrases = options or re.split(r", | or ", choice[2])
        found = sorted(phrases, key=viewer.happened)[0 if choice[1] == "first" else -1]
    elif seconds:
        true = viewer.happened(seconds[2]) * float(seconds[1])
        found = min(options, key=lambda option: abs(float(option.split()[1]) - true))
    elif head == "Which of these is in the video?":
        (found,) = [option for option in options if viewer.is_there(option.split(" ", 1)[1])]
    else:
        found = next(reply(viewer, *match.groups()) for rule, reply in RULES if (match := rule.fullmatch(head)))
    if isinstance(found, bool | np.bool_):
        return "yes" if found else "no"
    return LETTERS[options.index(found)] if options else found


def pairs_in_frames(scene, moments):
    return [{(s.color, s.kind) for s in scene.state(float(m)) if s.visible} for m in moments]


def wrong_answers(questions, viewer):
    found = [(question.text, question.reply, answer(viewer, question)) for question in questions]
    return [item for item in found if item[1] != item[2]]


# --- the tests --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_states_give_the_same_answers():
    times, moments = frame_times(96), frame_times(16)
    kinds = Counter()
    for index in range(500):
        rng = np.random.default_rng([7, index])
        scene = sample_scene(rng)
        families = (*DEFAULT_FAMILIES, "bounce_count")
        questions = ask(scene, rng, num=14, families=families, duration=[2.0, 3.0, 4.0, 6.0][index % 4])
        viewer = Viewer(things_of_states(scene, times), times, pairs_in_frames(scene, moments))
        assert wrong_answers(questions, viewer) == [], index
        kinds.update((question.family, question.format) for question in questions)
    assert len({family for family, _ in kinds}) == 17
    assert min(kinds.values()) >= 8, kinds


@pytest.mark.slow
def test_pixels_give_the_same_answers():
    times, moments = frame_times(48), frame_times(16)
    asked = 0
    for index in range(24):
        rng = np.random.default_rng([8, index])
        scene = sample_scene(rng, min_events=index % 3 % 2)
        questions = ask(scene, rng, num=16, duration=4.0)
        frames = render_at(scene, moments, width=96, height=96)
        seen = [{(color, kind) for color, kind, *_ in blobs(frame)} for frame in frames]
        viewer = Viewer(things_of_pixels(scene, times), times, seen)
        assert len(viewer.things) == len(scene.shapes), index
        assert wrong_answers(questions, viewer) == [], index
        asked += len(questions)
    assert asked > 350


@pytest.mark.slow
def test_the_checker_can_tell_a_wrong_answer():
    """A checker that agrees with everything would prove nothing."""
    rng = np.random.default_rng(3)
    times = frame_times(96)
    found = 0
    for index in range(40):
        scene, other = (sample_scene(np.random.default_rng([9, index, i]), num_shapes=3) for i in range(2))
        recolored = [shape for shape in scene.shapes if shape.recolor]
        viewer = Viewer(things_of_states(scene, times), times, pairs_in_frames(scene, frame_times(16)))
        strange = Viewer(things_of_states(other, times), times, pairs_in_frames(other, frame_times(16)))
        questions = ask(scene, rng, num=4, families=["count", "existence", "caption"], formats=["open", "caption"])
        assert wrong_answers(questions, viewer) == []
        found += len(wrong_answers(questions, strange))
        assert len(recolored) <= 3
    assert found > 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_show_what_a_state_says(kind):
    rng = np.random.default_rng(KINDS.index(kind))
    for color in ("red", "green", "blue", "yellow", "purple", "cyan", "white"):
        scene = sample_scene(rng, num_shapes=1, require=[(color, kind)])
        for time in (0.21, 0.5, 0.79):
            (state,) = scene.state(time)
            found = list(blobs(render_at(scene, np.array([time]), width=128, height=128)[0]))
            if not state.visible:
                assert found == []
                continue
            ((seen_color, seen_kind, x, y, radius),) = found
            assert (seen_color, seen_kind) == (state.color, kind)
            assert abs(x - state.x) < 0.012
            assert abs(y - state.y) < 0.012
            assert abs(radius - state.radius) < 0.012
