"""Text next to frames: the format string, its runs, and finding frame labels in replies."""

import re

import pytest
import yaml

from tinyvid import ConfigError
from tinyvid.config import CONF_DIR
from tinyvid.text.frame_text import (
    FRAME_LABEL,
    PLAIN,
    FrameRun,
    FrameText,
    clock,
    long_time,
    reference,
    short_time,
)


def test_without_text_frames_are_one_run():
    assert FrameText()([0.0, 1.0, 2.0], ["", "", ""]) == [FrameRun("", 3)]
    assert FrameText("{video}")([0.0, 1.0], ["Hi", ""]) == [FrameRun("", 2)]
    assert FrameText()([], []) == []


def test_subtitles_split_only_the_frames_that_have_them():
    runs = FrameText()([0.0, 1.0, 2.0, 3.0], ["", "Hi.", "", "Bye."])
    assert runs == [FrameRun("", 2), FrameRun("Hi.", 2), FrameRun("Bye.", 0)]


def test_labels_times_and_subtitles():
    style = FrameText("Frame {i} ({time}, {clock}, {seconds} s): {video} {subtitle}\n")
    assert style([0.0, 3661.25], ["", "Hi {i}."]) == [
        FrameRun("Frame 1 (0:00, 00:00, 0.0 s): ", 1),
        FrameRun(" \nFrame 2 (1:01:01, 61:01, 3661.2 s): ", 1),
        FrameRun(" Hi {i}.\n", 0),
    ]


@pytest.mark.parametrize("style", [PLAIN, "{video}", "{video} ", FRAME_LABEL + "{video}", "{i}{video}{subtitle}\n"])
def test_no_frame_is_lost(style):
    runs = FrameText(style)([float(i) for i in range(7)], ["", "a", "b", "", "", "c", ""])
    assert sum(run.num_frames for run in runs) == 7
    assert all(run.num_frames for run in runs[:-1])
    assert FrameText(style).splits_frames == (style not in (PLAIN, "{video}"))


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("Frame {i}", r"template.frame='Frame \{i\}' contains \{video\} 0 times; write it once"),
        ("{video}{video}", r"contains \{video\} 2 times"),
        ("{video}{number}", "or a stray brace; use only {at}, {clock}, {i}, {seconds}, {subtitle}, {time}, {video}"),
        ("{video.__class__}", "has an unknown field or a stray brace"),
        ("{video!r}", "has an unknown field or a stray brace"),
        ("{seconds:.3f}{video}", "has an unknown field or a stray brace"),
        ("{{video}}", "has an unknown field or a stray brace"),
        ("{video}}", "has an unknown field or a stray brace"),
        ("{}{video}", "has an unknown field or a stray brace"),
    ],
)
def test_an_invalid_style_is_refused(style, message):
    with pytest.raises(ConfigError, match=message):
        FrameText(style)


@pytest.mark.parametrize(
    ("seconds", "short", "long", "minutes"),
    [
        (0.99, "0:00", "0:00:00", "00:00"),
        (61, "1:01", "0:01:01", "01:01"),
        (3599.9, "59:59", "0:59:59", "59:59"),
        (3661.9, "1:01:01", "1:01:01", "61:01"),
        (100000, "27:46:40", "27:46:40", "1666:40"),
    ],
)
def test_times(seconds, short, long, minutes):
    assert (short_time(seconds), long_time(seconds), clock(seconds)) == (short, long, minutes)


def test_a_heading_counts_the_frames_and_gives_the_duration():
    style = FrameText(heading="{count} = {count_words} frames from a {duration} video.\n")
    assert style.head(21, 3661.9) == "21 = twenty-one frames from a 1:01:01 video.\n"
    assert FrameText().head(21, 3661.9) == ""


@pytest.mark.parametrize("heading", ["{video}", "{count:d}", "{count", "{}", "{i} frames"])
def test_an_invalid_heading_is_refused(heading):
    with pytest.raises(ConfigError, match=r"template.heading=.* use only {count}, {count_words}, {duration}"):
        FrameText(heading=heading)


def test_the_time_of_a_frame_in_the_words_of_the_template():
    style = FrameText("{at} {video}\n")
    assert (style.shows_moments, style.splits_frames, FrameText().shows_moments) == (True, True, False)
    assert style([61.0, 62.0], ["", ""], ["00%", "50%"]) == [
        FrameRun("00% ", 1),
        FrameRun("\n50% ", 1),
        FrameRun("\n", 0),
    ]


def test_frame_labels_are_found_in_replies():
    written = "".join(run.text for run in FrameText(FRAME_LABEL + "{video}")([0.0] * 12, [""] * 12))
    assert numbers(written) == [str(i) for i in range(1, 13)]
    assert numbers("In Frame-3 and frame7, FRAME_11 (not frames 5, nor a wireframe 6 or Frame x).") == ["3", "7", "11"]
    assert numbers("see [4] and 5", reference("[{i}] ")) == ["4"]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Frames 3 and 5", ["3 and 5"]),
        ("frames 3, 5 & 7, then", ["3, 5 & 7"]),
        ("Frames 3, 5, and 7.", ["3, 5, and 7"]),
        ("Frames 3-5", []),
        ("Frames 3, 5-7", []),
        ("Frames 3 to 5", []),
        ("Frame 3, 5 dogs", ["3"]),
        ("Frame 3.5", []),
        ("Frame 1234567", []),
        ("Frame 3rd", []),
        ("Frame \u0663", []),
    ],
)
def test_lists_of_frames_are_found_and_ranges_are_not(reply, found):
    assert numbers(reply) == found


VIDEO_MODELS = ("chain_of_frames", "idefics3", "internvl", "llava", "smolvlm")  # whose templates label frames


def numbers(text, pattern=None):
    return [found[1] or found[2] for found in (pattern or reference()).finditer(text)]


@pytest.mark.parametrize("path", sorted((CONF_DIR / "template").glob("*.yaml")), ids=lambda path: path.stem)
def test_templates_of_llms_write_plain_frames_by_default(path):
    frame = yaml.safe_load(path.read_text())["frame"]
    assert (frame == PLAIN) == (path.stem not in VIDEO_MODELS)
    assert {"{video}", "{subtitle}"} <= set(re.findall(r"\{\w+\}", frame))
