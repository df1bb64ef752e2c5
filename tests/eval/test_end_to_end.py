"""Benchmarks through the runner with a tiny model: every kind of medium, missing files, and undecodable ones."""

import json

import pytest

from tests.benchmark_files import build, frames, video, write_json, write_parquet, write_text
from tests.clips import truncate
from tests.eval.test_longvideobench import LISTED, row as moment
from tests.eval.test_mvbench import row as bounded
from tests.eval.test_videomme import ROWS, SRT, row as mme
from tests.factories import tiny_assistant
from tests.runs import ROOT
from tests.timed_files import HIGHLIGHTS, write_activitynet, write_charades, write_highlights, write_youcook2
from tinyvid import BENCHMARKS, ConfigError, DataError, EvaluationOptions, evaluate
from tinyvid.config import CONF_DIR
from tinyvid.text.frame_text import FrameText


def run(assistant, benchmark, folder, **options):
    report = evaluate(
        assistant, benchmark, run_dir=folder, options=EvaluationOptions(max_new_tokens=2, workers=0, **options)
    )
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines() if line]
    return report, {row["id"]: row for row in rows}


@pytest.mark.slow
def test_videomme_with_subtitles(assistant, tmp_path):
    rows = [*ROWS, mme("701", 1, "long")]
    write_parquet(tmp_path / "videomme/test-00000-of-00001.parquet", rows)
    write_text(tmp_path / "subtitle/yt001.srt", SRT)
    video(tmp_path / "data/yt001.mp4")
    truncate(tmp_path / "data/yt001.mp4", tmp_path / "data/yt401.mp4", 0.3)
    video(tmp_path / "data/yt601.mp4")
    benchmark = build("videomme", tmp_path, subtitles="frames")
    with pytest.raises(
        DataError, match=r"1 videos of benchmark 'videomme' are missing: .*yt701.mp4; get them from http"
    ):
        run(assistant, benchmark, tmp_path / "run")
    _, rows = run(assistant, benchmark, tmp_path / "run", missing="count")
    statuses = {name: row["status"] for name, row in rows.items()}
    assert statuses["401-1"] == statuses["701-1"] == "media_failed"
    assert {statuses[name] for name in ("001-1", "001-2", "001-3", "601-1")} <= {"answered", "unparsed"}
    official = json.loads((tmp_path / "run" / "videomme_results.json").read_text())
    assert sum(len(entry["questions"]) for entry in official) == 6
    with pytest.raises(ConfigError, match="other settings.*reads_times"):
        run(assistant, build("videomme", tmp_path), tmp_path / "run", missing="count")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["n_total"], report["n_media_failed"]) == (6, 2)


@pytest.mark.slow
def test_mvbench_reads_every_kind_of_medium(assistant, tmp_path):
    media = tmp_path / "video"
    write_json(tmp_path / "json/action_sequence.json", [bounded("a.mp4", start=0.5, end=1.5)])
    write_json(tmp_path / "json/action_antonym.json", [bounded("1.webm")])
    write_json(tmp_path / "json/fine_grained_pose.json", [bounded("S.avi")])
    write_json(tmp_path / "json/episodic_reasoning.json", [bounded("castle", start=1.0, end=3.0)])
    video(media / "star/Charades_v1_480/a.mp4")
    video(media / "ssv2_video/1.webm")
    video(media / "nturgbd/S.avi")
    frames(media / "tvqa/frames_fps3_hq/castle", 12)
    tasks = ["action_sequence", "action_antonym", "fine_grained_pose", "episodic_reasoning"]
    _, rows = run(assistant, build("mvbench", tmp_path, tasks=tasks), tmp_path / "run")
    assert {row["status"] for row in rows.values()} <= {"answered", "unparsed"}
    durations = {name.split("/")[0]: row["duration"] for name, row in rows.items()}
    assert durations["action_sequence"] == pytest.approx(1.0)
    assert durations["action_antonym"] == pytest.approx(2.0, abs=0.11)
    assert durations["episodic_reasoning"] == pytest.approx(2.0)


def test_longvideobench_writes_its_submission(assistant, tmp_path):
    hidden = [{key: value for key, value in moment(f"t_{n}").items() if key != "correct_choice"} for n in range(2)]
    write_json(tmp_path / "lvb_test_wo_gt.json", hidden)
    write_json(tmp_path / "subtitles/86CxyhFV9MI_en.json", LISTED)
    video(tmp_path / "videos/86CxyhFV9MI.mp4")
    _, rows = run(assistant, build("longvideobench", tmp_path, split="test"), tmp_path / "run")
    assert {row["value"] for row in rows.values()} == {None}
    submission = json.loads((tmp_path / "run" / "longvideobench_test_for_submission.json").read_text())
    assert list(submission) == ["t_0", "t_1"]


