"""Lists of timed sentences as they are published, and what is wrong with a faulty one."""

from copy import deepcopy

import pytest

from tests.benchmark_files import write_json, write_text
from tests.timed_files import (
    CHARADES,
    HIGHLIGHTS,
    RECIPES,
    TIMELENS,
    VAL_1,
    write_highlights,
    write_youcook2,
)
from tinyvid import DataError
from tinyvid.data.formats import read_moments
from tinyvid.data.timed_sentences import READERS, read_captions, read_highlights, read_recipes


def found(moments):
    return [(moment.code, moment.start, moment.end, moment.sentence, moment.duration) for moment in moments]


def test_captions_of_activitynet_and_timelens(tmp_path):
    moments = read_captions(write_json(tmp_path / "val_1.json", VAL_1))
    assert found(moments) == [
        ("v_one", 0.0, 8.0, "A man lights the stove.", 20.0),
        ("v_one", 6.0, 20.01, "He cooks two eggs.", 20.0),  # ends a little after its video, as hundreds do
        ("v_two", 2.5, 7.5, "A dog runs.", 10.0),
    ]
    assert moments[1].where == f"{tmp_path}/val_1.json: 'v_one', event 2"
    refined = read_captions(write_json(tmp_path / "timelens.json", TIMELENS))
    assert found(refined)[0] == ("3MSZA", 25.1, 29.0, "A person turns on a light.", 30.96)


def test_recipes_of_a_subset(tmp_path):
    path = write_youcook2(tmp_path) / "youcookii_annotations_trainval.json"
    assert [moment.sentence for moment in read_recipes(path, "validation")] == ["chop the lettuce", "mix it with oil"]
    assert len(read_recipes(path)) == len(READERS["youcook2"](path, pytest.fail)) == 3


def test_highlights_are_moments_of_each_query(tmp_path):
    moments = read_highlights(write_highlights(tmp_path) / "highlight_val_release.jsonl")
    assert found(moments)[:2] == [
        ("NUsG9BgSes0_210.0_360.0", 8.0, 12.0, "Two women cook together.", 12.0),
        ("NUsG9BgSes0_210.0_360.0", 0.0, 4.0, "Two women cook together.", 12.0),
    ]
    assert moments[2].where == f"{tmp_path}/highlight_val_release.jsonl:2"


def test_lines_of_charades(tmp_path):
    moments = read_moments(write_text(tmp_path / "test.txt", CHARADES))
    assert found(moments)[-1] == ("AMT7R", 4.3, 12.5, "a person is putting a picture onto the wall.", None)
    assert moments[-1].where == f"{tmp_path}/test.txt:4"


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ([8.0, 8.0], r"the window \[8.0, 8.0\] must start at 0 or later and end after its start"),
        ([8.0, 2.0], "end after its start"),
        ([-1, 2.0], "must start at 0 or later"),
        ([3, 20.6], r"the window \[3, 20.6\] is not inside its video of 20 s"),
        ([20, 20.2], "is not inside its video of 20 s"),
        ([1], r"a window must be \[start, end\] in seconds, got \[1\]"),
        ([1, "2"], "a window must be"),
        ([0, float("nan")], "a window must be"),
        ("1-2", "a window must be"),
        (None, "a window must be"),
    ],
)
def test_a_faulty_window_is_named_or_left_out(tmp_path, window, message):
    content = deepcopy(VAL_1)
    content["v_one"]["timestamps"][1] = window
    path = write_json(tmp_path / "val_1.json", content)
    with pytest.raises(DataError, match=rf"val_1.json: 'v_one', event 2: {message}|{message}"):
        read_captions(path)
    faults = []
    assert len(read_captions(path, faults.append)) == 2
    assert len(faults) == 1


def test_a_line_that_ends_before_it_starts_can_be_left_out(tmp_path):
    path = write_text(tmp_path / "train.txt", CHARADES + "X 3.0 2.0##Hi\n")
    with pytest.raises(DataError, match="train.txt:5: end=2 s must come after start=3 s"):
        read_moments(path)
    faults = []
    assert len(read_moments(path, faults.append)) == 4
    assert "train.txt:5" in str(faults[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentences": ["One."]}, "'v_one' has 2 timestamps for 1 sentences; correct the file"),
        ({"sentences": ["One.", " "]}, "'v_one', event 2: the sentence must be a text, got ' '"),
        ({"sentences": [1, "Two."]}, "'v_one', event 1: the sentence must be a text, got 1"),
        ({"timestamps": []}, "'v_one': 'timestamps' must be a list with at least one entry"),
        ({"duration": 0}, "'v_one': 'duration' must be a positive number of seconds, got 0"),
        ({"duration": "20"}, "'duration' must be a positive number"),
    ],
)
def test_a_malformed_video_is_named(tmp_path, change, message):
    path = write_json(tmp_path / "val_1.json", VAL_1 | {"v_one": VAL_1["v_one"] | change})
    with pytest.raises(DataError, match=message):
        read_captions(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="'v_one' must have a duration, timestamps and sentences, or spans and queries"):
        read_captions(write_json(tmp_path / "a.json", {"v_one": [1]}))
    with pytest.raises(DataError, match="has no 'database'; give youcookii_annotations_trainval.json"):
        read_recipes(write_json(tmp_path / "b.json", VAL_1))
    with pytest.raises(DataError, match="'x' must be an object with annotations"):
        read_recipes(write_json(tmp_path / "c.json", {"database": {"x": 1}}))
    broken = deepcopy(RECIPES)
    del broken["database"]["xHr8X2Wpmno"]["annotations"][1]["segment"]
    with pytest.raises(DataError, match="'xHr8X2Wpmno', event 2: a window must be"):
        read_recipes(write_json(tmp_path / "d.json", broken))
    with pytest.raises(DataError, match="release.jsonl:1: 'relevant_windows' must be a list with at least one entry"):
        read_highlights(write_highlights(tmp_path, split="test") / "highlight_test_release.jsonl")
    with pytest.raises(DataError, match="release.jsonl:1: 'vid' must be a text, got 7"):
        read_highlights(write_highlights(tmp_path, [HIGHLIGHTS[0] | {"vid": 7}]) / "highlight_val_release.jsonl")
    with pytest.raises(DataError, match="does not exist|cannot be read"):
        read_captions(tmp_path / "missing.json")
