"""Data sets: every documented field of a row, every kind of malformed row, and the weights of mixtures."""

import inspect
import json
import pickle
from collections import Counter

import pytest
import yaml
from omegaconf import OmegaConf

from tests.goldens import read_json, to_messages
from tinyvid import ConfigError, DataError, compose
from tinyvid.config import CONF_DIR
from tinyvid.data.datasets import Mixture, RowDataset
from tinyvid.data.parsing import RowError, to_sample
from tinyvid.registry import DATASETS
from tinyvid.types import Cue

OPTION_FILES = sorted((CONF_DIR / "data").glob("*.yaml"))
TALK = [{"from": "human", "value": "What moves?"}, {"from": "gpt", "value": "A bike."}]


def sample(root="/media", **row):
    from pathlib import Path

    return to_sample({"conversations": TALK, **row}, media_root=Path(root), default_id="rows.json:3")


def turns(*texts, roles=("human", "gpt")):
    return [{"from": roles[number % 2], "value": text} for number, text in enumerate(texts)]


def said(sample):
    return [(message.role, message.text, message.videos) for message in sample.messages]


# --- turns ------------------------------------------------------------------------------------------------------


def test_both_formats_of_a_turn():
    other = [{"role": "user", "content": "What moves?"}, {"role": "assistant", "content": "A bike."}]
    assert said(sample()) == said(sample(conversations=None, messages=other))
    assert said(sample()) == [("user", "What moves?", None), ("assistant", "A bike.", None)]


