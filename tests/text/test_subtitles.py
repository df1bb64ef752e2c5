"""Subtitle files to cues, and cues to frames: formats, broken files, and edge cases of placement."""

import json
import math

import pytest

from tests import permissions
from tinyvid import DataError
from tinyvid.text.subtitles import MAX_BYTES, place, read_subtitles
from tinyvid.types import Cue

SRT = """1
00:00:01,000 --> 00:00:02,500
It was the year

2
00:00:03,000 --> 00:00:04,000
1984

3
00:01:00,500 --> 00:01:02,000
<i>Two lines,</i>
{\\an8}one cue.

"""


def srt(tmp_path, text, name="film.srt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_srt_with_a_number_as_dialogue(tmp_path):
    assert read_subtitles(srt(tmp_path, SRT)) == (
        Cue(1.0, 2.5, "It was the year"),
        Cue(3.0, 4.0, "1984"),
        Cue(60.5, 62.0, "Two lines, one cue."),
    )


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings_and_a_byte_order_mark_change_nothing(tmp_path, ending):
    path = tmp_path / "film.srt"
    path.write_bytes(b"\xef\xbb\xbf" + SRT.replace("\n", ending).encode())
    assert [cue.text for cue in read_subtitles(path)] == ["It was the year", "1984", "Two lines, one cue."]


def test_digits_at_the_end_of_a_text_are_text_unless_they_count_on(tmp_path):
    text = "1\n00:00:01,000 --> 00:00:02,000\nThe answer is\n42\n\n2\n00:00:03,000 --> 00:00:04,000\nIndeed.\n"
    assert [cue.text for cue in read_subtitles(srt(tmp_path, text))] == ["The answer is 42", "Indeed."]
    no_blank_line = text.replace("\n\n", "\n")
    assert [cue.text for cue in read_subtitles(srt(tmp_path, no_blank_line))] == ["The answer is 42", "Indeed."]


def test_srt_without_counters_and_with_blank_lines_in_a_text(tmp_path):
    text = "00:00:01,000 --> 00:00:02,000\nOne\n\nand a half\n\n00:00:03,000 --> 00:00:04,000\n7\n"
    assert [cue.text for cue in read_subtitles(srt(tmp_path, text))] == ["One and a half", "7"]


def test_cues_are_sorted_by_start_and_empty_ones_are_dropped(tmp_path):
    text = "1\n00:00:05,000 --> 00:00:06,000\nlater\n\n2\n00:00:01,000 --> 00:00:02,000\n\n\n"
    text += "3\n00:00:01,000 --> 00:00:09,000\nearlier\n"
    assert [cue.text for cue in read_subtitles(srt(tmp_path, text))] == ["earlier", "later"]


def test_an_empty_file_has_no_cues(tmp_path):
    assert read_subtitles(srt(tmp_path, "")) == ()
    assert read_subtitles(srt(tmp_path, "\n \n")) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hello\n", r"film.srt:1: expected a cue \(a number, then its times\), found 'Hello'"),
        ("1\n00:00:01 -> 00:00:02\nHi\n", "film.srt:1: expected a cue"),
        ("1\n00:00:01,000 --> soon\nHi\n", "film.srt:2: invalid times '00:00:01,000 --> soon'; expected"),
        ("1\n00:00:05,000 --> 00:00:02,000\nHi\n", "film.srt:2: the cue ends at 2 s, before its start at 5 s"),
        ("1\n00:00:01,000 --> 00:00:02,000\nHi\n\n2\nThere\n", "film.srt:5: a cue without a line of times begins here"),
        ("1\n00:00:01,000 --> 00:00:02,000\nHi\n2\n00:00:03,000\nThere\n", "film.srt:5: a cue without a line of times"),
    ],
)
def test_broken_srt_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_subtitles(srt(tmp_path, text))


def test_web_vtt(tmp_path):
    text = """WEBVTT - a title

NOTE a comment

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.500 align:start position:10%
<v Fred>Hi &amp; <b>bye</b>

01:00:00.000 --> 01:00:01.000
<00:00:01.000>1984

NOTE another
"""
    assert read_subtitles(srt(tmp_path, text, "film.vtt")) == (
        Cue(1.0, 2.5, "Fred: Hi & bye"),
        Cue(3600.0, 3601.0, "1984"),
    )


def test_web_vtt_without_its_header_is_refused(tmp_path):
    with pytest.raises(DataError, match="film.vtt:1: a WebVTT file must begin with 'WEBVTT', found '1'"):
        read_subtitles(srt(tmp_path, SRT, "film.vtt"))


def as_json(tmp_path, content):
    return srt(tmp_path, json.dumps(content), "film.json")


def test_both_forms_of_longvideobench(tmp_path):
    first = [
        {"start": "00:00:01.000", "end": "00:00:02.500", "line": "Hi"},
        {"start": "0:03", "end": "0:04", "line": "Yo"},
    ]
    assert read_subtitles(as_json(tmp_path, first)) == (Cue(1.0, 2.5, "Hi"), Cue(3.0, 4.0, "Yo"))
    second = [{"timestamp": [1.0, 2.5], "text": "Hi"}, {"timestamp": [3, None], "text": "Yo"}]
    assert read_subtitles(as_json(tmp_path, second)) == (Cue(1.0, 2.5, "Hi"), Cue(3.0, math.inf, "Yo"))


