"""Sets of the shapes world: real video files with training rows, written atomically and reproducibly."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.factories import tiny_overrides
from tests.runs import ROOT, load_program, python
from tests.worlds.footage_sources import write_sources
from tinyvid import Assistant, ConfigError, DataError, compose
from tinyvid.command_line import CommandLine
from tinyvid.data.datasets import RowDataset
from tinyvid.diagnostics.checks import RowChecks
from tinyvid.registry import DATASETS, VIDEO_READERS
from tinyvid.worlds.footage import FootageOptions
from tinyvid.worlds.shapes import (
    HELD_OUT,
    SetOptions,
    encode,
    plan_clip,
    render,
    sampled_times,
    scene_from_dict,
    write_set,
)

SMALL = SetOptions(questions=4, seconds=[2.0])
FILES = {"crf": [18, 28], "codecs": ["h264"]}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("sets") / "small"
    write_set(SMALL, out, clips=12, **FILES)
    return out


# --- contents of a set ------------------------------------------------------------------------------------------


def test_a_set_contains_files_rows_scenes_and_a_manifest(small):
    assert {path.name for path in small.iterdir()} == {"clips", "rows.jsonl", "scenes.jsonl", "manifest.json"}
    assert len(list((small / "clips" / "000").glob("*.mp4"))) == 12
    manifest = json.loads((small / "manifest.json").read_text())
    assert (manifest["world"], manifest["format"]) == ("shapes", 1)
    assert manifest["options"]["seed"] == 0
    assert manifest["options"]["crf"] == [18, 28]
    assert manifest["counts"]["clips"] == 12
    assert manifest["counts"]["rows"] == 48 == len(lines(small / "rows.jsonl"))
    assert sum(n for formats in manifest["counts"]["families"].values() for n in formats.values()) == 48
    assert set(manifest["versions"]) == {"python", "numpy", "tinyvid", "av"}


@pytest.mark.slow
def test_rows_have_no_faults_and_scenes_match_the_files(small, tmp_path):
    processor = Assistant.from_config(compose(tiny_overrides(tmp_path)), device="meta").processor
    checks = RowChecks(RowDataset(path=str(small / "rows.jsonl")), processor, decode="all")
    assert [fault for index in range(len(checks)) for fault in checks[index].faults] == []
    reader = VIDEO_READERS.build({"name": "pyav"})
    for record in lines(small / "scenes.jsonl"):
        meta = reader.probe(small / record["video"])
        assert (meta.width, meta.height, meta.num_frames) == (record["width"], record["height"], record["num_frames"])
        assert meta.fps == pytest.approx(record["fps"])
        assert meta.duration == pytest.approx(record["num_frames"] / record["fps"], abs=0.02)
        frames = reader.read(small / record["video"], range(meta.num_frames)).frames.astype(int)
        scene = scene_from_dict(record["scene"])
        drawn = render(scene, num_frames=meta.num_frames, width=meta.width, height=meta.height)
        assert np.abs(frames - drawn).mean() < 6
        assert [event["kind"] for event in record["events"]] == [event.kind for event in scene.events]


def test_a_row_becomes_a_sample_with_all_fields(small):
    rows = RowDataset(path=str(small / "rows.jsonl"))
    scenes = {record["video"]: record for record in lines(small / "scenes.jsonl")}
    for index in range(len(rows)):
        sample, row = rows[index], rows.rows[index]
        assert [message.role for message in sample.messages] == ["user", "assistant"]
        assert sample.messages[1].text == row["conversations"][1]["value"]
        record = scenes[row["video"]]
        scene = scene_from_dict(record["scene"])
        assert sample.meta["duration"] == record["num_frames"] / record["fps"]
        assert [thing["colors"][0] for thing in sample.meta["objects"]] == [shape.color for shape in scene.shapes]
        if sample.meta["format"] == "choice":
            assert sample.meta["options"][sample.meta["answer_index"]] == sample.meta["answer"]
        times = sampled_times(record["num_frames"], 16)
        for number, moment in enumerate(times):
            for shape, thing in zip(scene.state(moment, aspect=record["width"] / record["height"]),
                                    sample.meta["objects"], strict=True):  # fmt: skip
                box = thing["boxes"][number]
                assert (box is not None) == shape.visible
                if box:
                    assert box[0] < shape.x * record["width"] < box[2]
                    assert box[1] < shape.y * record["height"] < box[3]


@pytest.mark.slow
def test_splits_differ_and_unseen_shows_held_out_pairs():
    def pairs(split, **options):
        plans = [plan_clip(replace(SMALL, split=split, **options), index) for index in range(60)]
        return [{(c, s.kind) for s in plan.scene.shapes for c in s.colors} for plan in plans]

    train, iid = (plan_clip(replace(SMALL, split=split), 0).scene for split in ("train", "iid"))
    assert train != iid
    assert all(found & set(HELD_OUT) for found in pairs("unseen"))
    for split in ("train", "iid"):
        assert not any(found & set(HELD_OUT) for found in pairs(split, hold_out=True))
        assert any(found & set(HELD_OUT) for found in pairs(split))


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "ending"), [("h264", "mp4"), ("mpeg4", "mp4"), ("vp9", "webm")])
def test_readers_read_every_codec(tmp_path, codec, ending):
    options = replace(SMALL, sizes=["96x54"], fps=[12.5], seconds=[2.0])
    write_set(options, tmp_path / "set", clips=1, crf=[20], codecs=[codec])
    (record,) = lines(tmp_path / "set" / "scenes.jsonl")
    assert record["video"].endswith(ending)
    path = tmp_path / "set" / record["video"]
    drawn = render(scene_from_dict(record["scene"]), num_frames=25, width=96, height=54).astype(int)
    for name in ("pyav", "decord"):
        reader = VIDEO_READERS.build({"name": name})
        meta = reader.probe(path)
        assert (meta.num_frames, meta.fps) == (25, pytest.approx(12.5))
        assert np.abs(reader.read(path, range(25)).frames - drawn).mean() < 5


# --- reproducibility --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_clip_depends_only_on_its_number(small, tmp_path):
    write_set(SMALL, tmp_path / "workers", clips=12, workers=2, **FILES)
    assert content(tmp_path / "workers") == content(small)
    write_set(SMALL, tmp_path / "fewer", clips=3, **FILES)
    fewer, more = content(tmp_path / "fewer"), content(small)
    assert all(more[name] == data for name, data in fewer.items() if name.startswith("clips/"))
    assert more["rows.jsonl"].startswith(fewer["rows.jsonl"])
    write_set(replace(SMALL, seed=1), tmp_path / "seed", clips=3, **FILES)
    assert content(tmp_path / "seed")["rows.jsonl"] != fewer["rows.jsonl"]


def test_a_crowded_scene_is_retried_until_it_fits():
    """Clip 1000 of these options needs more than 60 attempts."""
    options = SetOptions(seconds=[2.0, 3.0, 4.0, 6.0], fps=[8.0], sizes=["64x64"])
    assert len(plan_clip(options, 1000).scene.shapes) == 4


def test_files_are_reproducible_to_the_byte():
    plan = plan_clip(SMALL, 5)
    for codec in ("h264", "mpeg4", "vp9"):
        assert len({encode(plan, codec=codec) for _ in range(4)}) == 1, codec


@pytest.mark.slow
def test_a_killed_run_leaves_no_set_and_resumes(small, tmp_path):
    out = tmp_path / "set"
    program = (
        "import sys; from pathlib import Path; from tinyvid.worlds.shapes import SetOptions, write_set\n"
        "write_set(SetOptions(questions=4, seconds=[2.0]), Path(sys.argv[1]), clips=12, crf=[18, 28], codecs=['h264'],"
        " track=slowly)"
    )
    slowly = "import time\ndef slowly(clips):\n  for clip in clips:\n    time.sleep(0.2)\n    yield clip\n"
    process = subprocess.Popen([sys.executable, "-c", slowly + program, str(out)], cwd=ROOT)
    partial = tmp_path / "set.partial"
    limit = time.monotonic() + 120
    while len(list(partial.glob("clips/*/*.mp4"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    assert not (partial / "manifest.json").exists()
    done = {path: path.stat().st_mtime_ns for path in partial.glob("clips/*/*.mp4")}
    assert 3 <= len(done) < 12
    with pytest.raises(ConfigError, match=r"contains an interrupted set with other options \(seed\); use its"):
        write_set(replace(SMALL, seed=1), out, clips=12, **FILES)
    write_set(SMALL, out, clips=12, **FILES)
    assert not partial.exists()
    assert content(out) == content(small)
    assert all((out / path.relative_to(partial)).stat().st_mtime_ns == moment for path, moment in done.items())


@contextmanager
def limited_files(size):
    """Let no file grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_reported_and_leaves_no_set(small, tmp_path):
    message = r"set.partial: writing failed: clip \d+ of 12: .*; finished clips are kept"
    with pytest.raises(DataError, match=message), limited_files(2500):
        write_set(SMALL, tmp_path / "set", clips=12, **FILES)
    assert not (tmp_path / "set").exists()
    assert not list((tmp_path / "set.partial").rglob("*.tmp"))
    write_set(SMALL, tmp_path / "set", clips=12, **FILES)
    assert content(tmp_path / "set") == content(small)


