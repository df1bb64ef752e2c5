"""Marks of cited frames: exact values, laws over random cases, and which part of a reply is the answer."""

from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.clips import write_clip
from tinyvid import VIDEO_READERS, DataError, Item, Message, Outcome, Sample, Video
from tinyvid.evaluation.scoring.references import (
    SHARES,
    answer_part,
    check_key_frames,
    cited_frames,
    expected_f1,
    key_frames_of,
    marks,
    num_met,
)
from tinyvid.evaluation.scoring.scores import check_answers, rescore
from tinyvid.video.open_video import open_video

TIMES = [number / 2 for number in range(16)]  # 0 to 7.5 s
frames = st.lists(st.integers(0, 15), min_size=1, max_size=6, unique=True)


def write(cited):
    return "".join(f"In <frame:{-1 if frame is None else TIMES[frame]:g}> it moves. " for frame in cited)


def item_of(key_frames, *, rule="exact", answer="red", video="clip.mp4", **options):
    sample = Sample([Message("user", "Q?")], video=video, meta={"key_frames": key_frames})
    return Item("q", sample, rule=rule, answer=answer, **options)


def scored(item, reply):
    return rescore(item, Outcome("q", "answered", None, reply=reply, shown=TIMES))


def test_the_marks_of_a_reply_by_hand():
    found = marks(write([2, 3, 12, None]), [TIMES[2], TIMES[8]], TIMES)
    chance = found.pop("reference_f1_chance")
    assert found == {
        "references": 4,
        "reference_validity": 3 / 4,
        "reference_precision": 1 / 4,  # 2 and 3 are both near 2, which is met once
        "reference_recall": 1 / 2,
        "reference_f1": 2 / 6,
        "reference_order": 1,
    }
    every = [num_met(drawn, [2, 8]) for drawn in combinations(range(16), 4)]
    assert chance == pytest.approx(2 * fmean(every) / 6)
    assert set(found) | {"reference_f1_chance"} == {"references", *SHARES}


def test_without_references_recall_and_f1_are_0_also_for_an_item_that_was_not_asked():
    expected = {"references": 0, "reference_recall": 0, "reference_f1": 0, "reference_f1_chance": 0}
    assert marks("It moves in the middle.", [1.0], TIMES) == expected
    failed = rescore(item_of([1.0]), Outcome("q", "media_failed", None))
    assert (failed.value, failed.points) == (0.0, expected)
    likely = rescore(item_of([1.0]), Outcome("q", "answered", None, likelihoods={"red": -1.0}, shown=TIMES))
    assert likely.points == {}, "no reply was asked for"


def test_a_number_that_was_not_shown_is_invalid_and_a_repeated_frame_counts_once():
    found = marks(write([4, 4, None]), [TIMES[4]], TIMES)
    assert (found["references"], found["reference_validity"]) == (3, 2 / 3)
    assert (found["reference_precision"], found["reference_recall"]) == (1 / 2, 1)


def test_the_order_is_that_of_the_key_frames():
    keys = [TIMES[12], TIMES[4], TIMES[8]]
    assert marks(write([12, 4, 8]), keys, TIMES)["reference_order"] == 1
    assert marks(write([4, 12, 0, 8]), keys, TIMES)["reference_order"] == 1 / 2
    assert "reference_order" not in marks(write([4, 0]), keys, TIMES)


def test_references_stand_for_the_nearest_shown_frame():
    assert cited_frames("<frame:0.2> <frame:0.3> <frame:99> <frame:-1> <time:1>", TIMES) == [0, 1, 15, None]
    assert cited_frames("<frame:1>", []) == [None]


@given(frames)
def test_key_frames_against_themselves_have_1_in_every_mark(keys):
    found = marks(write(keys), [TIMES[key] for key in keys], TIMES)
    assert {found[name] for name in SHARES if name in found and name != "reference_f1_chance"} == {1.0}


@given(frames, frames, st.randoms())
def test_the_order_of_references_changes_only_its_own_mark(cited, keys, rng):
    seconds = [TIMES[key] for key in keys]
    mixed = rng.sample(cited, len(cited))
    one, other = (marks(write(order), seconds, TIMES) for order in (cited, mixed))
    assert one | {"reference_order": 0} == other | {"reference_order": 0}
    assert all(0 <= one[name] <= 1 for name in SHARES if name in one)


