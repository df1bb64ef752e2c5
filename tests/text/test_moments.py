"""Moments: every codec writes times and frames that it reads back, for every clip."""

import math
import re

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tinyvid import ConfigError, DataError, VideoInput
from tinyvid.text.moments import (
    MARKER,
    NOT_SHOWN,
    TOLERANCE,
    MomentError,
    Moments,
    has_markers,
    marker,
    nearest,
    without_markers,
)

CODECS = {
    "plain": Moments(),
    "digits": Moments("{:06.1f} seconds"),
    "percent": Moments("{:02d}%", 100),
    "relative": Moments("<|t{:03d}|>", 256),
    "json": Moments("{:.1f}"),
    "whole": Moments("second {:.0f}"),
    "word": Moments("t{:d}", 1000),
}
STEPS = {name: codec for name, codec in CODECS.items() if codec.steps}
MINUTE = VideoInput(10.0, 70.0, tuple(10.0 + 4 * number for number in range(16)))
codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
few = settings(max_examples=20)  # of each codec
steps = pytest.mark.parametrize("codec", STEPS.values(), ids=STEPS)


@st.composite
def clips(draw):
    """Clips with an offset, of any length, with one frame or several, which may repeat."""
    start, duration = draw(st.floats(0, 5000)), draw(st.just(0.0) | st.floats(0.01, 10_000))
    shares = sorted(draw(st.lists(st.floats(0, 1), min_size=1, max_size=20)))
    return VideoInput(start, start + duration, tuple(start + share * duration for share in shares))


def error(codec, clip):
    """Return the rounding error of a codec, with that of two markers."""
    decimals = re.search(r"\.(\d)f", codec.style)
    rounding = (clip.end - clip.start) / codec.steps / 2 if codec.steps else 0.5 * 10 ** -int(decimals[1])
    return rounding + 0.0011


def second(text):
    return float(MARKER.search(text)[2])


@codecs
@few
@given(clip=clips(), share=st.floats(0, 1))
def test_a_time_is_read_back_within_the_rounding_of_its_codec(codec, clip, share):
    time = clip.start + share * (clip.end - clip.start)
    written = codec.write(f"From {marker('time', time)}, it rains.", clip)
    assert not has_markers(written)
    read = codec.read(written, clip)
    assert re.fullmatch(r"From <time:[0-9.]+>, it rains\.", read)
    assert abs(second(read) - time) <= error(codec, clip)
    assert codec.read(read, clip) == read


@codecs
@few
@given(clip=clips(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_later_times_have_larger_numbers(codec, clip, shares):
    numbers = [
        float(re.search(r"[0-9.]+", codec.time(clip.start + share * (clip.end - clip.start), clip))[0])
        for share in sorted(shares)
    ]
    assert numbers == sorted(numbers)


@steps
@few
@given(clip=clips())
def test_the_start_is_the_first_step_and_the_end_is_the_last(codec, clip):
    assert codec.time(clip.start, clip) == codec.words[0]
    assert codec.time(clip.end, clip) == codec.words[-1 if clip.end > clip.start else 0]


@codecs
@few
@given(clip=clips(), data=st.data())
def test_what_was_read_is_written_as_the_same_words(codec, clip, data):
    if codec.steps and clip.end - clip.start < codec.steps / 500:
        clip = MINUTE  # steps shorter than the last decimal of a marker
    written = codec.time(data.draw(st.sampled_from((clip.start, clip.end, (clip.start + clip.end) / 2))), clip)
    read = codec.read(written, clip)
    if second(read) <= clip.end + TOLERANCE:  # whole seconds can round to one after the end
        assert codec.write(read, clip) == written


@codecs
@few
@given(clip=clips(), share=st.floats(0, 1))
def test_a_frame_is_the_nearest_that_is_shown(codec, clip, share):
    time = clip.start + share * (clip.end - clip.start)
    written = codec.write(f"See {marker('frame', time)}.", clip)
    number = int(re.fullmatch(r"See Frame (\d+)\.", written)[1])
    distance = min(abs(shown - second(marker("time", time))) for shown in clip.times)
    assert abs(clip.times[number - 1] - second(marker("time", time))) == pytest.approx(distance, abs=1e-6)
    assert codec.read(written, clip) == f"See {marker('frame', clip.times[number - 1])}."


def test_a_frame_is_found_again_when_others_are_shown():
    text = "It opens in <frame:13.9> and closes in <frame:66>."
    assert Moments().write(text, MINUTE) == "It opens in Frame 2 and closes in Frame 15."
    every_second = VideoInput(10.0, 70.0, tuple(float(time) for time in range(10, 71)))
    assert Moments().write(text, every_second) == "It opens in Frame 5 and closes in Frame 57."
    assert Moments().write(text, VideoInput(10.0, 70.0, (40.0,))) == "It opens in Frame 1 and closes in Frame 1."


def test_the_nearest_of_several_is_the_first():
    times = (0.0, 1.0, 1.0, 4.0)
    assert [nearest(times, time) for time in (-1, 0.4, 0.5, 0.6, 1, 1.2, 2.5, 2.6, 9)] == [0, 0, 0, 1, 1, 1, 1, 3, 3]


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("plain", "From 2.4 s to 60.0 s, in Frame 2."),
        ("digits", "From 0002.4 seconds to 0060.0 seconds, in Frame 2."),
        ("percent", "From 04% to 100%, in Frame 2."),
        ("relative", "From <|t010|> to <|t256|>, in Frame 2."),
        ("json", "From 2.4 to 60.0, in Frame 2."),
    ],
)
def test_the_words_of_a_codec(codec, words):
    assert CODECS[codec].write("From <time:12.4> to <time:70>, in <frame:13.9>.", MINUTE) == words


