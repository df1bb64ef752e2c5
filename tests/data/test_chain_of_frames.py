"""Published rows of Chain-of-Frames: every spelling of a reference, augmentations, traces, and what is refused."""

import contextlib
import re
import time

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.factories import NUMBERED_FRAMES
from tests.runs import turns
from tinyvid import Assistant, Message, Sample, Video, compose
from tinyvid.data.chain_of_frames import UnusableRow, convert_row, notes_on, num_references, without_references
from tinyvid.data.traces import ARMS
from tinyvid.evaluation.scoring.references import marks
from tinyvid.types import IGNORE_INDEX

REPLY = (
    "**Reasoning:** The gray cube appears in Frame 3 and the red sphere enters in Frames 12-14 (Frame-12). "
    "**Answer:** gray cube"
)


def row_of(reply=REPLY, **keys):
    """A row as its authors' loader reads it."""
    question = "<video>\nGiven a video and a question, reason step by step.\nQuestion: What appears first?"
    return {"video": "clevrer/video_10009.mp4", "conversations": turns(question, reply), "length": 812} | keys


def reply_of(row):
    return row["conversations"][1]["value"]


def converted(text, **keys):
    return reply_of(convert_row(row_of(text, **keys), "cof_data.jsonl:1"))


def test_a_row_becomes_a_row_with_times():
    found = convert_row(row_of(), "cof_data.jsonl:1")
    assert reply_of(found) == (
        "**Reasoning:** The gray cube appears in <frame:2.5> and the red sphere enters in <frame:11.5> to <frame:13.5> "
        "(<frame:11.5>). **Answer:** gray cube"
    )
    assert found["key_frames"] == [2.5, 11.5, 13.5]
    assert found["conversations"][0]["value"].startswith("<video>\nGiven a video")
    assert found.keys() == {"id", "video", "conversations", "source", "key_frames"}
    assert num_references(found) == 4
    other = convert_row(row_of("It falls."), "cof_data.jsonl:1")
    assert "key_frames" not in other
    assert other["id"] != found["id"] == convert_row(row_of(), "elsewhere:9")["id"]


SPELLINGS = {
    "Frame 7": "{7}",
    "FRAME-7": "{7}",
    "Frame7": "{7}",
    "<Frame-7>": "{7}",
    "frame_7": "{7}",
    "frame #7": "{7}",
    "Frame number 7": "{7}",
    "(Frame 5)": "({5})",
    "Frame 5's": "{5}'s",
    "Frames 3-5": "{3} to {5}",
    "Frames 3 – 5": "{3} to {5}",
    "Frame 3-5": "{3} to {5}",
    "from Frame 3 to 5.": "from {3} to {5}.",
    "Frame 3 to Frame 5": "{3} to {5}",
    "Frames 1, 2, and 30": "{1}, {2}, and {30}",
    "Frames 3 & 4": "{3} and {4}",
    "Frame 5, 3 objects": "{5}, 3 objects",
    "Frame 3 and 5 people": "{3} and 5 people",
    "the frame rate of 30 frames": "the frame rate of 30 frames",
}


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_spelling_of_a_reference(text):
    assert converted(text) == re.sub(r"\{(\d+)\}", lambda found: f"<frame:{int(found[1]) - 0.5}>", SPELLINGS[text])


@pytest.mark.parametrize(
    ("row", "reason", "message"),
    [
        (row_of("In Frame 31."), "references outside the frames", "Frame 31 is not one of Frame 1 to 30"),
        (row_of("In Frame 0."), "references outside the frames", "Frame 0 is not one of"),
        (row_of("Frames 28-31"), "references outside the frames", "Frame 31"),
        (row_of("Frame 9", num_segments=8), "references outside the frames", "Frame 9 is not one of Frame 1 to 8"),
        (row_of("Frame 3", indices=[4, 5]), "references outside the frames", "Frame 3 is not one of Frame 1 to 2"),
        (row_of("Frame 5.5"), "references that are not understood", "'Frame 5.5' is not understood"),
        (row_of("Keyframe 5"), "references that are not understood", "'frame 5' is not understood"),
        (row_of(aug="rev"), "aug=rev", "aug='rev' reverses the frames"),
        (row_of(aug=["gau", "vflip"]), "aug=vflip", "aug='vflip' flips the frames"),
        (row_of(aug="hue"), "aug=hue", "aug='hue' is unknown"),
        (row_of(indices=[5, 3]), "indices that change the order", "'indices' change the order"),
        (row_of(indices=[30]), "malformed rows", r"indices=\[30\] must be a list of numbers below 30"),
        (row_of(output_images=[3]), "rows with 'output_images'", "the row has 'output_images'"),
        (row_of(num_segments=0), "malformed rows", "num_segments=0 must be a whole number"),
        ({"cof": {"root": "clips", "annotation": "a.jsonl"}}, "malformed rows", "give cof_data.jsonl, not the meta"),
        ({"video": "a.mp4", "conversations": ["Hi"]}, "malformed rows", "a turn needs 'from' and 'value'"),
    ],
)
def test_a_row_that_cannot_be_converted_is_named_by_its_line(row, reason, message):
    with pytest.raises(UnusableRow, match=f"^cof_data.jsonl:7: .*{message}") as error:
        convert_row(row, "cof_data.jsonl:7")
    assert error.value.reason == reason


