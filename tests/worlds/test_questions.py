"""Questions of the shapes world: that they tell nothing to someone who does not look, and are worded as documented."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from tinyvid import ConfigError
from tinyvid.worlds.shapes import (
    COLORS,
    DEFAULT_FAMILIES,
    EXTRA_FAMILIES,
    FAMILIES,
    FORMATS,
    KINDS,
    ask,
    frame_times,
    render,
    sample_scene,
    sampled_times,
)

THING = re.compile(rf"\b(?:an?|the) (?:(?:{'|'.join(COLORS)}) )?(?:{'|'.join((*KINDS, 'object'))})\b")


@pytest.fixture(scope="module")
def asked():
    found = []
    for index in range(1800):
        rng = np.random.default_rng([1, index])
        found.append(ask(sample_scene(rng), rng, num=8, duration=[2.0, 3.0, 4.0, 6.0][index % 4]))
    return [question for questions in found for question in questions]


@pytest.mark.slow
def test_every_family_is_asked_in_every_format_it_has(asked):
    kinds = Counter((question.family, question.format) for question in asked)
    expected = {(name, form) for name in DEFAULT_FAMILIES for form in FORMATS if getattr(FAMILIES[name], form)}
    assert set(kinds) == expected
    assert len({name for name, _ in expected}) == 16
    assert min(kinds.values()) >= 20


@pytest.mark.slow
def test_yes_and_no_are_equally_likely_in_each_family(asked):
    replies = defaultdict(list)
    for question in asked:
        if question.format == "yesno":
            replies[question.family].append(question.reply == "yes")
    for family, found in replies.items():
        slack = 0.05 + 2.2 * 0.5 / len(found) ** 0.5
        assert abs(np.mean(found) - 0.5) < slack, (family, np.mean(found), len(found))


@pytest.mark.slow
def test_letters_are_uniform(asked):
    letters = defaultdict(Counter)
    for question in asked:
        if question.format == "choice":
            letters[len(question.options)][question.reply] += 1
    assert set(letters) <= {2, 3, 4}
    for count in (2, 4):
        shares = np.array([letters[count][letter] for letter in "ABCD"[:count]]) / letters[count].total()
        assert np.abs(shares - 1 / count).max() < 0.05


@pytest.mark.slow
def test_the_words_of_a_question_do_not_give_its_answer_away(asked):
    """The best guess for a wording with its shapes struck out, learned on one half, is no good on the other."""
    limits = {"yesno": 0.6, "choice": 0.4}
    for form, limit in limits.items():
        for family in DEFAULT_FAMILIES:
            rows = [q for q in asked if (q.family, q.format) == (family, form)]
            if len(rows) < 100:
                continue
            guess = defaultdict(Counter)
            for question in rows[::2]:
                guess[THING.sub("#", question.text.split("\n")[0])][question.reply] += 1
            fallback = Counter(q.reply for q in rows[::2]).most_common(1)[0][0]
            right = []
            for question in rows[1::2]:
                seen = guess.get(THING.sub("#", question.text.split("\n")[0]))
                right.append((seen.most_common(1)[0][0] if seen else fallback) == question.reply)
            least = 1 / 2 if family == "order_between" else 1 / 4  # two events make two options
            assert np.mean(right) < max(limit, least + 0.1) + 1.5 * 0.5 / len(right) ** 0.5, (family, form)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "answers", "least"),
    [
        ("color", set(COLORS), 0.09),
        ("shape", set(KINDS), 0.2),
        ("motion", {"left", "right", "up", "down", "still", "bounce"}, 0.11),
        ("event", {"appears", "disappears", "changes color", "nothing"}, 0.15),
        ("position", {"top left", "top right", "bottom left", "bottom right"}, 0.19),
        ("change", set(COLORS), 0.07),
        ("count", {"0", "1", "2", "3", "4"}, 0.05),
    ],
)
def test_answers_are_spread(asked, family, answers, least):
    counts = Counter(q.meta["answer"] for q in asked if q.family == family and q.format in ("open", "choice"))
    assert set(counts) == answers
    assert min(counts.values()) / counts.total() > least, counts


@pytest.mark.slow
def test_wrong_options_and_claims_are_near(asked):
    """Most questions for existence name a pair that shares something with a shape of the clip."""
    near = total = 0
    for index in range(300):
        rng = np.random.default_rng([2, index])
        scene = sample_scene(rng)
        colors = {color for shape in scene.shapes for color in shape.colors}
        kinds = {shape.kind for shape in scene.shapes}
        for question in ask(scene, rng, num=3, families=["existence"], formats=["yesno"]):
            match = re.fullmatch(r"Is there an? (\w+) (circle|square|triangle|cross) in the video\?", question.text)
            if match and question.reply == "no":
                total += 1
                near += match[1] in colors or match[2] in kinds
    assert total > 60
    assert near / total > 0.85


@pytest.mark.slow
def test_a_choice_lists_its_options_and_is_answered_by_a_letter(asked):
    for question in asked:
        if question.format == "choice":
            lines = question.text.split("\n")[1:]
            assert lines == [f"{letter}. {o}" for letter, o in zip("ABCD", question.options, strict=False)]
            assert question.options["ABCD".index(question.reply)] == question.meta["answer"]
            assert len(set(question.options)) == len(question.options)
        else:
            assert question.options == ()
            assert "\n" not in question.text


def test_questions_about_one_scene_are_different_and_repeatable():
    scene = sample_scene(np.random.default_rng(3), num_shapes=3)
    questions = ask(scene, np.random.default_rng(0), num=20)
    assert len({(question.format, question.text.split("\n")[0]) for question in questions}) == 20
    assert questions == ask(scene, np.random.default_rng(0), num=20)
    assert questions != ask(scene, np.random.default_rng(1), num=20)


def test_families_and_formats_can_be_chosen_and_weighed():
    scene = sample_scene(np.random.default_rng(3), num_shapes=4)
    rng = np.random.default_rng(0)
    only = ask(scene, rng, num=5, families=["motion"], formats=["open", "yesno"])
    assert {question.family for question in only} == {"motion"}
    assert {question.format for question in only} <= {"open", "yesno"}
    weighed = Counter(ask(scene, rng, families={"count": 9, "position": 1})[0].family for _ in range(200))
    assert 0.82 < weighed["count"] / 200 < 0.97
    assert not any(q.family in EXTRA_FAMILIES for q in ask(scene, rng, num=40))


def test_a_scene_that_has_no_answer_is_not_asked():
    scene = sample_scene(np.random.default_rng(0), num_shapes=1)
    assert ask(scene, np.random.default_rng(0), num=5, families=["order_between", "collision"]) == []
    busy = sample_scene(np.random.default_rng(0), min_events=2)
    assert ask(busy, np.random.default_rng(0), num=5, families=["when"]) == []  # the length is not known
    assert len(ask(busy, np.random.default_rng(0), num=3, families=["when"], duration=4.0)) == 3


@pytest.mark.slow
def test_frames_are_counted_as_the_model_sees_them():
    for index in range(60):
        rng = np.random.default_rng([4, index])
        scene = sample_scene(rng, min_events=1)
        for moments in (frame_times(8), sampled_times(120, 16)):
            for question in ask(scene, rng, num=3, families=["which_frame"], formats=["open"], moments=moments):
                assert f"of the {len(moments)} frames" in question.text
                (time,), number = question.meta["times"], int(question.reply)
                assert moments[number - 1] >= time - 1e-4
                assert number == 1 or moments[number - 2] < time


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ["colr"]}, "families: 'colr' is unknown. Did you mean 'color'?"),
        ({"formats": ["opn"]}, "formats: 'opn' is unknown. Did you mean 'open'?"),
        ({"families": ["caption"], "formats": ["yesno"]}, "caption have no questions in the formats yesno"),
        ({"families": []}, "the families none have no questions"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)[:40] if "'" in message else message):
        ask(sample_scene(np.random.default_rng(0)), np.random.default_rng(0), **options)


def test_an_extra_color_takes_part_in_wrong_answers():
    seen = set()
    for index in range(40):
        rng = np.random.default_rng([5, index])
        scene = sample_scene(rng, colors=["orange", "pink", "red"])
        for question in ask(scene, rng, num=4, families=["color"], formats=["choice"]):
            seen.update(question.options)
    assert {"orange", "pink"} <= seen


def test_the_world_stays_as_documented():
    """A model that is shipped has learned this world: its scenes and words must not drift."""
    rng = np.random.default_rng([0, 5])
    scene = sample_scene(rng)
    (caption,) = ask(scene, rng, families=["caption"])
    assert caption.reply == (
        "a blue circle moves right, then left and changes to green; a blue triangle stays still and changes to cyan."
    )
    rng = np.random.default_rng([0, 2])
    scene = sample_scene(rng)
    assert scene.events[0].time == pytest.approx(0.28457847425812854, abs=1e-12)
    assert [(q.text, q.reply) for q in ask(scene, rng, num=2, duration=4.0)] == [
        ("What color is the circle?", "white"),
        ("What shape is the white object?\nA. square\nB. circle\nC. triangle\nD. cross", "B"),
    ]
    assert render(scene, num_frames=4).mean() == pytest.approx(32.71, abs=0.01)
