"""LongVideoBench as it is published: both annotations, both forms of subtitles, their places, and the submission."""

import json
import pickle

import pytest

from eval.subtitles import interleaved, moments
from tests.benchmark_files import assert_contract, build, outcomes, prompts, touch, write_json, write_parquet
from tinyvid import ConfigError, Cue, DataError, ReadsTimes
from tinyvid.text.subtitles import place

LETTER = "Answer with the option's letter from the given choices directly."
OPTIONS = "A. a red car\nB. a dog\nC. nobody"
LISTED = [
    {"timestamp": [10.0, 11.0], "text": "first"},
    {"timestamp": [11.4, 11.5], "text": "short"},
    {"timestamp": [12.5, 13.0], "text": "unseen"},
    {"timestamp": [14.0, None], "text": "to the end"},
]
CLOCKED = [
    {"start": "00:00:10.000", "end": "00:00:11.000", "line": "first"},
    {"start": "00:00:11.400", "end": "00:00:11.500", "line": "short"},
    {"start": "00:00:12.500", "end": "00:00:13.000", "line": "unseen"},
    {"start": "00:00:14.000", "end": "00:00:16.000", "line": "to the end"},
]
# The subtitles' clock is at 10 s when the video begins. Middles: 0.5, 1.45, 2.75, and half-way to the duration of 16.
TIMES = [0.0, 0.9, 1.9, 4.2, 5.8]


def row(name, *, group=15, choice=1, **changes):
    return {
        "video_id": "86CxyhFV9MI",
        "question": "What is there?",
        "question_category": "S2E",
        "topic_category": "NP-News-Programs",
        "duration_group": group,
        "duration": 16.0,
        "video_path": "86CxyhFV9MI.mp4",
        "subtitle_path": "86CxyhFV9MI_en.json",
        "id": name,
        "starting_timestamp_for_subtitles": 10,
        "candidates": ["a red car", "a dog", "nobody"],
        "correct_choice": choice,
        "level": "L1-Perception",
    } | changes


ROWS = [row("v_0"), row("v_1", group=60, choice=0), row("v_2", group=3600, choice=2, subtitle_path="other.json")]


@pytest.fixture
def root(tmp_path):
    write_json(tmp_path / "lvb_val.json", ROWS)
    hidden = [{key: value for key, value in entry.items() if key != "correct_choice"} for entry in ROWS]
    write_json(tmp_path / "lvb_test_wo_gt.json", hidden)
    write_json(tmp_path / "subtitles/86CxyhFV9MI_en.json", LISTED)
    write_json(tmp_path / "subtitles/other.json", CLOCKED)
    touch(tmp_path / "videos/86CxyhFV9MI.mp4")
    return tmp_path


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("official", f"Question: What is there?\n{OPTIONS}\n{LETTER}"),
        ("tinyllava_video", f"subtitles:\nquestion: \nWhat is there?\n{OPTIONS}\n{LETTER}"),
        ("lmms_eval", f"What is there?\n{OPTIONS}\n{LETTER}\n"),
    ],
)
def test_prompt_without_subtitles(root, style, text):
    benchmark = build("longvideobench", root, subtitles=False, prompt_style=style)
    assert prompts(benchmark) == [("user", text)]
    assert not isinstance(benchmark, ReadsTimes)


@pytest.mark.parametrize("index", [0, 2], ids=["timestamp", "clock"])
@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("official", f"first\nshort\nto the end\nQuestion: What is there?\n{OPTIONS}\n{LETTER}"),
        (
            "tinyllava_video",
            "subtitles:[image]first[image]short[image][image]to the end[image]"
            f"\nquestion: \nWhat is there?\n{OPTIONS}\n{LETTER}",
        ),
        ("lmms_eval", f"first\nshort\nto the end\nWhat is there?\n{OPTIONS}\n{LETTER}\n"),
    ],
)
def test_prompt_with_subtitles(root, style, text, index):
    benchmark = build("longvideobench", root, prompt_style=style)
    assert isinstance(benchmark, ReadsTimes)
    (message,) = benchmark.sample(benchmark[index], TIMES).messages
    assert message.text == text
    again = pickle.loads(pickle.dumps(benchmark))
    assert again.sample(again[index], TIMES).messages == [message]


def test_subtitles_between_frames(root):
    benchmark = build("longvideobench", root, prompt_style="interleaved")
    sample = benchmark.sample(benchmark[0], TIMES)
    assert sample.messages[0].text == f"Question: What is there?\n{OPTIONS}\n{LETTER}"
    assert place(sample.videos[0].subtitles, TIMES) == ["first", "short", "", "to the end", ""]
    with pytest.raises(ConfigError, match="interleaved puts subtitles between frames, but benchmark.subtitles=false"):
        build("longvideobench", root, prompt_style="interleaved", subtitles=False)


def test_subtitles_keep_their_order_where_a_later_one_is_earlier():
    cues = [Cue(0.0, 4.0, "long"), Cue(0.5, 1.5, "inside"), Cue(6.0, 9.0, "unseen"), Cue(4.0, 6.0, "behind")]
    times = [0.0, 1.0, 2.0, 5.0, 8.0]
    shown = [cue for cue in cues if cue.text != "unseen"] + [Cue(6.0, 7.0, "last")]
    assert interleaved(shown, times) == [None, None, None, "long", "inside", None, "behind", None]
    assert place(moments(shown, times), times) == ["", "", "long inside", "behind", ""]