@pytest.mark.parametrize("options", [{}, {"num_shapes": 1, "families": ["order_between"], "questions": 1}])
def test_a_failure_at_the_first_clip_leaves_nothing(tmp_path, options):
    with pytest.raises(DataError), limited_files(1200 if not options else 10**6):
        write_set(replace(SMALL, **options), tmp_path / "set", clips=12, **FILES)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_before_the_last_step_is_continued(small, tmp_path):
    shutil.copytree(small, tmp_path / "set.partial")
    with pytest.raises(ConfigError, match=r"contains an interrupted set with other options \(seed\)"):
        write_set(replace(SMALL, seed=1), tmp_path / "set", clips=12, **FILES)
    write_set(SMALL, tmp_path / "set", clips=12, **FILES)
    assert content(tmp_path / "set") == content(small)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_finished_clips(small, tmp_path, number, status):
    program = (
        "import os, signal, sys; from pathlib import Path; from tinyvid.interrupts import interruptible\n"
        "from tinyvid.worlds.shapes import SetOptions, write_set\n"
        "def stop(clips):\n"
        "    for done, clip in enumerate(clips):\n"
        f"        if done == 3: os.kill(os.getpid(), {int(number)})\n"
        "        yield clip\n"
        "with interruptible('Run it again.'):\n"
        "    write_set(SetOptions(questions=4, seconds=[2.0]), Path(sys.argv[1]), clips=12, crf=[18, 28],"
        " codecs=['h264'], track=stop)\n"
    )
    done = python("-c", program, str(tmp_path / "set"))
    assert (done.returncode, done.stderr.strip()) == (status, "Interrupted. Run it again.")
    assert len(list((tmp_path / "set.partial").glob("clips/*/*.mp4"))) >= 3
    write_set(SMALL, tmp_path / "set", clips=12, **FILES)
    assert content(tmp_path / "set") == content(small)


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"split": "test"}, "split='test' is unknown. .*iid"),
        ({"sizes": ["65x64"]}, "sizes: '65x64' must have the form 128x72, with even numbers"),
        ({"sizes": ["64"]}, "sizes: '64' must have the form 128x72"),
        ({"sizes": ["64x100000"]}, "sizes: '64x100000' must have the form"),
        ({"sizes": []}, "sizes is empty"),
        ({"fps": [2.0]}, "fps=2 and seconds=2 give 4 frames; a clip needs 8 to 100,000"),
        ({"fps": [float("nan")]}, "give 0 frames"),
        ({"seconds": [1e9]}, "a clip needs 8 to 100,000"),
        ({"cuts": 1.5}, "cuts=1.5 must be a fraction"),
        ({"families": ["colors"]}, "families: 'colors' is unknown. Did you mean 'color'"),
        ({"formats": ["yes"]}, "formats: 'yes' is unknown"),
        ({"num_shapes": 1, "min_events": 3}, "min_events=3 is impossible with 1 shapes"),
        ({"colors": ["red", "mauve"]}, "colors: 'mauve' is unknown"),
        ({"split": "unseen", "colors": ["green", "white", "pink"]}, "split=unseen needs red, blue"),
        ({"bounces": [1, 2, 3]}, "must be two numbers"),
    ],
)
def test_impossible_clips_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **options)


