"""Captions of every second: their number, resuming, videos that cannot be read, and LLM4VG from end to end."""

import json

import pytest

from tests.benchmark_files import build, video
from tests.clips import truncate
from tests.factories import tiny_assistant
from tests.runs import load_program
from tests.timed_files import write_charades
from tinyvid import ConfigError, VideoError, compose
from tinyvid.command_line import CommandLine
from tinyvid.registry import VIDEO_READERS

program = load_program("caption_seconds")


@pytest.fixture
def clips(tmp_path):
    video(tmp_path / "clips/3MSZA.mp4", num_frames=24)  # 2.4 s
    video(tmp_path / "clips/AMT7R.mp4", num_frames=6)
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_assistant(models).save_pretrained(folder)
    return folder


@pytest.fixture
def run(checkpoint, clips, capsys):
    def call(*overrides, video=clips / "clips"):
        out = clips / "captions.jsonl"
        given = [f"ckpt={checkpoint}", "device=cpu", f"out={out}", f"video={video}", "max_new_tokens=2", *overrides]
        program.main(compose(given, config="caption_seconds"), CommandLine.parse(given))
        return [json.loads(line) for line in out.read_text().splitlines()], capsys.readouterr()

    return call


def test_each_second_has_a_caption(run, clips):
    rows, printed = run()
    assert {row["video"]: len(row["captions"]) for row in rows} == {"3MSZA.mp4": 2, "AMT7R.mp4": 1}
    assert "videos: 2 new, 0 earlier, 0 failed" in printed.out
    write_charades(clips)
    benchmark = build("charades_sta", clips, prompt_style="captions")
    assert len(benchmark) == 4
    assert "0 to 1 s: " in benchmark[0].sample.messages[0].text


def test_seconds_are_clips_of_the_video(clips):
    reader = VIDEO_READERS.build({"name": "auto"})
    samples = program.seconds_of(str(clips / "clips/3MSZA.mp4"), "What moves?", reader)
    assert [(sample.videos[0].start, sample.videos[0].end) for sample in samples] == [(0.0, 1.0), (1.0, None)]
    assert [message.text for message in samples[0].messages] == ["What moves?"]
    video(clips / "long.mp4", num_frames=25)
    assert len(program.seconds_of(str(clips / "long.mp4"), "?", reader)) == 3, "half a second is one more"


@pytest.mark.slow
def test_a_stopped_run_continues(run, clips):
    (whole, _) = run()
    out = clips / "captions.jsonl"
    first, second = out.read_text().splitlines(keepends=True)
    out.write_text(first + second[:20])
    again, printed = run()
    assert again == whole
    assert "videos: 1 new, 1 earlier, 0 failed" in printed.out
    with pytest.raises(ConfigError, match="captions.jsonl' has captions with other settings; choose another file"):
        run("question=What else?")


@pytest.mark.slow
def test_a_video_that_cannot_be_read(run, clips):
    truncate(clips / "clips/3MSZA.mp4", clips / "clips/broken.mp4", 0.2)
    with pytest.raises(VideoError, match="broken.mp4"):
        run()
    rows, printed = run("on_error=skip")
    assert [row["video"] for row in rows] == ["3MSZA.mp4", "AMT7R.mp4"]
    assert "videos: 0 new, 2 earlier, 1 failed" in printed.out
    assert "broken.mp4" in printed.err


@pytest.mark.parametrize(
    "content", ["my notes", "one\ntwo", '[{"video": "a.mp4"}]\n', '{"video": "a.mp4"}\n{"vi', "{\n}"]
)
def test_another_file_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "captions.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match="captions.jsonl.*choose another file"):
        program.resume(path, "0123")
    assert path.read_text() == content


@pytest.mark.slow
def test_bad_input(run, clips):
    video(clips / "other/3MSZA.mp4", num_frames=4)
    with pytest.raises(ConfigError, match="3MSZA.mp4 and .*3MSZA.mp4 have the same name; rename one of them"):
        run(video=clips / "*/*.mp4")
    with pytest.raises(ConfigError, match="on_error='stop' is unknown"):
        run("on_error=stop")
    with pytest.raises(ConfigError, match="out= is missing"):
        program.main(compose(["video=x"], config="caption_seconds"), CommandLine())
    with pytest.raises(ConfigError, match="set either video="):
        program.main(compose(["out=x"], config="caption_seconds"), CommandLine())
