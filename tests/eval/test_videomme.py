"""Video-MME as it is published: prompts to the letter, subtitles of the seen frames, tables and its own file."""

import json
import pickle

import pytest

from tests.benchmark_files import assert_contract, build, outcomes, prompts, touch, write_parquet, write_text
from tinyvid import ConfigError, DataError, ReadsTimes, WritesFiles

OPTIONS = ["A. Apples.", "B. Candles.", "C. Berries.", "D. The three kinds are of the same number."]
SRT = """1
00:00:00,000 --> 00:00:00,800
<font color="white" size=".72c">hello there</font>

2
00:00:01,000 --> 00:00:01,200
<font color="white" size=".72c">1984</font>

3
00:00:01,500 --> 00:00:09,000
<font color="white" size=".72c">two lines
of one subtitle</font>
"""
SELECT = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
SELECT_BOTH = SELECT.replace("the video.", "the video and the subtitles.")
ASKED = "How many?\n" + "\n".join(OPTIONS)
LETTER = "Answer with the option's letter from the given choices directly."


def row(video_id, number, duration, answer="C", **changes):
    return {
        "video_id": video_id,
        "duration": duration,
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "url": f"https://www.youtube.com/watch?v=yt{video_id}",
        "videoID": f"yt{video_id}",
        "question_id": f"{video_id}-{number}",
        "task_type": "Counting Problem" if number == 1 else "Information Synopsis",
        "question": "How many?",
        "options": OPTIONS,
        "answer": answer,
    } | changes


ROWS = [row("001", number, "short") for number in (1, 2, 3)] + [row("401", 1, "medium"), row("601", 1, "long", "A")]


@pytest.fixture
def root(tmp_path):
    write_parquet(tmp_path / "videomme/test-00000-of-00001.parquet", ROWS)
    write_text(tmp_path / "subtitle/yt001.srt", SRT)
    touch(tmp_path / "data/yt001.mp4")
    touch(tmp_path / "data/yt401.mkv")
    return tmp_path


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("official", f"{SELECT}\n{ASKED}\nThe best answer is:"),
        ("tinyllava_video", f"{ASKED}\n{LETTER}"),
        ("lmms_eval", f"{SELECT_BOTH}\n{ASKED}\n\n{LETTER}"),
    ],
)
def test_prompt_without_subtitles(root, style, text):
    benchmark = build("videomme", root, prompt_style=style)
    assert prompts(benchmark) == [("user", text)]
    assert not isinstance(benchmark, ReadsTimes)


def test_contract(root):
    assert_contract(build("videomme", root, subtitles="frames"))


def test_items(root):
    benchmark = build("videomme", root)
    item = benchmark[0]
    assert (len(benchmark), item.id, item.answer, item.rule, item.prefix) == (5, "001-1", "C", "choice", "")
    assert item.options == {
        "A": "Apples.",
        "B": "Candles.",
        "C": "Berries.",
        "D": "The three kinds are of the same number.",
    }
    assert item.groups == {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "task": "Counting Problem",
    }
    assert benchmark[0].sample.video == benchmark[2].sample.video == str(root / "data/yt001.mp4")
    assert benchmark[3].sample.video == str(root / "data/yt401.mkv")
    assert benchmark[4].sample.video == str(root / "data/yt601.mp4"), "a missing video is named as it should be"


def test_the_other_folder_of_videos(root):
    (root / "data").rename(root / "video")
    assert build("videomme", root)[0].sample.video == str(root / "video/yt001.mp4")


def test_subtitles_of_the_frames_that_are_seen(root):
    benchmark = build("videomme", root, subtitles="frames")
    assert isinstance(benchmark, ReadsTimes)
    (message,) = benchmark.sample(benchmark[0], [0.0, 0.7, 1.2, 1.5]).messages
    listed = "This video's subtitles are listed below:\nhello there\ntwo lines of one subtitle\n"
    assert message.text == f"{listed}{SELECT_BOTH}\n{ASKED}\nThe best answer is:", "0.7 repeats none, 1.2 is the end"
    assert prompts(benchmark)[0][1] == f"{SELECT}\n{ASKED}\nThe best answer is:", (
        "what is laid out before times are known"
    )
    (message,) = benchmark.sample(benchmark[3], [0.0]).messages
    assert message.text == f"{SELECT}\n{ASKED}\nThe best answer is:", "a video without subtitles is asked without"
    again = pickle.loads(pickle.dumps(benchmark))
    assert again.sample(again[0], [1.1]).messages[0].text.startswith("This video's subtitles are listed below:\n1984\n")