def test_impossible_questions_are_listed(tmp_path):
    options = replace(SMALL, num_shapes=1, families=["order_between", "collision"], questions=1)
    with pytest.raises(
        DataError, match="clip 0: none of 40 scenes allows questions=1 of the families order_between, c"
    ):
        write_set(options, tmp_path / "set", clips=2, **FILES)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"clips": 0}, "clips=0 must be at least 1"),
        ({"clips": 10**10}, r"clips=10,000,000,000 needs at least 15,000.0 GB, but '.*' has"),
        ({"crf": []}, r"crf=\[\] must be a list of numbers"),
        ({"crf": [52]}, r"crf=\[52\] must be a list of numbers from 0 to 51"),
        ({"codecs": []}, "codecs is empty"),
        ({"codecs": ["h265"]}, "codecs: 'h265' is unknown. Did you mean 'h264'"),
    ],
)
def test_impossible_files_are_refused_before_anything_is_written(tmp_path, files, message):
    with pytest.raises(ConfigError, match=message):
        write_set(SMALL, tmp_path / "set", **({"clips": 2} | FILES | files))
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_never_overwritten(small, tmp_path):
    before = content(small)
    with pytest.raises(ConfigError, match=r"out='.*small' already exists; remove it, or choose another folder"):
        write_set(SMALL, small, clips=12, **FILES)
    assert content(small) == before
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists but is not an interrupted set; remove it"):
        write_set(SMALL, tmp_path / "set", clips=1, **FILES)
    assert (tmp_path / "set.partial" / "notes.txt").read_text() == "mine"


