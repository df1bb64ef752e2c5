"""The keys of a row: every common name is read, and a key that looks like a mistake is questioned."""

import re
from pathlib import Path

import pytest

from tinyvid.data.parsing import RowError, to_sample

TALK = [{"from": "human", "value": "What moves?"}, {"from": "gpt", "value": "A bike."}]


def sample(**row):
    return to_sample({"conversations": TALK, **row}, media_root=Path("/media"), default_id="rows.json:3")


def faults(**row):
    with pytest.raises(RowError) as error:
        sample(**row)
    return error.value.faults


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("name", ["{}", "{}s", "{}_path", "{}_paths", "{}_file", "{}_files"])
@pytest.mark.parametrize("paths", ["a", ["a"], ["a", "b"]])
def test_names_of_media(kind, name, paths):
    shown = sample(**{name.format(kind): paths})
    assert [video.source for video in shown.videos] == [f"/media/{path}" for path in paths]
    assert not shown.meta


def test_rows_of_llama_factory_and_ms_swift():
    """Both fill the keys of media that a row does not have with empty lists."""
    talk = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "A bike.", "loss": None}]
    row = {"messages": talk, "videos": ["a.mp4"], "images": [], "audios": [], "system": "", "tools": ""}
    shown = to_sample(row, media_root=Path("/media"), default_id="x")
    assert [(message.role, message.videos) for message in shown.messages] == [("user", 1), ("assistant", 0)]


@pytest.mark.parametrize(
    ("row", "bounds"),
    [
        ({"start_time": 1.5, "end_time": 3}, (1.5, 3)),
        ({"video_start": 1, "video_end": None}, (1, None)),
        ({"start": None, "end_time": 3}, (None, 3)),
    ],
)
def test_names_of_bounds(row, bounds):
    (video,) = sample(video="a.mp4", **row).videos
    assert (video.start, video.end) == bounds


