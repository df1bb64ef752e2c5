"""Replies that cite frames: every reference is the middle of a window, in every arm and kind of question."""

import re

import pytest

from tinyvid import DataError
from tinyvid.data.formats import Moment
from tinyvid.data.traces import ARMS, KINDS, traces
from tinyvid.evaluation.scoring.references import marks

STOVE = Moment("v", 10.0, 14.0, "A man lights the stove.", where="a.json: 'v', event 1")
OIL = Moment("v", 30.0, 32.0, "He adds oil.", where="a.json: 'v', event 2")
EGGS = Moment("v", 40.0, 50.5, "Anna fries eggs", where="a.json: 'v', event 3")
FIRST = "In <frame:12> a man lights the stove, in <frame:31> he adds oil. Answer: "


def asked(moments, **options):
    return [
        (row["kind"], *(turn["value"] for turn in row["conversations"]), row["key_frames"])
        for row in traces(moments, **options)
    ]


def test_every_kind_of_question():
    assert asked([OIL, STOVE]) == [
        (
            "when",
            'When does this happen in the video: "A man lights the stove"? Give the start and the end.',
            "In <frame:12> a man lights the stove. Answer: From <time:10> to <time:14>.",
            [12.0],
        ),
        (
            "when",
            'When does this happen in the video: "He adds oil"? Give the start and the end.',
            "In <frame:31> he adds oil. Answer: From <time:30> to <time:32>.",
            [31.0],
        ),
        (
            "order",
            'Which of these happens first in the video: "He adds oil" or "A man lights the stove"?',
            f"{FIRST}a man lights the stove.",
            [12.0, 31.0],
        ),
        (
            "after",
            'What happens right after this in the video: "A man lights the stove"?',
            f"{FIRST}he adds oil.",
            [12.0, 31.0],
        ),
        (
            "before",
            'What happens right before this in the video: "He adds oil"?',
            f"{FIRST}a man lights the stove.",
            [12.0, 31.0],
        ),
    ]


def test_names_keep_their_capital():
    (row,) = traces([OIL, EGGS], kinds=["after"])
    assert (
        row["conversations"][1]["value"]
        == "In <frame:31> he adds oil, in <frame:45.25> Anna fries eggs. Answer: Anna fries eggs."
    )


@pytest.mark.parametrize("arm", ARMS)
def test_arms_differ_in_the_trace_only(arm):
    right, other = (asked([STOVE, OIL, EGGS], arm=name, seed=1) for name in ("cited", arm))
    assert len(right) == len(other) == 3 + 2 * 3
    middles = {"12", "31", "45.25"}
    for (kind, question, reply, frames), (*same, changed, key_frames) in zip(right, other, strict=True):
        assert (same, key_frames) == ([kind, question], frames)
        end = reply.rpartition("Answer: ")[2]
        assert changed.casefold().endswith(end.casefold())
        cited = set(re.findall("<frame:([0-9.]+)>", changed))
        assert all(10 <= float(second) <= 50.5 for second in cited) if arm == "shuffled" else cited <= middles
        assert ("<frame:" in changed) == (arm in ("cited", "shuffled"))
        assert ("Answer: " in changed) == (arm != "none")
    shuffled = asked([STOVE, OIL, EGGS], arm="shuffled", seed=1)
    assert shuffled != right
    assert shuffled == asked([EGGS, OIL, STOVE], arm="shuffled", seed=1)
    assert asked([STOVE, OIL, EGGS], kinds=["after"], arm="text")[0][2] == (
        "A man lights the stove, then he adds oil. Answer: he adds oil."
    )


def test_a_sentence_that_happens_twice_has_all_windows_but_no_order():
    again = Moment("v", 60.0, 61.0, "He adds oil.", where="a.json: 'v', event 4")
    (row,) = [row for row in traces([STOVE, OIL, again], kinds=["when"]) if len(row["key_frames"]) == 2]
    question, reply = (turn["value"] for turn in row["conversations"])
    assert question.endswith("Give the start and the end of every occurrence, the best match first.")
    assert reply == (
        "In <frame:31> he adds oil, in <frame:60.5> he adds oil. Answer: From <time:30> to <time:32> and from "
        "<time:60> to <time:61>."
    )
    with pytest.raises(DataError, match="event 4: 'He adds oil.' occurs 2 times, so its order is not clear"):
        list(traces([STOVE, OIL, again], kinds=["order"]))


def test_windows_that_overlap_are_refused_or_left_out():
    early = Moment("v", 13.9, 20.0, "He waves.", where="a.json: 'v', event 5")
    with pytest.raises(DataError, match=r"event 5: the window \[13.9, 20.0\] overlaps with \[10.0, 14.0\] of 'A man"):
        list(traces([STOVE, early, OIL]))
    faults = []
    rows = list(traces([STOVE, early, OIL], on_fault=faults.append))
    assert len(faults) == 1
    assert [row["kind"] for row in rows] == ["when"] * 3 + ["order", "after", "before"]
    twice = Moment("v", 12.0, 15.0, STOVE.sentence, where="a.json: 'v', event 6")
    with pytest.raises(DataError, match="event 6: windows of 'A man lights the stove.' overlap; join or separate them"):
        list(traces([STOVE, twice], kinds=["when"]))
    touching = Moment("v", 14.0, 15.0, "He waves.")
    assert len(list(traces([STOVE, touching]))) == 2 + len(KINDS) - 1


def test_shuffled_references_are_at_the_chance_level():
    shown = [10 + 40.5 * number / 31 for number in range(32)]
    found = []
    for seed in range(100):
        for _, _, reply, key_frames in asked([STOVE, OIL, EGGS], kinds=["after"], arm="shuffled", seed=seed):
            found.append(marks(reply, key_frames, shown))
    f1, chance = (sum(one[name] for one in found) / len(found) for name in ("reference_f1", "reference_f1_chance"))
    assert f1 == pytest.approx(chance, abs=0.05)


@pytest.mark.parametrize(
    "between",
    [
        [Moment("v", 5.0, 20.0, "It rains.", where="a.json: 'v', event 7")],  # goes on while the pair happens
        [Moment("v", 1.0, 2.0, "A dog barks."), Moment("v", 20.0, 25.0, "A dog barks.", where="a.json: 'v', event 7")],
    ],
    ids=["longer", "again"],
)
def test_what_happens_right_after_is_not_clear_with_another_event_in_between(between):
    faults = []
    rows = list(traces([STOVE, OIL, *between], on_fault=faults.append))
    assert [(row["kind"], row["key_frames"]) for row in rows if row["kind"] != "when"] == [("order", [12.0, 31.0])]
    assert "event 7: 'It rains.' happens between" in str(faults[-1]) or "'A dog barks.' happens" in str(faults[-1])