def test_references_count_the_frames_in_their_final_order():
    row = convert_row(row_of("In Frame 1 and Frame 3.", indices=[10, 12, 14], num_segments=15), "x:1")
    assert reply_of(row) == "In <frame:21> and <frame:29>."
    assert row["clip"] == [20.0, 30.0]
    assert converted("Frame 2", aug="gau", num_segments=60) == "<frame:0.75>"


def test_the_summary_says_what_is_not_used():
    assert notes_on(row_of(clip=[0, 30], aug="gau")) == ["'clip' is not used", "frames are not blurred (aug=gau)"]
    assert notes_on(row_of("In the fifth frame.")) == ["frames named in words are kept as text"]
    assert notes_on(row_of()) == []


def test_the_four_arms_differ_only_in_the_trace():
    arms = {arm: convert_row(row_of(), "x:1", arm=arm) for arm in ARMS}
    assert reply_of(arms["none"]) == "gray cube"
    assert reply_of(arms["text"]) == (
        "**Reasoning:** The gray cube appears and the red sphere enters. **Answer:** gray cube"
    )
    cited, shuffled = (re.sub(r"<frame:[\d.]+>", "#", reply_of(arms[name])) for name in ("cited", "shuffled"))
    assert cited == shuffled
    assert reply_of(arms["cited"]) != reply_of(arms["shuffled"])
    assert len({tuple(row.pop("key_frames")) for row in arms.values()}) == 1
    same = [{**row, "conversations": row["conversations"][:1]} for row in arms.values()]
    assert same.count(same[0]) == 4
    with pytest.raises(UnusableRow, match="the reply has no 'Answer:'"):
        convert_row(row_of("In Frame 3."), "x:1", arm="none")


def test_shuffled_references_are_at_the_chance_level():
    times = [number + 0.5 for number in range(30)]
    found = []
    for number in range(300):
        row = convert_row(row_of(f"In Frame 3 and Frame 20. Answer: {number}"), "x:1", arm="shuffled")
        found.append(marks(reply_of(row), row["key_frames"], times))
    f1, chance = (sum(one[name] for one in found) / 300 for name in ("reference_f1", "reference_f1_chance"))
    assert f1 == pytest.approx(chance, abs=0.05)


def test_a_text_without_references_stays_a_text():
    text = "In <frame:1.5>, a dog runs (<frame:2.5>). **<frame:3>**: it jumps. <frame:3> and <frame:4> show a cat."
    assert without_references(text) == "A dog runs. it jumps. The frames show a cat."


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.sampled_from(["Frame {}", "Frame-{}", "(frame{})"]))
def test_as_many_references_are_converted_as_are_written(numbers, spelling):
    text = ". ".join(spelling.format(number) for number in numbers)
    row = convert_row(row_of(text), "x:1")
    assert num_references(row) == len(numbers)
    assert row["key_frames"] == [number - 0.5 for number in dict.fromkeys(numbers)]


@pytest.mark.slow
def test_under_the_published_sampling_a_reference_has_its_published_number():
    overrides = [*NUMBERED_FRAMES, "sampler=midpoint", "sampler.num_frames=30"]
    processor = Assistant.from_config(compose(overrides), device="meta").processor
    reply = " ".join(f"Frame {number}." for number in range(1, 31))
    row = convert_row(row_of(reply), "x:1")
    messages = [Message("user", "Q?"), Message("assistant", reply_of(row))]
    clip = Video(np.zeros((75, 16, 16, 3), np.uint8), fps=2.5)
    example = processor(Sample(messages, video=clip))
    assert processor.reply(example.input_ids[example.labels != IGNORE_INDEX]) == reply


@pytest.mark.parametrize("text", ["Frames 3, 3, ", "Frame 3 and ", "<frame:1> and ", "in the ", " (", "**"])
def test_repetitive_texts_are_read_in_linear_time(text):
    begun = time.perf_counter()
    for arm in ("text", "none"):
        with contextlib.suppress(UnusableRow):
            convert_row(row_of(text * 4000), "x:1", arm=arm)
    assert time.perf_counter() - begun < 5