def test_a_subtitle_counts_only_if_a_frame_lies_strictly_inside(root):
    benchmark = build("longvideobench", root)

    def seen(*times):
        return benchmark.sample(benchmark[0], times).messages[0].text.split("Question:")[0].split("\n")[:-1]

    assert seen(0.0, 1.0) == ["short"], (
        "both lie on the borders of the first, 1.0 in the second, widened to 0.95 to 1.95"
    )
    assert seen(0.5) == ["first"]
    assert seen(0.94) == ["first"]
    assert seen(2.3, 3.2) == ["unseen"], "half a second is widened to 2.25 to 3.25"
    assert seen(2.25, 3.25) == []
    assert seen(6.0) == [], "the end that is not stated is that of the video, in the file's clock: 16 - 10"


def test_an_end_that_is_a_whole_number_is_taken_for_none(root):
    write_json(root / "subtitles/other.json", [{"timestamp": [10.0, 11], "text": "whole"}])
    benchmark = build("longvideobench", root)
    text = benchmark.sample(benchmark[2], [5.0]).messages[0].text
    assert text.startswith("whole\n")


def test_contract(root):
    assert_contract(build("longvideobench", root))


def test_items(root):
    benchmark = build("longvideobench", root)
    assert [(item.id, item.answer) for item in benchmark] == [("v_0", "B"), ("v_1", "A"), ("v_2", "C")]
    assert benchmark[0].options == {"A": "a red car", "B": "a dog", "C": "nobody"}
    assert benchmark[0].groups == {
        "duration_group": "(8s, 15s]",
        "category": "S2E",
        "topic": "NP-News-Programs",
        "level": "L1-Perception",
    }
    assert {item.sample.video for item in benchmark} == {str(root / "videos/86CxyhFV9MI.mp4")}


def test_parquet_pads_its_options(root):
    (root / "lvb_val.json").unlink()
    columns = {f"option{i}": text for i, text in enumerate(["a red car", "a dog", "nobody", "N/A", "N/A"])}
    rows = [{k: v for k, v in entry.items() if k not in ("candidates", "level")} | columns for entry in ROWS]
    write_parquet(root / "validation-00000-of-00001.parquet", rows)
    benchmark = build("longvideobench", root, subtitles=False)
    assert benchmark[0].options == {"A": "a red car", "B": "a dog", "C": "nobody"}
    assert prompts(benchmark) == [("user", f"Question: What is there?\n{OPTIONS}\n{LETTER}")]
    assert "level" not in benchmark[0].groups


def test_averages(root):
    benchmark = build("longvideobench", root)
    summary = benchmark.summary(outcomes(benchmark, [1.0, 0.0, 1.0]))
    assert summary == {
        "(8s, 15s]": 100.0,
        "(15s, 60s]": 0.0,
        "(900s, 3600s]": 100.0,
        "Overall": pytest.approx(200 / 3),
    }
    assert benchmark.files([]) == {}


def test_the_test_is_not_scored_but_submitted(root):
    benchmark = build("longvideobench", root, split="test")
    assert [item.answer for item in benchmark] == [None] * 3
    made = outcomes(benchmark, [None] * 3, predictions=["A", None, "C"])
    assert benchmark.summary(made) == {}
    (name, content), *rest = benchmark.files(made).items()
    assert (name, rest) == ("longvideobench_test_for_submission.json", [])
    assert json.loads(content) == {"v_0": "A", "v_1": "", "v_2": "C"}


def test_bad_input(root, tmp_path):
    with pytest.raises(DataError, match=r"lacks 1 of 1 files: lvb_val.json .*longvideobench/LongVideoBench"):
        build("longvideobench", tmp_path / "nowhere")
    (root / "subtitles/other.json").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 3 files: subtitles/other.json"):
        build("longvideobench", root)
    with pytest.raises(ConfigError, match="split"):
        build("longvideobench", root, split="dev")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"timestamp": [1.0], "text": "x"}], "subtitle 1 needs 'timestamp' and 'text', or 'start', 'end' and 'line'"),
        ([{"start": "soon", "end": "00:00:01", "line": "x"}], "subtitle 1 needs"),
        ({"text": "x"}, "must contain a list of subtitles, got dict"),
        (["x"], "subtitle 1 needs"),
    ],
)
def test_broken_subtitles_are_found_before_a_run(root, content, message):
    write_json(root / "subtitles/other.json", content)
    with pytest.raises(DataError, match=message):
        build("longvideobench", root)


def test_videos_without_words_have_empty_subtitles(root):
    write_json(root / "subtitles/other.json", [])
    benchmark = build("longvideobench", root)
    assert benchmark.sample(benchmark[2], TIMES).messages[0].text == f"Question: What is there?\n{OPTIONS}\n{LETTER}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correct_choice": 3}, "lvb_val.json:1: 'correct_choice' is 3, not the index of an option"),
        ({"correct_choice": -1}, "'correct_choice' is -1"),
        ({"subtitle_path": "../x.json"}, "'subtitle_path': the path '../x.json' leaves"),
        ({"duration": "long"}, "'duration' must be a number"),
    ],
)
def test_bad_rows(root, changes, message):
    write_json(root / "lvb_val.json", [ROWS[0] | changes])
    with pytest.raises(DataError, match=message):
        build("longvideobench", root)
