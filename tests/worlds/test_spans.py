"""Spans of time and traces of the shapes world, found again from what is seen at many moments of a clip."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tests.worlds.test_answers import Viewer, things_of_pixels, things_of_states
from tinyvid import ConfigError
from tinyvid.worlds.shapes import FAMILIES, SetOptions, ask, frame_times, plan_clip, sample_scene
from tinyvid.worlds.shapes.records import question_row

TIME = re.compile(r"<time:(\d+(?:\.\d\d?)?)>")
WAYS = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}
DENSE = "The video lasts 4 seconds. Describe every event with its time."


def moves(thing, way, number):
    """Whether a visible thing moves in a direction around a moment."""
    near = [i for i in (number - 1, number + 1) if i in thing.seen] or [number]
    axis, sign = WAYS[way]
    step = thing.places[near[-1]] - thing.places[near[0]]
    return abs(step[axis]) > abs(step[1 - axis]) and step[axis] * sign > 0


def holds(viewer, what, number):
    """Whether something is the case at a moment: what a question says after "When"."""
    seen = {id(thing) for thing in viewer.things if thing.colors[number]}
    if match := re.fullmatch(r"(?:is|are) exactly (\d) objects? visible", what):
        return len(seen) == int(match[1])
    if match := re.fullmatch(r"are both (.+) and (.+) visible", what):
        return {id(viewer.find(match[1])), id(viewer.find(match[2]))} <= seen
    if match := re.fullmatch(r"is (.+) visible but not (.+)", what):
        return id(viewer.find(match[1])) in seen and id(viewer.find(match[2])) not in seen
    if match := re.fullmatch(r"is (.+) not visible", what):
        return id(viewer.find(match[1])) not in seen
    if match := re.fullmatch(r"is (.+) visible|does (.+) appear|does (.+) (?:bounce|stay still)", what):
        thing = viewer.find(next(name for name in match.groups() if name))
        way = {"bounce": ["bounce"], "still": ["still"]}.get(what.split()[-1])
        return id(thing) in seen and way in (None, thing.motions()[0])
    if match := re.fullmatch(r"does (.+) move (\w+)", what):
        thing = viewer.find(match[1])
        return id(thing) in seen and moves(thing, match[2], number)
    match = re.fullmatch(r"is (.+) (\w+)", what)
    return viewer.find(match[1]).colors[number] == match[2]


def span_of(found, times, duration):
    """The start and end of the only run of true values, in seconds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(found, dtype=int), [0]])))
    assert len(edges) == 2, f"{len(edges) // 2} spans instead of one"
    limits = [0.0, *(times[1:] + times[:-1]) / 2, 1.0]
    return [limits[edge] * duration for edge in edges]


def story(thing, times, duration):
    """What a thing does, as (start, end, sentence)."""
    motions, turn = thing.motions()
    visible = np.array([color is not None for color in thing.colors])
    parts = [visible]
    if len(motions) == 2:
        before = np.arange(len(times)) <= turn
        parts = [visible & before, visible & ~before]
    said = {"still": "stays still", "bounce": "bounces"}
    for motion, part in zip(motions, parts, strict=True):
        yield *span_of(part, times, duration), f"The {thing.name} {said.get(motion, f'moves {motion}')}."
    if thing.first != thing.last:
        new = [color == thing.last for color in thing.colors]
        yield *span_of(new, times, duration), f"The {thing.name} is {thing.last}."