def test_subtitles_as_lmms_eval_writes_them(root):
    benchmark = build("videomme", root, subtitles="frames", prompt_style="lmms_eval")
    text = benchmark.sample(benchmark[0], [0.0]).messages[0].text
    listed = "This video's subtitles are listed below: \nhello there\n"
    assert text == f"{listed}{SELECT_BOTH}\n{ASKED}\nThe best answer is:"
    text = benchmark.sample(benchmark[4], [0.0]).messages[0].text
    assert text.startswith("This video's subtitles are listed below: \nNo subtitles available\nSelect the best")


def test_all_subtitles(root):
    benchmark = build("videomme", root, subtitles="all")
    listed = "This video's subtitles are listed below:\nhello there\n1984\ntwo lines of one subtitle\n"
    assert prompts(benchmark)[0][1] == f"{listed}{SELECT_BOTH}\n{ASKED}\nThe best answer is:"
    assert prompts(benchmark, 3)[0][1] == f"{SELECT}\n{ASKED}\nThe best answer is:"
    assert not isinstance(benchmark, ReadsTimes)


def test_one_duration(root):
    assert [item.id for item in build("videomme", root, duration="medium")] == ["401-1"]


def test_averages(root):
    benchmark = build("videomme", root)
    values = outcomes(benchmark, [1.0, 0.0, 1.0, 0.0, 1.0])
    summary = benchmark.summary(values)
    assert summary == {"Short": pytest.approx(200 / 3), "Medium": 0.0, "Long": 100.0, "Overall": 60.0}
    assert benchmark.summary(values[:1]) == {"Short": 100.0, "Overall": 100.0}


def test_official_file(root):
    benchmark = build("videomme", root)
    assert isinstance(benchmark, WritesFiles)
    made = outcomes(benchmark, [0.0] * 5, predictions=["C", "A", None, "C", "D"])
    videos = json.loads(benchmark.files(made)["videomme_results.json"])
    assert [len(entry["questions"]) for entry in videos] == [3, 1, 1]
    assert {key: videos[0][key] for key in videos[0] if key != "questions"} == {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
    }
    assert videos[0]["questions"][2] == {
        "question_id": "001-3",
        "task_type": "Information Synopsis",
        "question": "How many?",
        "options": OPTIONS,
        "answer": "C",
        "response": "",
    }


def test_a_wrong_root(tmp_path):
    with pytest.raises(DataError, match=r"videomme/test-00000-of-00001.parquet, subtitle .*lmms-lab/Video-MME"):
        build("videomme", tmp_path, subtitles="all")


def test_bad_choices(root):
    with pytest.raises(ConfigError, match="prompt_style.*Did you mean 'official'"):
        build("videomme", root, prompt_style="offical")
    with pytest.raises(ConfigError, match=r"TinyLLaVA-Video has no subtitles.*prompt_style=official"):
        build("videomme", root, prompt_style="tinyllava_video", subtitles="all")
    with pytest.raises(ConfigError, match="duration"):
        build("videomme", root, duration="brief")
    write_parquet(root / "videomme/test-00000-of-00001.parquet", ROWS[:3])
    with pytest.raises(DataError, match="no items with.*'duration': 'long'"):
        build("videomme", root, duration="long")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "E"}, r"row 2: 'answer' is 'E', not one of the options \['A', 'B', 'C', 'D'\]"),
        ({"options": ["A. x", "C. y"]}, "row 2: 'options' must be 'A. ...', 'B. ...' in order"),
        ({"options": ["x", "y"]}, "row 2: 'options' must be 'A. ...'"),
        ({"videoID": "../../etc/passwd"}, "row 2: the path '../../etc/passwd' leaves the benchmark's folder"),
        ({"question": None}, "row 2: the row has no 'question'; it has video_id, duration"),
    ],
)
def test_bad_rows(root, changes, message):
    write_parquet(root / "videomme/test-00000-of-00001.parquet", [ROWS[0], ROWS[1] | changes])
    with pytest.raises(DataError, match=message):
        build("videomme", root)


def test_broken_files(root):
    write_text(root / "subtitle/yt001.srt", "1\n00:00:01,000 -> 00:00:02,000\nhello\n")
    with pytest.raises(DataError, match=r"yt001.srt"):
        build("videomme", root, subtitles="frames")
    (root / "videomme/test-00000-of-00001.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        build("videomme", root)