@pytest.mark.parametrize("key", ["system", "system_prompt"])
def test_a_system_message_beside_the_turns(key):
    messages = sample(**{key: "Be brief."}).messages
    assert [(message.role, message.text) for message in messages[:2]] == [
        ("system", "Be brief."),
        ("user", "What moves?"),
    ]
    assert sample(**{key: ""}).messages == sample().messages


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"video": "a.mp4", "videos": ["a.mp4"]}, "media", "the keys 'video' and 'videos' mean the same; keep one"),
        ({"video": "a.mp4", "start": 1, "video_start": 1}, "media", "the keys 'start' and 'video_start' mean the same"),
        ({"system": "A", "system_prompt": "B"}, "turns", "mean the same"),
        ({"system": "A", "conversations": [{"from": "system", "value": "B"}, *TALK]}, "turns", "and a system turn"),
        ({"system": ["A"]}, "turns", r"'system' must be a text, got \['A'\]"),
        *[
            ({key: "a.mp4"}, "keys", f"'{key}' is not read. Did you mean '{near}'")
            for key, near in [
                ("Video", "video"),
                ("VIDEOS", "video"),
                ("vidoe", "video"),
                ("vido", "video"),
                ("videoPath", "video_path"),
                ("video-file", "video_file"),
            ]
        ],
        ({"Images": ["a.png"]}, "keys", "Did you mean 'image"),
        ({"conversation": TALK}, "keys", "Did you mean 'conversations'"),
        ({"System": "A"}, "keys", "Did you mean 'system'"),
        ({"startTime": 1}, "keys", "Did you mean 'start_time'"),
        ({"ends": 1}, "keys", "Did you mean 'end'"),
        ({"option": ["a", "b"]}, "keys", "Did you mean 'options'"),
        ({"subtitle": "a.srt"}, "keys", "Did you mean 'subtitles'"),
        ({"timestamp": [1, 2]}, "keys", r"'timestamp' is not read; give 'clip': \[start, end\] in seconds"),
        ({"nframes": 8}, "keys", "'nframes' is not read; set sampler.num_frames"),
        ({"n_frames": 8}, "keys", "'n_frames' is not read; set sampler.num_frames"),
        ({"segments": [[1, 2]]}, "keys", "'segments' is not read; give 'clip'"),
        ({"Audio": "a.wav"}, "keys", "'Audio' is not read; tinyvid does not read sound"),
        *[
            ({"video": "a.mp4", key: 1}, "keys", f"'{key}' is not read; give 'clip'")
            for key in (
                "start_sec",
                "video_end_sec",
                "clip_start",
                "start_frame",
                "endFrame",
                "Start_timestamp",
                "begin",
            )
        ],
        ({"loss": False}, "keys", "'loss' is not read; give it in the turn of a reply"),
        ({"train": False}, "keys", "'train' is not read; give it in the turn of a reply"),
        *[
            ({key: "v_1"}, "keys", f"'{key}' seems to name the medium of the row")
            for key in ("video_id", "video_name", "image_dir", "imageUrl", "vid_name")
        ],
        ({"media": {"video": "a.mp4"}}, "keys", "'media' seems to name the medium"),
        ({"media": [{"type": "video", "path": "a.mp4"}]}, "keys", "'media' seems to name the medium"),
        ({"audios": ["a.wav"]}, "keys", "'audios' is not read; tinyvid does not read sound"),
        ({"tools": '[{"name": "zoom"}]'}, "keys", "'tools' is not read; describe the tools in the system message"),
        (
            {"file": "a/b.MP4"},
            "keys",
            "'file' names the file 'a/b.MP4', but the media of a row",
        ),
        ({"frames": ["1.jpg", "2.jpg"]}, "keys", "'frames' names the file '1.jpg'"),
        ({"id": ["a"]}, "keys", r"'id' must be a text of at most 1,000 characters or a number, got \['a'\]"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_a_fault(row, kind, message):
    found = faults(**row)
    assert kind in [name for name, _ in found]
    assert any(re.search(message, text) for _, text in found), found


@pytest.mark.parametrize(
    "meta",
    [
        {
            "source": "UCF",
            "label": "Arson",
            "duration": 3.2,
            "question_type": "what",
            "num_video": 7,
            "has_image": True,
        },
        {"data_source": "x", "task": "count", "frames": [0, 5], "seconds": [1.5], "objects": [{"boxes": []}]},
        {"stats": 1, "ended": True, "width": 64, "model": "x", "text": "a.mp4 is a file", "score": None},
        {"video": None, "thumbnail": "a.png"},
        {"video": "a.mp4", "video_id": "a", "tools": "[]", "start": None, "video_fps": 30, "loss": 0.2},
        {"video": None, "start_frame": 3, "video_id": "a"},
        {"time": 3, "framework": "x", "video_caption": "A cat.", "imagery": "x", "train": True},
        {"video": "b.mp4", "original": "a.mp4"},
        {"meta": {"Video": "a.mp4", "nframes": 8}},
        {"answer": {"any": ["thing"]}},
    ],
    ids=str,
)
def test_metadata_is_kept(meta):
    assert sample(**meta).meta == {key: value for key, value in meta.items() if key not in ("video", "start")}


@pytest.mark.parametrize("key", ["loss", "train", "weight"])
@pytest.mark.parametrize(("no", "yes"), [(False, True), (0, 1), (0.0, 1.0)])
def test_a_reply_that_is_not_learned(key, no, yes):
    first = [TALK[0], TALK[1] | {key: yes}]
    talk = [*first, {"from": "human", "value": "Where?", key: no}, {"from": "gpt", "value": "", key: no}]
    assert [m.loss for m in sample(conversations=talk).messages if m.role == "assistant"] == [True, False]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"loss": 0.5}, r"turn 1 \(gpt\): 'loss' must be true or false, got 0.5"),
        ({"mask": True}, "turn 1: 'mask' is not read; use 'loss': false"),
        ({"trainable": False}, "turn 1: 'trainable' is not read; use 'loss': false"),
        ({"train": "no"}, "'train' must be true or false, got 'no'"),
        ({"loss": False, "train": True}, "'loss' and 'train' mean the same"),
        ({"loss_scale": 0}, "turn 1: 'loss_scale' is not read; use 'loss': false"),
        ({"Loss": False}, "turn 1: 'Loss' is not read. Did you mean 'loss'"),
        ({"image": "a.png"}, "turn 1: 'image' is not read; list the media of all turns in the row's 'video'"),
        ({"from": "human", "loss": True}, r"turn 1 \(human\): 'loss' is true, but only replies can be learned"),
        ({"content": "other"}, "'value' and 'content' mean the same"),
    ],
)
def test_wrong_keys_of_a_turn(turn, message):
    with pytest.raises(RowError, match=message):
        sample(conversations=[TALK[0], TALK[1] | turn])


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_reply_is_a_fault(text):
    assert faults(conversations=[*TALK, TALK[0], {"from": "gpt", "value": text}])[0][0] == "no_reply"


@pytest.mark.parametrize("number", [10**400, -(10**400), float("inf"), 10**4000])
@pytest.mark.parametrize("key", ["fps", "start", "end", "id"])
def test_huge_numbers_are_faults(key, number):
    assert faults(video="a.mp4", **{key: number})