def test_both_forms_of_whisper(tmp_path):
    segments = {"text": "...", "segments": [{"start": 0.0, "end": 2.0, "text": " Hi", "avg_logprob": -2.5}]}
    chunks = {"text": "...", "chunks": [{"timestamp": [0.0, 2.0], "text": " Hi"}]}
    for content in (segments, chunks):
        assert read_subtitles(as_json(tmp_path, content)) == (Cue(0.0, 2.0, "Hi"),)
    assert read_subtitles(as_json(tmp_path, segments), min_logprob=-2) == ()
    with pytest.raises(DataError, match="item 0: 'avg_logprob' is None"):
        read_subtitles(as_json(tmp_path, chunks), min_logprob=-2)


def test_an_offset_moves_every_cue(tmp_path):
    content = [{"timestamp": [61.0, 62.5], "text": "Hi"}]
    assert read_subtitles(as_json(tmp_path, content), offset=-60.0) == (Cue(1.0, 2.5, "Hi"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"words": []}, "needs 'segments' or 'chunks', has words"),
        ("hello", "must be a list of objects"),
        ([[0, 1, "Hi"]], "must be a list of objects"),
        ([{"start": 0, "end": 1}], "item 0 needs 'text' or 'line'"),
        ([{"start": 0, "text": "Hi"}, {"start": 1, "end": 2, "text": "Yo"}], "item 0: the time is None"),
        ([{"start": True, "end": 1, "text": "Hi"}], "item 0: the time is True"),
        ([{"start": "soon", "end": 1, "text": "Hi"}], "item 0: the time is 'soon'; expected a number, or for times"),
        ([{"start": 3, "end": 1, "text": "Hi"}], "item 0 ends at 1 s, before its start at 3 s"),
        ([{"timestamp": [1], "text": "Hi"}], r"item 0: 'timestamp' must be \[start, end\]"),
    ],
)
def test_broken_json_cues_are_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_subtitles(as_json(tmp_path, content))


@pytest.mark.parametrize("closed", ["film.srt", "."])
def test_missing_permissions_are_named(closed):
    with permissions.public_folder() as folder:
        path = srt(folder, SRT, "film.srt")
        (folder / closed).chmod(0)
        with permissions.unprivileged(), pytest.raises(DataError, match="check (its|the) permissions"):
            read_subtitles(path)
        folder.chmod(0o700)


def test_files_that_are_not_subtitles_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"film.json:1: is not JSON"):
        read_subtitles(srt(tmp_path, "[{]", "film.json"))
    with pytest.raises(DataError, match="is not JSON"):
        read_subtitles(srt(tmp_path, "[" * 100_000, "film.json"))
    with pytest.raises(
        DataError, match=r"film.ass: unsupported subtitle format '.ass'.*Available: \.json, \.srt, \.vtt"
    ):
        read_subtitles(srt(tmp_path, "", "film.ass"))
    with pytest.raises(DataError, match="subtitle file '.*' does not exist"):
        read_subtitles(tmp_path / "nowhere.srt")
    for name in ("x" * 400 + ".srt", "~nosuchuser/a.srt", "a\0.srt"):
        with pytest.raises(DataError, match="subtitle file '.*' does not exist"):
            read_subtitles(name)
    latin = tmp_path / "latin.srt"
    latin.write_bytes(SRT.replace("year", "année").encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.srt: is not UTF-8 \(byte 46\); convert it"):
        read_subtitles(latin)
    large = tmp_path / "large.srt"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="large.srt: has 16,777,217 bytes, more than"):
        read_subtitles(large)


SECONDS = [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("cues", "texts"),
    [
        ([Cue(0.2, 1.5, "a"), Cue(1.6, 1.9, "b")], ["", "a b", "", ""]),  # the last frame before the end
        ([Cue(1.0, 2.0, "a")], ["", "a", "", ""]),  # a cue that ends as a frame begins does not go to it
        ([Cue(0.0, 0.0, "a")], ["a", "", "", ""]),  # ends as the first frame begins: never the last frame
        ([Cue(2.5, math.inf, "a")], ["", "", "", "a"]),
        ([Cue(90.0, 91.0, "a")], ["", "", "", "a"]),  # nothing is dropped without bounds
        ([Cue(0.0, 2.5, "a"), Cue(0.5, 0.9, "b")], ["", "", "a b", ""]),  # overlapping: sorted by start
        ([], ["", "", "", ""]),
    ],
)
def test_a_cue_goes_to_the_last_frame_before_it_ends(cues, texts):
    assert place(cues, SECONDS) == texts


def test_before_the_first_frame_and_outside_the_clip():
    cues = [Cue(1.0, 3.0, "before"), Cue(11.0, 12.0, "early"), Cue(14.5, 16.0, "in"), Cue(20.0, 21.0, "after")]
    assert place(cues, [15.0, 17.0], start=10.0, end=20.0) == ["early in", ""]
    assert place(cues, [15.0, 17.0]) == ["before early in", "after"]