def test_a_system_turn_and_several_questions():
    talk = [{"from": "system", "value": "Be brief."}, *turns("A?", "a", "B?", "b")]
    assert [message.role for message in sample(conversations=talk).messages] == [
        "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip


def test_a_reply_before_the_first_question_is_dropped():
    talk = turns("Hello!", *["What moves?", "A bike."], roles=("gpt", "human"))
    assert said(sample(conversations=talk)) == said(sample())


def test_rows_become_the_messages_of_the_original():
    for name, case in read_json("templates.json").items():
        conversation = case["conversation"]
        marked = any("<image>" in turn["value"] for turn in conversation if turn["from"] == "human")
        row = sample(conversations=conversation, **({"video": "a.mp4"} if marked else {}))
        expected = to_messages(conversation)
        assert [message.text for message in row.messages] == [message.text for message in expected], name
        if marked and sum(message.videos for message in expected) == 1:
            assert [message.videos for message in row.messages] == [message.videos for message in expected], name


# --- markers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", ["<image>", "<video>"])
@pytest.mark.parametrize("text", ["{}\nWhat moves?", "What moves?\n{}", " {}What moves?"])
def test_a_marker_is_removed_from_the_text(marker, text):
    row = sample(conversations=turns(text.format(marker), "A bike."), video="a.mp4")
    assert said(row) == [("user", "What moves?", 1), ("assistant", "A bike.", 0)]


def test_markers_say_which_turn_shows_which_video():
    row = sample(conversations=turns("<video>A?", "a", "<video><video> B?", "b"), video=["1.mp4", "2.mp4", "3.mp4"])
    assert [message.videos for message in row.messages] == [1, 0, 2, 0]


def test_a_marker_in_every_question_shows_a_single_video_once():
    row = sample(conversations=turns("<image>\nA?", "a", "<image>\nB?", "b"), video="a.mp4")
    assert said(row) == [("user", "A?", 1), ("assistant", "a", 0), ("user", "B?", 0), ("assistant", "b", 0)]


def test_markers_of_both_kinds_say_the_order():
    row = sample(
        conversations=turns("<image>A?", "a", "<video><image>B?", "b"), videos=["v.mp4"], images=["1.png", "2.png"]
    )
    assert [message.videos for message in row.messages] == [1, 0, 2, 0]
    assert [video.source for video in row.videos] == ["/media/1.png", "/media/v.mp4", "/media/2.png"]


@pytest.mark.parametrize(
    ("text", "left", "places"),
    [
        ("Compare <image> and <image>.", "Compare  and .", (8, 13)),
        ("<image>\nfirst\n<image>\nsecond", "\nfirst\n\nsecond", (0, 7)),
        ("<image><image>\nWhich?", "Which?", ()),
        ("Which?\n<image>\n<image>", "Which?", ()),
    ],
)
def test_media_with_text_between_them_keep_their_places(text, left, places):
    message = sample(conversations=turns(text, "a"), images=["1.png", "2.png"]).messages[0]
    assert (message.text, message.videos, message.places) == (left, 2, places)


def test_without_markers_all_videos_come_first():
    row = sample(video=["1.mp4", "2.mp4"])
    assert [message.videos for message in row.messages] == [None, None]


def test_text_without_a_marker_is_not_changed():
    row = sample(conversations=turns("<video> A? ", "  a\n", " B? ", "b "), video="a.mp4")
    assert [message.text for message in row.messages] == ["A?", "  a\n", " B? ", "b "]


@pytest.mark.parametrize(
    ("texts", "media", "message"),
    [
        (("<video>A?", "a"), {}, r"contain 1 markers \(<image> or <video>\) for 0 media"),
        (("<video><image>A?", "a"), {"video": "a.mp4"}, "contain 2 markers .* for 1 media"),
        (
            ("<video>A?", "a", "<video>B?", "b"),
            {"video": ["1.mp4", "2.mp4", "3.mp4"]},
            "contain 2 markers .* for 3 media",
        ),
        (("A?", "<video>a"), {"video": "a.mp4"}, "turn 1 .*only user turns can show media"),
        (("A?", "a"), {"video": "a.mp4", "image": "b.png"}, "both 'video' and 'image'; show their order with markers"),
        (
            ("<video><video>A?", "a"),
            {"video": "a.mp4", "image": "b.png"},
            "2 <video> and 0 <image> for 1 videos and 1 images",
        ),
        (("<Video>A?", "a"), {"video": "a.mp4"}, "turn 0 contains '<Video>'; a marker is <image> or <video>"),
        (("<image_1><image_2>A?", "a"), {"images": ["1.png", "2.png"]}, "turn 0 contains '<image_1>'"),
    ],
)
def test_markers_must_match_the_media(texts, media, message):
    with pytest.raises(RowError, match=message) as error:
        sample(conversations=turns(*texts), **media)
    assert [kind for kind, _ in error.value.faults] == ["markers"]


# --- media ------------------------------------------------------------------------------------------------------


def test_media_of_a_row():
    assert sample().videos == ()
    assert sample(video=None, image=[]).videos == ()
    assert [video.source for video in sample(image="a/b.png").videos] == ["/media/a/b.png"]
    assert [video.source for video in sample(image=["a.png", "b.png"]).videos] == ["/media/a.png", "/media/b.png"]
    (video,) = sample(video="frames", fps=2.5).videos
    assert (video.source, video.fps) == ("/media/frames", 2.5)


@pytest.mark.parametrize(
    ("given", "bounds"),
    [
        ({"clip": [1, 2.5]}, (1, 2.5)),
        ({"clip": [None, 2.5]}, (None, 2.5)),
        ({"start": 1.5}, (1.5, None)),
        ({"start": 0, "end": 3}, (0, 3)),
        ({"clip": None}, (None, None)),
    ],
)
def test_bounds_of_a_video(given, bounds):
    (video,) = sample(video="a.mp4", **given).videos
    assert (video.start, video.end) == bounds


@pytest.mark.parametrize("path", ["a.mp4", "./a.mp4", "b/../a.mp4", "/media/clips/a.mp4"])
def test_a_path_inside_the_folder(path):
    (video,) = sample(root="/media/clips", video=path).videos
    assert video.source == "/media/clips/a.mp4"


@pytest.mark.parametrize("path", ["../a.mp4", "b/../../a.mp4", "/etc/passwd", "/media/clips2/a.mp4", ".."])
def test_a_path_outside_the_folder_is_refused(path):
    with pytest.raises(
        RowError, match="leaves the media folder '/media/clips'; set media_root .of data= or benchmark=. to a parent"
    ):
        sample(root="/media/clips", video=path)


def test_the_root_folder_contains_every_path():
    assert sample(root="/", video="/etc/a.mp4").videos[0].source == "/etc/a.mp4"


def test_a_tilde_stays_in_the_folder(tmp_path, monkeypatch):
    """A relative folder must not turn ``~/a.mp4`` into a path that is expanded later."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"video": "~/a.mp4", "conversations": TALK}))
    for options in ({}, {"media_root": "."}):
        data = RowDataset(path="rows.jsonl", **options)
        assert data[0].videos[0].source == str(tmp_path / "~" / "a.mp4")


@pytest.fixture
def linked(tmp_path):
    """Return a media folder with links: into it, out of it, in the place of a folder, and in a folder of frames."""
    for name in ("elsewhere", "media/frames"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("elsewhere/a.mp4", "elsewhere/a.srt", "media/b.mp4"):
        (tmp_path / name).touch()
    for link, target in {
        "within.mp4": "media/b.mp4",
        "out.mp4": "elsewhere/a.mp4",
        "out.srt": "elsewhere/a.srt",
        "folder": "elsewhere",
        "frames/1.png": "elsewhere/a.mp4",
    }.items():
        (tmp_path / "media" / link).symlink_to(tmp_path / target)
    (tmp_path / "linked").symlink_to(tmp_path / "media")
    return tmp_path


OUTSIDE = [
    {"video": "out.mp4"},
    {"videos": ["b.mp4", "folder/a.mp4"]},
    {"video": "frames", "fps": 1},
    {"video": "b.mp4", "subtitles": "out.srt"},
]


@pytest.mark.parametrize("row", OUTSIDE, ids=str)
def test_a_link_that_leaves_the_folder_is_refused(linked, row):
    with pytest.raises(RowError, match="leads through a link to .*elsewhere.*, outside .* in allowed_roots="):
        sample(root=linked / "media", **row)


@pytest.mark.parametrize("row", [*OUTSIDE, {"video": "../elsewhere/a.mp4"}], ids=str)
def test_a_folder_can_be_allowed(linked, row):
    path = write(linked / "rows.jsonl", [{"conversations": TALK, **row}])
    data = RowDataset(path=path, media_root=f"{linked}/media", allowed_roots=[f"{linked}/elsewhere"])
    assert data[0].videos
    data = RowDataset(path=path, media_root=f"{linked}/media", allowed_roots=[f"{linked}/other"])
    with pytest.raises(RowError, match="allowed_roots"):
        data[0]


@pytest.mark.parametrize("root", ["media", "linked"])
@pytest.mark.parametrize("path", ["b.mp4", "within.mp4"])
def test_a_link_within_the_folder_is_followed(linked, root, path):
    assert sample(root=linked / root, video=path).videos[0].source == f"{linked}/{root}/{path}"


@pytest.mark.parametrize(("root", "named"), [("media", "linked"), ("linked", "media")])
def test_an_absolute_path_may_name_the_folder_by_a_link(linked, root, named):
    """Home folders of clusters are often links, and rows name files by either path."""
    path = f"{linked}/{named}/b.mp4"
    assert sample(root=linked / root, video=path).videos[0].source == path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://example.com/a.mp4", "'https://example.com/a.mp4' is a URL; download the file"),
        ("file:///etc/passwd", "is a URL"),
        ("data:image/png;base64,AAAA", "is a URL"),
        ("a\0.mp4", "contains a character that no file name has"),
        ("a\ud800.mp4", "contains a character that no file name has"),
        (["1.png", "2.png"], "must be a string, got .* a video of frame images is a folder"),
        ({"bytes": None}, "must be a string"),
    ],
)
@pytest.mark.parametrize("key", ["video", "images"])
def test_what_is_not_a_path(key, path, message):
    with pytest.raises(RowError, match=message):
        sample(**{key: [path]})


def test_a_path_can_be_long():
    assert sample(video="x" * 5_000).videos


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": ""}, "a media path must be a string, got ''"),
        ({"video": 7}, "a media path must be a string, got 7"),
        ({"video": ["a.mp4", None]}, "a media path must be a string, got None"),
        ({"clip": [1, 2]}, "'clip' needs exactly one video, but the row has 0"),
        ({"video": ["a.mp4", "b.mp4"], "start": 1}, "'start' needs exactly one video, but the row has 2"),
        ({"video": "a.mp4", "clip": [1, 2], "end": 3}, "both 'clip' and 'end'"),
        ({"video": "a.mp4", "clip": [1]}, r"'clip' must give seconds, as in 'clip': \[2.5, 10\], got \[1\]"),
        ({"video": "a.mp4", "clip": "1-2"}, "'clip' must give seconds"),
        ({"video": "a.mp4", "clip": [True, 2]}, "'clip' must give seconds"),
        ({"video": "a.mp4", "end": "2"}, "'end' must give seconds"),
        ({"video": "a.mp4", "end": float("nan")}, "'end' must give seconds"),
        ({"video": "a", "fps": "25"}, "'fps' must be a positive number of frames per second, got '25'"),
        ({"video": "a", "fps": 0}, "'fps' must be a positive number"),
    ],
)
def test_wrong_media(row, message):
    with pytest.raises(RowError, match=message) as error:
        sample(**row)
    assert [kind for kind, _ in error.value.faults] == ["media"]


# --- options, id, meta ------------------------------------------------------------------------------------------


def test_options_are_appended_and_answered_by_letter():
    row = sample(
        conversations=[{"from": "human", "value": "<video>\nWhat moves?"}],
        video="a.mp4",
        options=["a bike", "a car", 3],
        answer_index=1,
    )
    assert said(row) == [
        ("user", "What moves?\nA. a bike\nB. a car\nC. 3\nAnswer with the option's letter from the given choices directly.", 1),  # noqa: E501
        ("assistant", "B", None),
    ]  # fmt: skip
    assert (row.meta["options"], row.meta["answer_index"]) == (["a bike", "a car", 3], 1)


def test_an_existing_reply_is_not_changed():
    row = sample(options=["a", "b"], answer_index=0)
    assert said(row) == said(sample())
    assert row.meta == {"options": ["a", "b"], "answer_index": 0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"options": "ab", "answer_index": 0}, "'options' must be a list of 2 to 26 choices"),
        ({"options": ["a"], "answer_index": 0}, "'options' must be a list of 2 to 26 choices"),
        ({"options": ["a", "b"]}, "'answer_index' must be a number from 0 to 1, got None"),
        ({"options": ["a", "b"], "answer_index": 0, "answer": "b"}, "'a', but 'answer' is 'b'; correct one"),
        ({"options": ["a", "b"], "answer_index": 2}, "from 0 to 1, got 2"),
        ({"options": ["a", "b"], "answer_index": True}, "from 0 to 1, got True"),
        ({"options": ["a", "b"], "answer_index": "B"}, "from 0 to 1, got 'B'"),
    ],
)
def test_wrong_options(given, message):
    with pytest.raises(RowError, match=message) as error:
        sample(conversations=turns("What moves?"), **given)
    assert [kind for kind, _ in error.value.faults] == ["options"]


@pytest.mark.parametrize(("given", "expected"), [("a-1", "a-1"), (17, "17"), (None, "rows.json:3"), (0, "0")])
def test_id(given, expected):
    assert sample(id=given).id == expected


def test_subtitles_belong_to_a_single_video():
    given = [{"start": 3, "end": "00:00:04.5", "text": "later"}, {"timestamp": [1, 2], "line": "Hi"}]
    assert sample(video="a.mp4", subtitles=given).videos[0].subtitles == (Cue(1.0, 2.0, "Hi"), Cue(3.0, 4.5, "later"))
    assert sample(video="a.mp4", subtitles="subs/a.srt").videos[0].subtitles == "/media/subs/a.srt"
    assert sample(video="a.mp4").videos[0].subtitles is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"video": ["a.mp4", "b.mp4"], "subtitles": "a.srt"}, "'subtitles' need exactly one video, but the row has 2"),
        ({"subtitles": "a.srt"}, "the row has 0"),
        ({"video": "a.mp4", "subtitles": "../a.srt"}, "leaves the media folder"),
        ({"video": "a.mp4", "subtitles": 5}, "must be a file or a list of objects with start, end and text, got 5"),
        ({"video": "a.mp4", "subtitles": [{"start": 2, "end": 1, "text": "x"}]}, "subtitle 0 ends at 1 s, before it"),
    ],
)
def test_wrong_subtitles(given, message):
    with pytest.raises(RowError, match=message):
        sample(**given)


def test_all_other_keys_go_to_meta():
    row = sample(id=1, video="a.mp4", words=[{"start": 0, "text": "x"}], source="UCF", label=None)
    assert row.meta == {"words": [{"start": 0, "text": "x"}], "source": "UCF", "label": None}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"conversations": None},
            "needs one list of turns, 'conversations' or 'messages', got the keys 'conversations'",
        ),
        ({"conversations": []}, r"got conversations=\[\]"),
        ({"conversations": "hello"}, "got conversations='hello'"),
        ({"messages": TALK}, "got conversations=.*messages="),
        ({"conversations": ["hello"]}, "turn 0 must be an object with 'from' and 'value', got 'hello'"),
        ({"conversations": [{"from": "humn", "value": "?"}]}, "turn 0 has the role 'humn'. Did you mean 'human'"),
        (
            {"conversations": [{"value": "?"}]},
            "turn 0 has the role None. Available: assistant, gpt, human, system, user",
        ),
        ({"conversations": [{"from": ["human"], "value": "?"}]}, r"turn 0 has the role \['human'\]"),
        (
            {"conversations": [TALK[0], {"from": "gpt", "value": None}]},
            r"turn 1 \(gpt\) needs a text in 'value', got None",
        ),
        (
            {"conversations": turns("a \ud800?", "b")},
            r"turn 0 \(human\) contains half a character, '\\ud800', at character 2",
        ),
        ({"conversations": [TALK[1]]}, "the row contains no question; add a user turn"),
    ],
)
def test_wrong_turns(row, message):
    with pytest.raises(RowError, match=message) as error:
        sample(**row)
    assert [kind for kind, _ in error.value.faults] == ["turns"]


def test_all_faults_of_a_row_are_reported_at_once():
    with pytest.raises(RowError, match="turn 0 has the role .*; turn 1 .*; the path .* leaves .*; 'fps' must") as error:
        sample(conversations=[{"from": "x", "value": "?"}, 7], video=["a.mp4", "../b.mp4"], fps="x")
    assert [kind for kind, _ in error.value.faults] == ["turns", "turns", "media", "media"]


# --- files ------------------------------------------------------------------------------------------------------


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_a_file_of_rows(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"id": 1, "video": "a.mp4", "conversations": TALK}, {"conversations": TALK}])
    data = pickle.loads(pickle.dumps(RowDataset(path=path)))
    assert len(data) == 2
    assert data[0].videos[0].source == str(tmp_path / "a.mp4")
    assert data[1].id == data.where(1) == f"{path}:2"
    assert data.size(0) > data.size(1) > 0
    assert RowDataset(path=path, media_root="/elsewhere")[0].videos[0].source == "/elsewhere/a.mp4"


def test_an_array_reads_the_same(tmp_path):
    rows = [{"id": 1, "conversations": TALK}, {"id": 2, "image": "a.png", "conversations": TALK}]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=2))
    array = RowDataset(path=str(tmp_path / "rows.json"))
    lines = RowDataset(path=write(tmp_path / "rows.jsonl", rows))
    assert [said(array[i]) for i in (0, 1)] == [said(lines[i]) for i in (0, 1)]
    assert array.where(1).endswith("rows.json:15")


def test_a_malformed_row_is_reported_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"conversations": []}\n\n{not json}\n')
    data = RowDataset(path=str(path))
    with pytest.raises(RowError, match=r"rows.jsonl:1: a row needs one list of turns"):
        data[0]
    with pytest.raises(RowError, match=r"rows.jsonl:3: the row is not JSON") as error:
        data[1]
    assert error.value.faults[0][0] == "json"
    assert isinstance(error.value, DataError)


# --- mixtures ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    for name, count in (("a", 10), ("b", 4)):
        write(tmp_path / f"{name}.jsonl", [{"id": f"{name}{i}", "conversations": TALK} for i in range(count)])
    return tmp_path


def mix(folder, *weights, seed=0):
    named = zip("ab", weights, strict=False)
    sources = [{"name": "jsonl", "path": str(folder / f"{name}.jsonl"), "weight": weight} for name, weight in named]
    return Mixture(sources=sources, seed=seed)


def ids(data):
    return [data[index].id for index in range(len(data))]


def test_whole_weights_repeat_rows(two):
    counts = Counter(ids(mix(two, 1, 3)))
    assert counts == {**{f"a{i}": 1 for i in range(10)}, **{f"b{i}": 3 for i in range(4)}}


def test_fractional_weights_choose_rows_once(two):
    data = mix(two, 0.5, 2.25)
    counts = Counter(ids(data))
    assert len(data) == 5 + 9
    assert all(counts[f"a{i}"] <= 1 for i in range(10))
    assert sorted(counts[f"b{i}"] for i in range(4)) == [2, 2, 2, 3]
    assert ids(mix(two, 0.5, 2.25)) == ids(data)
    assert {tuple(ids(mix(two, 0.5, 1, seed=seed))) for seed in range(5)} != {tuple(ids(data))}


def test_one_source_does_not_change_the_rows_of_another(two):
    assert [i for i in ids(mix(two, 0.5, 0.5)) if i[0] == "a"] == [i for i in ids(mix(two, 0.5, 2)) if i[0] == "a"]


def test_rows_keep_their_location(two):
    data = pickle.loads(pickle.dumps(mix(two, 1, 1)))
    assert data.where(12) == f"{two}/b.jsonl:3"
    assert data.size(12) == RowDataset(path=str(two / "b.jsonl")).size(2)


def test_the_default_weight_is_one_and_mixtures_can_be_nested(two):
    a, b = ({"name": "jsonl", "path": str(two / f"{name}.jsonl")} for name in "ab")
    nested = {"name": "mixture", "sources": [a, b], "weight": 2}
    data = DATASETS.build({"name": "mixture", "sources": [nested, b]})
    assert len(data) == 2 * 14 + 4
    assert data[0].id == "a0"
    assert data.where(len(data) - 1) == f"{two}/b.jsonl:4"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "data.sources is empty"),
        (["a.jsonl"], r"data.sources\[0\] must be a mapping with a 'name', got 'a.jsonl'"),
        ([{"path": "a"}], r"data.sources\[0\] must be a mapping with a 'name'"),
        ([{"name": "jsonl"}], r"data.sources\[0\] 'jsonl' needs data.sources\[0\].path"),
        ([{"name": "json", "path": "a"}], "unknown data 'json'. Did you mean 'jsonl'"),
        ([{"name": "jsonl", "path": "a", "wieght": 2}], r"data.sources\[0\] 'jsonl' has no option 'wieght'"),
    ],
)
def test_a_malformed_source_is_reported(sources, message):
    with pytest.raises(ConfigError, match=message):
        Mixture(sources=sources)


@pytest.mark.parametrize("weight", [0, -1, "2", None, True, float("nan"), float("inf"), 10**400])
def test_a_weight_must_be_a_positive_number(two, weight):
    with pytest.raises(ConfigError, match=r"data.sources\[1\].weight=.* must be a positive number"):
        mix(two, 1, weight)


@pytest.mark.parametrize("weight", [1e12, 10**300])
def test_a_weight_that_gives_too_many_rows_is_refused(two, weight):
    with pytest.raises(ConfigError, match=r"data.sources\[0\].weight=1e.* of 10 rows gives more than"):
        mix(two, weight)


@pytest.mark.parametrize("seed", [-1, -(10**400)])
def test_a_seed_must_not_be_negative(two, seed):
    sources = [{"name": "jsonl", "path": str(two / "a.jsonl")}]
    with pytest.raises(ConfigError, match="data.seed=-1.*must be at least 0"):
        DATASETS.build({"name": "mixture", "sources": sources, "seed": seed})


def test_a_folder_named_as_an_unknown_user_has_this_name(two, monkeypatch):
    monkeypatch.chdir(two)
    data = RowDataset(path=str(two / "a.jsonl"), media_root="~nosuchuser/x", allowed_roots=["~nosuchuser"])
    assert (data.media_root, data.allowed) == (two / "~nosuchuser" / "x", [two / "~nosuchuser"])


def test_a_weight_that_gives_no_rows_is_refused(two):
    with pytest.raises(ConfigError, match=r"data.sources\[0\].weight=0.01 of 10 rows gives no rows"):
        mix(two, 0.01)


# --- configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda path: path.stem)
def test_an_option_file_lists_and_comments_every_option(path):
    config = yaml.safe_load(path.read_text())
    parameters = inspect.signature(DATASETS.get(config["name"])).parameters
    assert list(config) == ["name", *parameters]
    for name, parameter in parameters.items():
        default = "???" if parameter.default is inspect.Parameter.empty else parameter.default
        assert config[name] == (list(default) if isinstance(default, tuple) else default), name
    assert sum(line.startswith("# ") for line in path.read_text().splitlines()) == len(config)


def test_every_data_set_has_an_option_file():
    assert [path.stem for path in OPTION_FILES] == DATASETS.names()


def test_a_mixture_can_be_set_on_the_command_line(two):
    sources = f"[{{name: jsonl, path: {two}/a.jsonl, weight: 2}}, {{name: jsonl, path: {two}/b.jsonl}}]"
    config = compose(["data=mixture", f"data.sources={sources}"], config="check_data")
    group = {key: config.data[key] for key in ("name", "sources", "seed")}
    assert len(DATASETS.build(group)) == 24


@pytest.mark.parametrize(("name", "option"), [("jsonl", "path"), ("mixture", "sources")])
def test_a_missing_option_is_named(name, option):
    config = OmegaConf.load(CONF_DIR / "data" / f"{name}.yaml")
    with pytest.raises(ConfigError, match=f"needs data.{option}"):
        DATASETS.check(config)