def wrong_spans(questions, viewer, duration):
    slack = 1.6 * duration / len(viewer.times)  # a turn is seen one moment later than it happens
    wrong = []
    for question in questions:
        if question.family == "grounding":
            what = re.fullmatch(r"The video lasts 4 seconds\. When (.+)\?", question.text)[1]
            found = [(*span_of([holds(viewer, what, i) for i in range(len(viewer.times))], viewer.times, duration), "")]
            assert re.fullmatch(r"From <time:[\d.]+> to <time:[\d.]+>\.", question.reply)
        else:
            assert question.text == DENSE
            found = [event for thing in viewer.things for event in story(thing, viewer.times, duration)]
        said = question.reply.split("\n")
        lines = [(*map(float, TIME.findall(line)), TIME.sub("", line)[4:].strip()) for line in said]
        if question.family == "grounding":
            lines = [(start, end, "") for start, end, _ in lines]
        assert [line[0] for line in lines] == sorted(line[0] for line in lines)
        for (start, end, said), (first, last, seen) in zip(
            sorted(lines, key=lambda line: line[2]), sorted(found, key=lambda line: line[2]), strict=True
        ):
            if said != seen or abs(start - first) > slack or abs(end - last) > slack:
                wrong.append((question.text, question.reply, found))
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize(("look", "moments", "clips"), [(things_of_states, 96, 20), (things_of_pixels, 48, 4)])
def test_spans_are_found_again(look, moments, clips):
    times = frame_times(moments)
    asked = Counter()
    for index in range(clips):
        rng = np.random.default_rng([10, index])
        scene = sample_scene(rng)
        questions = ask(scene, rng, num=8, families=["grounding", "dense_caption"], duration=4.0)
        things = look(scene, times)
        assert wrong_spans(questions, Viewer(things, times, []), 4.0) == [], index
        asked.update(question.family for question in questions)
    assert asked["grounding"] > 2 * clips
    assert asked["dense_caption"] > clips // 2


def test_the_checker_can_tell_a_wrong_span():
    scene = sample_scene(np.random.default_rng(3), num_shapes=3, min_events=2)
    questions = ask(scene, np.random.default_rng(0), num=4, families=["grounding"], duration=4.0)
    late = Viewer(things_of_states(scene, frame_times(48) * 0.8), frame_times(48), [])
    assert len(wrong_spans(questions, late, 4.0)) == len(questions) == 4


def spans_of(**options):
    """The spans of 60 clips as shares of the clip."""
    found = []
    for index in range(60):
        rng = np.random.default_rng([11, index])
        scene = sample_scene(rng, min_events=2)
        for question in ask(scene, rng, num=2, families=["grounding"], duration=3.0, **options):
            found.append([float(time) / 3.0 for time in TIME.findall(question.reply)])
    return np.array(found)


@pytest.mark.slow
def test_spans_are_spread_over_the_clip():
    spans = spans_of()
    inside = (spans[:, 0] > 0) & (spans[:, 1] < 1)
    for kind in (inside, spans[:, 0] == 0, spans[:, 1] == 1):
        assert 0.2 < kind.mean() < 0.5
    middles = np.histogram(spans.mean(1), bins=[0, 0.25, 0.5, 0.75, 1])[0] / len(spans)
    assert middles.min() > 0.1
    assert not ((spans[:, 0] == 0) & (spans[:, 1] == 1)).any()


@pytest.mark.slow
def test_short_spans_and_clips_of_unknown_length_are_not_asked():
    assert len(spans_of(moments=frame_times(8))) > 40
    lengths = np.diff(spans_of(moments=frame_times(5)))  # less than two gaps between five frames is too short
    assert len(lengths) > 10
    assert lengths.min() >= 0.39
    scene = sample_scene(np.random.default_rng(0), min_events=2)
    assert ask(scene, np.random.default_rng(0), num=5, families=["grounding", "dense_caption"]) == []


# --- traces -----------------------------------------------------------------------------------------------------

ALL = SetOptions(seed=8, families=list(FAMILIES), questions=10)


def shows(clause, things, number, before):
    """Whether shown frame ``number`` is evidence for a clause; ``before`` is the shown frame before it, or itself."""
    names = "|".join(f"the {thing.name}" for thing in things)
    verb = re.fullmatch(rf"(?:{names}) (.+)", clause)[1]
    thing, *others = [next(t for t in things if f"the {t.name}" == name) for name in re.findall(names, clause)]
    here, there = thing.colors[number], thing.colors[before]
    x, y = thing.places[number]
    if verb in ("appears", "disappears"):
        return bool(here) == (verb == "appears") and bool(there) != bool(here)
    if verb in ("is visible", "is not visible"):
        return bool(here) == (verb == "is visible")
    if verb.startswith("changes to "):
        return here == verb.removeprefix("changes to ") != there
    if verb.startswith("is in the "):
        return verb == f"is in the {'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
    if match := re.match(r"is (left of|right of|above|below) ", verb):
        dx, dy = thing.places[number] - others[0].places[number]
        return {"left of": dx < 0, "right of": dx > 0, "above": dy < 0, "below": dy > 0}[match[1]]
    if match := re.fullmatch(r"moves (\w+), then (\w+)", verb):
        return thing.motions()[0] == [*match.groups()] and before <= thing.motions()[1] <= number + 1
    meets = Viewer(things, np.arange(len(thing.colors)), [])
    if verb.startswith("passes "):
        axis = 0 if thing.motions()[0][0] in ("left", "right") else 1
        sides = [np.sign(thing.places[i][axis] - others[0].places[i][axis]) for i in (before, number)]
        return meets.passes(thing, others[0]) and sides[0] != sides[1]
    gap = np.hypot(*(thing.places[number] - others[0].places[number])) / (thing.radius + others[0].radius)
    return verb.startswith("collides with ") and meets.collide(thing, others[0]) and gap < 1.8