def test_a_row_can_contain_json():
    row = '{"start_time": <time:12.4>, "end_time": <time:70>}'
    assert CODECS["json"].write(row, MINUTE) == '{"start_time": 2.4, "end_time": 60.0}'
    assert CODECS["json"].read('{"start_time":2.4,"end_time":60.0, "dogs": 2}', MINUTE) == (
        '{"start_time":<time:12.4>,"end_time":<time:70>, "dogs": 2}'
    )


@pytest.mark.parametrize(
    ("codec", "reply", "read"),
    [
        ("plain", "2.4 s-9 s", "<time:12.4>-<time:19>"),
        ("plain", "2-9.0 s", "2-<time:19>"),
        ("plain", "-3.0 s (-4.0 s) 5 seconds, 6s, 1.5.2 s, x7 s", "-3.0 s (-4.0 s) 5 seconds, 6s, 1.5.2 s, x7 s"),
        ("plain", "at 61.5 s", "at <time:71.5>"),
        ("plain", "at \u0663 s, at 12345678901 s", "at \u0663 s, at 12345678901 s"),
        ("percent", "5%-9%, 12.5%", "<time:13>-<time:15.4>, 12.5%"),
        ("relative", "<|t256|><|t300|><|t1|>", "<time:70><time:80.312><time:10.234>"),
        ("json", "2 dogs, 2.45, 2.4, v1.2, 2.4.1", "2 dogs, 2.45, <time:12.4>, v1.2, 2.4.1"),
        ("plain", "frame-2, Frame16, FRAME 17, Frame 0", f"<frame:14>, <frame:70>, {NOT_SHOWN}, {NOT_SHOWN}"),
        ("plain", "Frames 2, 3 and 99", f"<frame:14>, <frame:18> and {NOT_SHOWN}"),
        ("plain", "Frames 2-4, wireframe 3", "Frames 2-4, wireframe 3"),
        ("word", "t1000 at1 t1s", "<time:70> at1 t1s"),
    ],
)
def test_what_is_read_in_a_reply(codec, reply, read):
    assert CODECS[codec].read(reply, MINUTE) == read


@codecs
@few
@given(text=st.text(st.sampled_from("<|t>0123456789.%s- Framedecon:\n"), max_size=60))
def test_any_reply_is_read(codec, text):
    read = codec.read(text, MINUTE)
    assert codec.read(read, MINUTE) == read
    if not codec.steps:
        assert codec.in_seconds(text, MINUTE) == text