@pytest.mark.slow
def test_longvideobench_with_subtitles_between_frames(assistant, models, tmp_path):
    write_json(tmp_path / "lvb_val.json", [moment("v_0"), moment("v_1", question="And then?")])
    write_json(tmp_path / "subtitles/86CxyhFV9MI_en.json", LISTED)
    video(tmp_path / "videos/86CxyhFV9MI.mp4")
    benchmark = build("longvideobench", tmp_path, prompt_style="interleaved")
    framewise = tiny_assistant(models, connector="mlp")
    _, rows = run(framewise, benchmark, tmp_path / "run")
    assert {row["status"] for row in rows.values()} <= {"answered", "unparsed"}
    times = [0.0, 0.6, 1.2, 1.9]
    layout = framewise.processor.plan(benchmark.sample(benchmark[0], times))
    assert layout.clips[0].times(layout.indices[0]) == pytest.approx(times, abs=0.05)
    parts, kinds = [], layout.video_mask.tolist()
    for number, is_video in zip(layout.input_ids.tolist(), kinds, strict=True):
        if not parts or parts[-1][0] != is_video:
            parts.append((is_video, []))
        parts[-1][1].append(number)
    written = [(len(ids) if is_video else framewise.processor.tokenizer.decode(ids)) for is_video, ids in parts]
    frame = sum(kinds) // 4
    assert written[1:5] == [frame, "first", 2 * frame, "short"], "frames at 0; 0.6 and 1.2; 1.9"
    assert written[5] == frame
    assert "Question: What is there?" in written[6]
    with pytest.raises(DataError, match="this connector makes .* tokens for all frames together; use connector=mlp"):
        run(assistant, benchmark, tmp_path / "other")
    framewise.processor.template.frame = FrameText("{video}")
    with pytest.raises(ConfigError, match=r"template.frame='\{video\}' omits them; add \{subtitle\}"):
        run(framewise, benchmark, tmp_path / "without")


TIMED = {
    "charades_sta": (write_charades, {"3MSZA": "Charades_v1_480", "AMT7R": "videos"}, {}, "mIoU"),
    "activitynet_captions": (write_activitynet, {"v_one": "videos", "v_two": "videos"}, {"task": "captions"}, "F1"),
    "qvhighlights": (write_highlights, dict.fromkeys((row["vid"] for row in HIGHLIGHTS), "videos"), {}, "mAP"),
    "youcook2": (write_youcook2, {"xHr8X2Wpmno": "raw_videos/validation/226"}, {}, "F1"),
}


@pytest.mark.parametrize("name", TIMED)
def test_benchmarks_that_ask_for_times(assistant, tmp_path, name):
    write, videos, options, average = TIMED[name]
    write(tmp_path)
    for code, folder in list(videos.items())[:2]:
        video(tmp_path / folder / f"{code}.mp4")
    report, rows = run(assistant, build(name, tmp_path, **options), tmp_path / "run", missing="count")
    assert {row["status"] for row in rows.values()} <= {"answered", "unparsed"}
    assert average in report.text()
    assert all(row["value"] is not None for row in rows.values())


def test_charades_from_captions_shows_no_video(assistant, tmp_path):
    write_charades(tmp_path)
    rows = [{"video": f"{code}.mp4", "captions": ["a man", "a dog"]} for code in ("3MSZA", "AMT7R")]
    write_text(tmp_path / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    _, rows = run(assistant, build("charades_sta", tmp_path, prompt_style="captions"), tmp_path / "run")
    assert {row["status"] for row in rows.values()} <= {"answered", "unparsed"}
    assert {(row["duration"], row["num_frames"]) for row in rows.values()} == {(None, 0)}


def test_every_benchmark_is_on_the_menu():
    """Classes, option files and the README name the same benchmarks."""
    names = set(BENCHMARKS.names())
    assert {path.stem for path in (CONF_DIR / "benchmark").glob("*.yaml")} == names
    readme = (ROOT / "eval" / "README.md").read_text()
    assert {name for name in names if f"`{name}`" not in readme} <= {"custom"}
    modules = {path.stem for path in (ROOT / "eval").glob("*.py") if "@BENCHMARKS.register" in path.read_text()}
    imported = (ROOT / "eval" / "__init__.py").read_text()
    assert {module for module in modules if f'"{module}"' not in imported} == set()