@pytest.mark.slow
def test_every_reference_shows_what_the_trace_says():
    kinds = Counter()
    for index in range(12):
        plain, cited = (plan_clip(replace(ALL, traces=style), index) for style in (None, "cited"))
        shown = np.linspace(0, cited.num_frames - 1, ALL.frames, dtype=int).tolist()
        things = things_of_states(cited.scene, frame_times(cited.num_frames))
        for asked, question in zip(plain.questions, cited.questions, strict=True):
            if not asked.meta["times"]:
                assert question == asked
                continue
            trace, answer = question.reply.split(". Answer: ")
            assert (question.text, answer, question.meta["answer"]) == (asked.text, asked.reply, asked.meta["answer"])
            parts = re.split(r",? ?[iI]n <frame:([\d.]+)> ", trace)[1:]
            assert [float(seconds) for seconds in parts[::2]] == question.meta["key_frames"]
            for seconds, clauses in zip(parts[::2], parts[1::2], strict=True):
                number = round(float(seconds) * cited.fps)
                place = shown.index(number)
                for clause in clauses.split(" and "):
                    assert shows(clause, things, number, shown[max(place - 1, 0)]), (index, question)
            kinds[question.family] += 1
    timed = {"order_within", "order_between", "event", "change", "position", "when", "which_frame", "pass", "collision"}
    assert set(kinds) == timed | {"event_list", "grounding", "dense_caption"}


@pytest.mark.slow
def test_the_arms_of_traces_differ_only_in_references():
    shuffled_right = total = 0
    for index in range(12):
        arms = {style: plan_clip(replace(ALL, traces=style), index) for style in ("cited", "text", "shuffled")}
        assert plan_clip(replace(ALL, traces="shuffled"), index).questions == arms["shuffled"].questions
        shown = {round(i / arms["cited"].fps, 3) for i in np.linspace(0, arms["cited"].num_frames - 1, 16, dtype=int)}
        for cited, text, shuffled in zip(*(arm.questions for arm in arms.values()), strict=True):
            bare = re.sub(r"[iI]n <frame:[\d.]+> ", "", cited.reply)
            assert text.reply == (bare[0].upper() + bare[1:] if "key_frames" in cited.meta else bare)
            times = [float(time) for time in re.findall(r"<frame:([\d.]+)>", shuffled.reply)]
            assert re.sub(r"<frame:[\d.]+>", "", shuffled.reply) == re.sub(r"<frame:[\d.]+>", "", cited.reply)
            assert set(times) <= shown
            assert cited.meta == text.meta == shuffled.meta
            total += len(times)
            shuffled_right += sum(a == b for a, b in zip(times, cited.meta.get("key_frames", ()), strict=True))
    assert total > 50
    assert shuffled_right / total < 0.25


def test_rows_list_key_frames():
    clip = plan_clip(replace(ALL, traces="cited"), 0)
    rows = [question_row(clip, n, "clip.mp4", split="train", frames=16) for n in range(10)]
    assert any(row.get("key_frames") for row in rows)
    assert all(("key_frames" in row) == ("<frame:" in row["conversations"][1]["value"]) for row in rows)
    with pytest.raises(ConfigError, match="traces='citd' is unknown. Did you mean 'cited'"):
        SetOptions(traces="citd")
