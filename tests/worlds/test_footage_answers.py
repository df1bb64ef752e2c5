"""Every answer of the footage world, found again by a viewer that only looks at frames."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.worlds.footage_sources import READER, write_sources
from tests.worlds.footage_viewer import Viewer
from tinyvid.worlds.footage import FAMILIES, FootageOptions, FootageWorld
from tinyvid.worlds.footage.drawing import draw
from tinyvid.worlds.layout import frame_times

TIME = re.compile(r"<time:([\d.]+)>")
MOTIONS = {"pan left": "left", "pan right": "right", "pan up": "up", "pan down": "down"} | {
    "zoom in": "in", "zoom out": "out", "stay still": "still", "not at all": "still",
}  # fmt: skip
CHANGES = {"constant": "constant", "darker": "darker", "brighter": "brighter"}
SMALL = {"sizes": ["96x96"], "seconds": [2.0], "fps": [8.0]}
PRESENCE = {None: "no, never", 0: "yes, all the time"}
SPEEDS = {"steady": "steady", "faster": "faster", "slower": "slower"}


def look(clip):
    frames = np.concatenate(list(clip.frames()))
    if clip.plan.patch is None:
        return Viewer(frames, frames)
    size, times = (clip.width, clip.height), frame_times(clip.num_frames)
    bare = draw(replace(clip.plan, patch=None), clip.film.shots, None, size, times, range(clip.num_frames))
    return Viewer(frames, bare)


def half(viewer, number):
    return "first half" if number < len(viewer.frames) / 2 else "second half"


SEEN = {
    "camera": lambda viewer: viewer.camera,
    "camera_first": lambda viewer: viewer.halves[0],
    "camera_last": lambda viewer: viewer.halves[1],
    "camera_return": lambda viewer: viewer.returns,
    "shots": lambda viewer: str(len(viewer.cuts) + 1),
    "shot_return": lambda viewer: viewer.first_again,
    "cut_when": lambda viewer: half(viewer, viewer.cuts[0]),
    "freeze": lambda viewer: viewer.frozen is not None,
    "freeze_when": lambda viewer: half(viewer, viewer.frozen[0]),
    "fade": lambda viewer: viewer.fade,
    "patch": lambda viewer: {None: "no, never", 0: "yes, all the time"}.get(
        viewer.patch_begins, "yes, it appears later"
    ),
    "patch_where": lambda viewer: viewer.patch_corner,
    "patch_when": lambda viewer: half(viewer, viewer.patch_begins),
    "patch_motion": lambda viewer: viewer.patch_moves,
    "speed": lambda viewer: viewer.speed,
}


def meaning(family, words):
    """What a reply, an option or a claim says, in the words of the viewer."""
    words = words.lower().rstrip("?")
    if family.startswith("camera"):
        return next(way for said, way in MOTIONS.items() if said in words)
    if family in ("fade", "speed"):
        return next(way for said, way in (CHANGES | SPEEDS).items() if said in words)
    if family in ("cut_when", "freeze_when", "patch_when"):
        return re.search("first half|second half", words)[0]
    if family == "patch_where":
        return re.search("(top|bottom) (left|right)", words)[0]
    if family == "patch_motion":
        return "still" if "still" in words or "not at all" in words else re.search("left|right|up|down", words)[0]
    if family == "shots":
        return "1" if "one" in words else re.search(r"\d", words)[0]
    if "appear" in words:
        return "yes, it appears later"
    return "yes, all the time" if "all the time" in words else "no, never"


def expected(question, viewer):
    """The correct reply, as the viewer sees it; None if it cannot tell."""
    seen = SEEN[question.family](viewer)
    if not isinstance(seen, str):
        return None if seen is None else {True: "yes", False: "no"}[bool(seen)]
    if question.format == "yesno":
        return "yes" if meaning(question.family, question.text) == seen else "no"
    if question.format == "choice":
        (letter,) = (line[0] for line in question.text.split("\n")[1:] if meaning(question.family, line[3:]) == seen)
        return letter
    return question.reply if meaning(question.family, question.reply) == seen else None


def span(question, viewer, duration):
    """Start and end in seconds, as the viewer sees them."""
    if question.family == "frozen":
        start, end = viewer.frozen
        # the frame with which a freeze begins is the first of equal ones; the next one that differs ends it
        numbers = [start, len(viewer.frames) if end == len(viewer.frames) - 1 else end + 1]
    else:
        edges = [0, *viewer.cuts, len(viewer.frames)]
        number = next(i for i, word in enumerate(("first", "second", "third")) if f"the {word} shot" in question.text)
        numbers = edges[number : number + 2]
    return [number / len(viewer.frames) * duration for number in numbers]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("source"))


@pytest.mark.slow
def test_a_viewer_finds_every_answer(folder):
    options = FootageOptions(source=str(folder), split="all", seed=3, questions=3, families=list(FAMILIES), **SMALL)
    world, found = FootageWorld(options, READER), set()
    for index in range(12):
        clip = world.plan(index)
        viewer = look(clip)
        for question in clip.questions:
            where = f"clip {index}: {question.text!r} -> {question.reply!r}"
            if question.span is None:
                assert expected(question, viewer) == question.reply, where
            else:
                assert span(question, viewer, clip.duration) == pytest.approx(question.span, abs=0.01), where
                assert [float(time) for time in TIME.findall(question.reply)] == list(question.span)
            found.add(question.family)
    assert found == set(FAMILIES)


def test_the_viewer_is_not_easily_satisfied(folder):
    """A question with another answer of its family is found to be wrong."""
    options = FootageOptions(source=str(folder), split="all", questions=3, **SMALL)
    clip = FootageWorld(options, READER).plan(0)
    viewer = look(clip)
    for question in clip.questions:
        wrong = {"yes": "no", "no": "yes"}.get(question.reply)
        if question.format == "choice":
            wrong = next(letter for letter in "ABCD" if letter != question.reply)
        if wrong:
            assert expected(replace(question, reply=wrong), viewer) == question.reply != wrong