@steps
@few
@given(text=st.text(st.sampled_from("<|t>0123456789.%s ab"), max_size=60), data=st.data())
def test_a_stream_equals_the_reply_however_it_is_cut(codec, text, data):
    text = "".join(data.draw(st.lists(st.sampled_from([*codec.words[:3], codec.words[-1], text, "x"]), max_size=6)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[first:last] for first, last in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert "".join(codec.stream(pieces, MINUTE)) == codec.in_seconds(text, MINUTE)


def test_only_what_may_be_a_time_waits_for_the_next_piece():
    shown, end = [], []

    def read():
        end.append(
            (yield from CODECS["relative"].stream(["It <", "b", "> at <", "|t01", "0|", "> and <|", "t"], MINUTE))
        )

    for piece in read():
        assert "<|t0" not in piece
        shown.append(piece)
    assert shown == ["It ", "<b", "> at ", "", "", "12.3 s and ", "", "<|t"]
    assert end == ["It <b> at <|t010|> and <|t"]
    assert list(CODECS["plain"].stream(["1", ".5 s"], MINUTE)) == ["1", ".5 s", ""]
    assert CODECS["relative"].in_seconds("<|t010|>", None) == "<|t010|>"


def test_a_time_up_to_its_rounding_outside_the_clip_is_at_its_bound():
    assert Moments().write("<time:9.95> <time:70.05> <frame:70.05>", MINUTE) == "0.0 s 60.0 s Frame 16"
    late = VideoInput(10.0, 11.0, (9.7, 11.4))  # the frames nearest to the bounds
    assert Moments().write("<frame:9.7> <frame:11.4>", late) == "Frame 1 Frame 2"


@pytest.mark.parametrize("text", ["<time:9.9>", "<time:70.1>", "<frame:9.9>", "<frame:100>", "<time:999999999>"])
def test_a_marker_outside_the_clip_is_refused(text):
    with pytest.raises(MomentError, match=rf"the marker {text} lies outside the clip, from 10.000 to 70.000 s; give"):
        Moments().write(f"At {text}.", MINUTE)


@pytest.mark.parametrize(
    "text",
    [
        *("<time:abc>", "<time:>", "<time:-3>", "<time:nan>", "<time:inf>", "<time: 3>", "<time:3 >", "<time:1:30>"),
        *("<time:1e3>", "<time:3.>", "<time:.5>", "<time:1,5>", "<time:3s>", "<time:12345678901>", "<time:\u0663>"),
        *("<frame:-1>", "<FRAME:3>", "<Time:3>", "<time :3>", "<time:12.5", "<time: then", "<time:<frame:3>"),
        *("<tme:3>", "<tiem:3.5>", "<times:3>", "<frames:3>", "<fram:3>", "<frmae:3 s>"),
    ],
)
def test_a_malformed_marker_is_refused(text):
    with pytest.raises(DataError, match=re.escape(text[:6])) as error:
        Moments().write(f"At {text}", MINUTE)
    assert "is not a valid marker; write seconds of the file, such as <time:12.5>" in str(error.value)
    assert "put a space after '<' if it is ordinary text" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        *("a < b", "<time>", "<time datetime='3'>", "< time:3>", "time:3", "<frame 3>", "<port:80>", "<extra_id_0>"),
        *("<video>", "<|t003|>", "<name:3>", "<times: see below>", "x <y:z> w", "<https://a.b:80>", "3 s", "Frame 2"),
    ],
)
def test_other_text_is_ordinary(text):
    assert not has_markers(text)
    assert Moments().write(text, MINUTE) is text


def test_text_without_markers():
    assert without_markers("At <time:3>, <tme:4> and <time:x>.") == "At ,  and ."


@few
@given(st.floats(0, 99_999))
def test_a_marker_has_at_most_three_decimals(time):
    assert math.isclose(float(MARKER.fullmatch(marker("time", time))[2]), time, abs_tol=0.00051)
    assert re.fullmatch(r"<time:[0-9]+(\.[0-9]{0,2}[1-9])?>", marker("time", time))


def test_the_start_of_a_file_has_no_sign():
    assert marker("frame", -1e-9) == "<frame:0>"


@pytest.mark.parametrize(
    ("style", "steps", "message"),
    [
        ("now", None, r"template.time='now' must contain one number, \{:.1f\} or \{:06.1f\}, and no other braces"),
        ("{:d} s", None, r"must contain one number, \{:.1f\}"),
        ("{:.1f} s", 100, r"\{:d\} or \{:03d\} with template.time_steps=100"),
        ("{:d} {:d}", 100, "must contain one number"),
        ("{} s", None, "must contain one number"),
        ("{:g} s", None, "must contain one number"),
        ("{:6.1f} s", None, "must contain one number"),
        ("{:,.1f} s", None, "must contain one number"),
        ("{0:.1f} s", None, "must contain one number"),
        (" {:.1f} s", None, "and no other braces or outer spaces"),
        ("{{{:.1f}}}", None, "and no other braces or outer spaces"),
        ("{:d}", 1000, "reads every number in a reply as a time; add a word or a unit"),
        ("{:.0f}", None, "reads every number in a reply as a time"),
        ("Frame {:d}", 100, "writes 'Frame 0', which cannot be read back; do not use a marker or a frame label"),
        ("<time:{:.1f}>", None, "writes '<time:0.0>', which cannot be read back"),
    ],
)
def test_a_style_that_cannot_be_read_back_is_refused(style, steps, message):
    with pytest.raises(ConfigError, match=message):
        Moments(style, steps)


def tokenizer(*words, lower=False):
    """Return a tokenizer with a token for each word; other words are unknown."""
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(("[UNK]", *words))}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if lower:
        core.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")


def test_a_tokenizer_must_keep_the_steps_apart():
    characters = [*"From t0123456789,().\n"]
    assert "has the same tokens for '06%' and '09%'" in Moments("{:02d}%", 100).fault(tokenizer(*"01234578%"), ())
    assert Moments("T{:d}", 9).fault(tokenizer(*characters, lower=True), ()).startswith("the tokenizer changes 'T0'")
    assert "which ends a reply" in Moments("t{:d}.", 9).fault(tokenizer(*characters), (".",))