@given(frames, frames)
def test_as_many_pairs_are_met_as_an_exhaustive_search_finds(cited, keys):
    def most(cited, free):
        if not cited:
            return 0
        near = [key for key in free if abs(key - cited[0]) <= 1]
        return max([most(cited[1:], free), *(1 + most(cited[1:], free - {key}) for key in near)])

    assert num_met(sorted(cited), sorted(keys)) == most(sorted(cited), frozenset(keys))


@pytest.mark.parametrize(("num_cited", "keys"), [(1, [5]), (1, [0]), (2, [3, 4]), (3, [0, 7, 8, 15]), (5, [2, 9])])
def test_the_chance_level_is_the_mean_over_all_choices(num_cited, keys):
    every = [2 * num_met(drawn, keys) / (num_cited + len(keys)) for drawn in combinations(range(16), num_cited)]
    assert expected_f1(num_cited, keys, 16) == pytest.approx(fmean(every))


def test_a_model_that_cites_at_random_is_at_the_chance_level():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        keys, cited = (sorted(rng.choice(16, size=2, replace=False).tolist()) for _ in range(2))
        found.append(marks(write(cited), [TIMES[key] for key in keys], TIMES))
    f1, chance = (fmean(one[name] for one in found) for name in ("reference_f1", "reference_f1_chance"))
    assert f1 == pytest.approx(chance, abs=0.04)
    assert expected_f1(1, [8], 16) == pytest.approx(3 / 16), "(2 * tolerance + 1) / T"
    everything = marks(write(range(16)), [TIMES[2], TIMES[9]], TIMES)
    assert everything["reference_f1"] == pytest.approx(everything["reference_f1_chance"]) == 4 / 18


def test_of_a_reply_with_references_the_rules_read_only_the_answer():
    trace = "In <frame:1.5> the red circle appears, in <frame:3> the blue square. "
    found = scored(item_of([1.5], rule="contains"), trace)
    assert (found.status, found.value, found.points["references"]) == ("unparsed", 0.0, 2)
    for rule, answer, options in (
        ("exact", "red", {}),
        ("contains", "red", {}),
        ("number", "3", {}),
        ("choice", "B", {"A": "blue", "B": "red"}),
        ("label", "r", {"b": "blue", "r": "red"}),
        ("yes_no", "no", {}),
    ):
        item = item_of([1.5], rule=rule, answer=answer, options=options)
        right, wrong = item.options.get(answer, answer), {"exact": "blue", "yes_no": "yes"}.get(rule, "blue")
        assert scored(item, f"{trace}Answer: {right}").value == 1.0, rule
        assert scored(item, f"{trace}{right}. **Answer:** {wrong}").value == 0.0, rule
        assert scored(item, f"{trace}{right} Answer:").status == "unparsed", rule
    assert scored(item_of([1.5], rule="number", answer="3"), "In <frame:3> it jumps").status == "unparsed"


def test_items_without_key_frames_are_read_as_before():
    item = item_of(None, rule="contains")
    found = scored(item, "In frame 3, red. Answer: blue")
    assert (found.value, found.points, key_frames_of(item), key_frames_of(item_of([]))) == (1.0, {}, (), ())


def test_the_answer_is_what_follows_the_last_statement():
    assert answer_part("Answer: a dog. In <frame:1> a cat. Final answer: a cat", "exact") == " a cat"
    assert answer_part("<think>In <frame:1>. Answer: dog</think>cat", "exact") == "cat"


@pytest.mark.parametrize("given", ["3.5", 3.5, [1, None], [-1.0], [float("nan")], [True], {"a": 1}])
def test_malformed_key_frames_are_refused(given):
    with pytest.raises(DataError, match="item 'q': key_frames=.* must be a list of times"):
        check_answers(item_of(given))


def test_key_frames_need_one_video_that_contains_them(tmp_path):
    with pytest.raises(DataError, match="exactly one video, got 2"):
        key_frames_of(item_of([1.0], video=["a.mp4", "b.mp4"]))
    write_clip(tmp_path / "clip.mp4", num_frames=20, fps=10)
    clip = open_video(Video(tmp_path / "clip.mp4", start=0.5), VIDEO_READERS.build({"name": "pyav"}))
    check_key_frames(item_of([0.5, 2.0]), [clip])
    with pytest.raises(DataError, match="the key frame at 0.4 s is not in the clip from 0.5 to 2 s"):
        check_key_frames(item_of([1.0, 0.4]), [clip])
