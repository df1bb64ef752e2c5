"""The frames that a reply cites: which ones, from which seconds, and the contact sheet."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.clips import frame_numbers, write_clip
from tinyvid import DataError, Message, Sample, Video
from tinyvid.processing.evidence import MAX_FRAMES, frames_to_show
from tinyvid.text.moments import Moments


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", num_frames=41, fps=10)


def ask(clip, **bounds):
    return Sample([Message("user", "When?")], video=Video(clip, **bounds))


def test_cited_frames_are_the_frames_that_the_model_saw(assistant, clip, tmp_path):
    """The model sees four frames: 0, 13, 26 and 40."""
    found = assistant.evidence(ask(clip), "In Frame 4 and frame 2, but not in Frames 5 and 9.")
    assert frame_numbers(found.frames) == [13, 40]
    assert found.times == (0.0, 1.3, 2.6, 4.0)
    assert found.reply == "In <frame:4> and <frame:1.3>, but not in <frame:-1> and <frame:-1>."
    assert (found.cited, found.num_not_shown) == ((1, 3), 2)
    later = assistant.evidence(ask(clip, start=2.0), "In Frame 1.")
    assert (frame_numbers(later.frames), later.times[0]) == ([20], 2.0)
    found.save(tmp_path / "new" / "frame.png", side=120)
    sheet = np.asarray(Image.open(tmp_path / "new" / "frame.png"))
    height = round(120 * found.frames.shape[1] / found.frames.shape[2])
    cells = [Image.fromarray(sheet[6 : 6 + height, left : left + 120]) for left in (6, 132)]
    size = found.frames.shape[2], found.frames.shape[1]
    assert frame_numbers([np.asarray(cell.resize(size)) for cell in cells]) == [13, 40]
    assert sheet[6 + height : -6, 6:].any(), "the caption"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["frame.png"]


def test_a_span_of_time_shows_its_first_middle_and_last_frame(assistant, clip):
    assert frame_numbers(assistant.evidence(ask(clip), "From 1.0 s to 4.0 s.").frames) == [13, 26, 40]
    assert frame_numbers(assistant.evidence(ask(clip, start=1.0), "At 0.1 s.").frames) == [10]
    times = [float(number) for number in range(10)]
    assert frames_to_show("From <time:1> to <time:7>", times) == [1, 4, 7]
    assert frames_to_show("At <time:3.4>, then <time:5.2> to <time:5.4>.", times) == [3, 5]
    assert frames_to_show("At <time:3>, in <frame:8>.", times) == [8]
    assert frames_to_show("Nothing, <frame:-1>.", times) == []


def test_a_reply_in_steps_is_read_as_the_model_wrote_it_and_as_a_user_sees_it(assistant, clip):
    assistant.processor.template.moments = Moments("<|t{:03d}|>", 100)
    for reply, second in (("At <|t050|>.", "3.05"), ("At 3.1 s.", "3.1")):
        found = assistant.evidence(ask(clip, start=2.0), reply)
        assert (found.reply, frame_numbers(found.frames)) == (f"At <time:{second}>.", [33])


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("A dog.", "the reply cites no frame and no time; ask when something happens"),
        ("In Frame 9.", "cites no frame and no time .its frame numbers were not shown.;"),
    ],
)
def test_a_reply_that_cites_nothing_is_an_error(assistant, clip, reply, message):
    with pytest.raises(DataError, match=message):
        assistant.evidence(ask(clip), reply)


def test_evidence_needs_one_video_and_a_file_that_can_be_written(assistant, clip, tmp_path):
    for videos in (None, [clip, clip]):
        with pytest.raises(DataError, match="need a question about exactly one video"):
            assistant.evidence(replace(ask(clip), video=videos), "In Frame 1.")
    found = assistant.evidence(ask(clip), "In Frame 1.")
    with pytest.raises(DataError, match="the cited frames cannot be written to"):
        found.save(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        found.save(tmp_path / "file" / "frame.png")


def test_many_and_large_frames_are_limited(assistant, tmp_path):
    assistant.processor.sampler.num_frames = 80
    assistant.processor.max_length = 10_000
    many = np.zeros((80, 8, 8, 3), np.uint8)
    found = assistant.evidence(ask(many), " ".join(f"Frame {number}" for number in range(1, 81)))
    assert (len(found.cited), len(found.frames)) == (80, MAX_FRAMES)
    large = assistant.evidence(ask(np.zeros((2, 540, 960, 3), np.uint8)), "In Frame 1.")
    assert large.frames.shape == (1, 270, 480, 3)