# --- the data set -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_data_set_streams_the_clips_of_a_set(tmp_path):
    data = DATASETS.build({"name": "shapes", "clips": 3, "questions": 2, "seconds": [2.0, 4.0], "fps": [8, 25]})
    assert len(data) == 6
    for index in range(6):
        sample = data[index]
        plan = data.plan(index)
        (video,) = sample.videos
        assert video.source.shape == (plan.num_frames, 64, 64, 3)
        assert video.fps == plan.fps
        assert sample.messages[0].text == plan.questions[index % 2].text
        assert sample.id == f"train-{index // 2:06d}-{index % 2}"
        assert data.where(index) == f"shapes/train, seed 0:{index // 2}"
        assert np.array_equal(video.source, data[index].videos[0].source)
    with pytest.raises(IndexError):
        data[6]
    processor = Assistant.from_config(compose(tiny_overrides(tmp_path)), device="meta").processor
    assert [RowChecks(data, processor, decode="all")[i].faults for i in range(6)] == [()] * 6
    with pytest.raises(ConfigError, match=r"data 'shapes': data.split='tset' is not allowed. Available: iid"):
        DATASETS.build({"name": "shapes", "split": "tset"})


# --- the program ------------------------------------------------------------------------------------------------


def make_world(arguments):
    line = CommandLine.parse(arguments)
    load_program("make_world").main(compose(line.overrides, config="make_world"), line)


def test_the_program_lists_every_option_with_its_default():
    config = compose([], config="make_world")
    for name, default in ((field, getattr(SetOptions(), field)) for field in SetOptions.__dataclass_fields__):
        assert config[name] == (list(default) if isinstance(default, tuple) else default), name
    assert (config.clips, config.workers, list(config.codecs)) == (2000, 0, ["h264"])


@pytest.mark.slow
def test_the_options_of_another_world_have_the_same_defaults_as_the_code():
    config = compose(["world=footage"], config="make_world")
    for name, default in ((field, getattr(FootageOptions(), field)) for field in FootageOptions.__dataclass_fields__):
        if name != "source":
            assert config[name] == (list(default) if isinstance(default, tuple) else default), name
    assert not set(config) & {"num_shapes", "traces"}
    with pytest.raises(ConfigError, match="unknown key 'num_shapes'"):
        compose(["world=footage", "num_shapes=2"], config="make_world")
    with pytest.raises(ConfigError, match="world=foot: unknown option. Did you mean 'footage'"):
        compose(["world=foot"], config="make_world")


@pytest.mark.slow
def test_the_program_writes_a_set_of_a_folder_of_pictures(tmp_path, capsys):
    write_sources(tmp_path / "my, [pictures]", 4, 0)
    (tmp_path / "my, [pictures]" / "bad.png").write_bytes(b"")
    options = ["world=footage", f"source={tmp_path / 'my, [pictures]'}", f"out={tmp_path / 'set'}", "clips=2"]
    options += ["split=all", "sizes=[96x96]", "seconds=[2]", "fps=[8]"]
    with pytest.raises(DataError, match=r"1 of 5 files cannot be used: bad.png \("):
        make_world(options)
    make_world([*options, "on_error=skip"])
    printed = capsys.readouterr().out
    assert "Left out 1 files of the source: bad.png (cannot be read" in printed
    assert "Wrote 2 clips" in printed
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["sources"]["found"] == 4


@pytest.mark.slow
def test_the_program_writes_a_set_and_prints_its_contents(tmp_path):
    out = tmp_path / "my set, [1]"
    overrides = [f"out={out}", "clips=2", "questions=3", "seconds=[2]"]
    done = python("recipes/make_world.py", *overrides)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Wrote 2 clips and 6 rows to" in done.stdout
    assert len(lines(out / "rows.jsonl")) == 6
    with pytest.raises(ConfigError, match="already exists"):
        make_world(overrides)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "out= is missing; give the folder to write"),
        (["clips=0"], "clips=0 must be at least 1"),
        (["clips=many"], "clips='many'"),
        (["split=tset"], "split='tset' is not allowed"),
        (["sizes=[1x1]"], "sizes: '1x1' must have the form"),
        (["world=footage"], "source= is missing; give a folder of photos and videos"),
        (["world=footage", "source=nowhere"], "source='nowhere' is not a folder"),
    ],
)
def test_the_program_refuses(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_world([*overrides, f"out={tmp_path / 'set'}"] if overrides else [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("page", "number"), [("shapes", 8), ("footage", 3)])
def test_the_documented_commands_compose(page, number):
    text = (Path(ROOT) / "docs" / f"{page}.md").read_text()
    commands = [line.strip() for line in text.splitlines() if "recipes/make_world.py " in line]
    assert len(commands) >= number
    for command in commands:
        overrides = command.split("recipes/make_world.py ", 1)[1].split("#")[0].split()
        given = [override for override in overrides if not override.startswith("out=")]
        compose(CommandLine.parse(given).overrides, config="make_world")
