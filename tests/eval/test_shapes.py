"""The benchmark ``shapes``: its set is drawn once, and its items are its rows."""

import importlib.util
import json
import pickle
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from recipes.shapes.measure import measure
from tests.benchmark_files import build, fields, outcomes
from tests.runs import ROOT
from tinyvid import ConfigError, DataError, EvaluationOptions, build_benchmark, evaluate
from tinyvid.checkpoints.hub import DEFAULT_MODEL
from tinyvid.evaluation.scoring.scores import read
from tinyvid.worlds.shapes import SetOptions, plan_clip, write_set

OPTIONS = {"clips": 6, "questions": 4, "seed": 7, "sizes": ["64x64"], "fps": [8.0], "seconds": [2.0, 3.0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sets") / "shapes"


@pytest.fixture(scope="module")
def benchmark(folder):
    return build("shapes", folder, **OPTIONS)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def videos(benchmark) -> list[str]:
    return [str(item.sample.videos[0].source) for item in benchmark]


# --- the set --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_set_is_what_make_world_writes(benchmark, folder, tmp_path):
    options = {key: value for key, value in OPTIONS.items() if key != "clips"}
    write_set(SetOptions(split="iid", **options), tmp_path / "set", clips=6, crf=[18, 23, 28], codecs=["h264"])
    names = ["rows.jsonl", "scenes.jsonl", *(str(p.relative_to(folder)) for p in folder.glob("clips/*/*.mp4"))]
    assert len(names) == 8
    assert all((folder / name).read_bytes() == (tmp_path / "set" / name).read_bytes() for name in names)


def test_a_set_that_is_there_is_used_again(benchmark, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = build("shapes", folder, **OPTIONS)
    assert [fields(item) for item in again] == [fields(item) for item in benchmark]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"clips": 7}, "clips is 6, not 7"), ({"seed": 8}, "seed is 7, not 8"),
     ({"crf": [30]}, r"crf is \[18, 23, 28\], not \[30\]"), ({"split": "unseen"}, "split is 'iid', not 'unseen'")],
)  # fmt: skip
def test_another_set_in_its_place_is_refused(benchmark, folder, changed, told):
    with pytest.raises(ConfigError, match=f"contains a set with other options .*{told}.*choose another benchmark.root"):
        build("shapes", folder, **OPTIONS | changed)


def test_a_folder_that_is_no_set_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="exists but does not contain a set of the shapes world"):
        build("shapes", tmp_path, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_set_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"benchmark\.root='.*file/set' cannot be written"):
        build("shapes", tmp_path / "file" / "set", **OPTIONS)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"codecs": ["av1"]}, "codecs: 'av1' is unknown"), ({"sizes": ["65x64"]}, "must have the form 128x72"),
     ({"blind": "blue"}, "blind='blue' is not allowed"), ({"clips": 0}, "clips=0 must be at least 1")],
)  # fmt: skip
def test_impossible_sets_leave_nothing_behind(tmp_path, wrong, told):
    with pytest.raises(ConfigError, match=told):
        build("shapes", tmp_path / "set", **OPTIONS | wrong)
    assert not list(tmp_path.glob("*.partial"))
    assert not (tmp_path / "set").exists()


def test_without_a_root_every_set_has_a_place_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = OPTIONS | {"clips": 1}
    first = build_benchmark({"name": "shapes", **small})
    again = build_benchmark({"name": "shapes", **small})
    other = build_benchmark({"name": "shapes", **small, "crf": [40]})
    assert len({item.id for item in first} | {item.id for item in other}) == 8
    assert [fields(item) for item in again] == [fields(item) for item in first]
    found = {path.name for path in (tmp_path / "runs" / "worlds").iterdir() if path.is_dir()}
    assert found == {f"shapes-iid-{first.set}", f"shapes-iid-{other.set}"}


# --- the items ------------------------------------------------------------------------------------------------------


def test_items_are_the_rows(benchmark, folder):
    items, written = list(benchmark), rows(folder)
    assert len({item.id for item in items}) == len(items) == len(written) == 24
    for item, row in zip(items, written, strict=True):
        assert item.id == item.sample.id == f"{benchmark.set}/{row['id']}"
        assert [message.text for message in item.sample.messages] == [row["conversations"][0]["value"]]
        assert item.answer == row["conversations"][1]["value"]
        assert videos([item]) == [str(folder / row["video"])]
        assert item.groups["family"] == row["family"]
        assert item.groups["format"] == row["format"]
        assert list(item.options.values()) == row.get("options", [])
    carried = pickle.loads(pickle.dumps(benchmark))
    assert [fields(item) for item in carried] == [fields(item) for item in benchmark]


def test_the_right_reply_is_right_and_another_is_not(benchmark):
    """Nothing that greedy decoding may write but the reply of the row scores, in any format."""
    seen = Counter(item.rule for item in benchmark)
    assert set(seen) == {"choice", "yes_no", "exact"}
    for item in benchmark:
        assert read(item, item.answer).value == 1.0
        assert read(item, item.answer).exact
        other = {"choice": "ABCD".replace(item.answer, "")[0], "yes_no": {"yes": "no", "no": "yes"}.get(item.answer)}
        assert read(item, other.get(item.rule) or f"{item.answer} and nothing").value == 0.0


def test_captions_are_counted_apart(benchmark):
    values = [float(item.groups["part"] == "questions") for item in benchmark]
    captions = values.count(0.0)
    assert 0 < captions < len(values)
    assert benchmark.summary(outcomes(benchmark, values)) == {"Overall": 100.0, "Captions": 0.0}
    alone = [outcome for outcome in outcomes(benchmark, values) if outcome.groups["part"] == "questions"]
    assert benchmark.summary(alone) == {"Overall": 100.0}
    assert {item.groups["format"] for item in benchmark if item.groups["part"] == "captions"} == {"caption"}


def test_replies_with_times_are_scored_by_overlap(tmp_path):
    benchmark = build("shapes", tmp_path / "set", **OPTIONS | {"families": ["grounding", "dense_caption"]})
    items = list(benchmark)
    assert {(item.rule, item.groups["part"]) for item in items} == {("span", "grounding"), ("events", "dense_caption")}
    for item in items:
        assert read(item, item.answer).value == 1.0
        assert read(item, "From 0.0 to 0.1 seconds. It moves.").value < 0.2
        assert read(item, re.sub(r"<time:([\d.]+)>", r"\1 s", item.answer)).value == 1.0
    values = [1.0 if item.rule == "events" else 0.6 + 0.2 * (number % 2) for number, item in enumerate(items)]
    found = benchmark.summary(outcomes(benchmark, values))
    spans = [value for value in values if value < 1]
    assert found == pytest.approx(
        {"mIoU": 100 * np.mean(spans), "F1": 100, "R@0.7": 100 * np.mean(np.array(spans) > 0.7)}
    )


def test_items_have_the_key_frames_of_traces(benchmark, folder):
    options = SetOptions(
        split="iid", **{key: value for key, value in OPTIONS.items() if key != "clips"}, traces="cited"
    )
    questions = [question for index in range(6) for question in plan_clip(options, index).questions]
    found = [item.sample.meta["key_frames"] for item in benchmark]
    assert found == [question.meta.get("key_frames", []) for question in questions]
    assert sum(map(bool, found)) >= 4


def test_a_set_with_traces_is_refused(benchmark, folder, tmp_path):
    options = {key: value for key, value in OPTIONS.items() if key != "clips"}
    write_set(SetOptions(split="iid", traces="text", **options), tmp_path / "set", clips=6, crf=[23], codecs=["h264"])
    with pytest.raises(ConfigError, match="traces is 'text', not None"):
        build("shapes", tmp_path / "set", **OPTIONS, crf=[23])


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_reports_families_and_formats(assistant, benchmark, folder, tmp_path):
    short = EvaluationOptions(max_new_tokens=4, workers=0)
    report = evaluate(assistant, benchmark, run_dir=tmp_path / "run", options=short).data
    assert (report["n_total"], report["n_media_failed"]) == (24, 0)
    assert set(report["official"]) == {"Overall", "Captions"}
    for kind in ("family", "format", "part"):
        assert sum(group["n"] for group in report["groups"][kind].values()) == 24
        assert all(group["low"] <= group["value"] <= group["high"] for group in report["groups"][kind].values())


@pytest.mark.slow
def test_teacher_forcing_finds_the_same(shipped, tmp_path):
    """``recipes.shapes.measure`` packs a clip's questions and generates nothing; the default model scores alike."""
    options = {"seed": 40, "questions": 8, "sizes": ["64x64"]}
    benchmark = build("shapes", tmp_path / "set", **options, clips=10, crf=[23])
    report = evaluate(shipped, benchmark, run_dir=tmp_path / "run", options=EvaluationOptions(batch_size=40)).data
    fast = measure(shipped, SetOptions(split="iid", **options), clips=10)
    slow = {f"format/{name}": group for name, group in report["groups"]["format"].items()} | report["groups"]["family"]
    slow |= {"overall": report["groups"]["part"]["questions"], "captions": report["groups"]["part"]["captions"]}
    assert {name: (row["questions"], row["accuracy"]) for name, row in fast.items()} == {
        name: (group["n"], round(group["value"], 4)) for name, group in slow.items()
    }


@pytest.mark.slow
def test_eval_py_asks_the_default_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("eval_script", ROOT / "eval.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    options = ["clips=2", "questions=4", "sizes=[64x64]", "blind=black", "root=my set"]
    monkeypatch.setattr(
        sys, "argv", ["eval.py", "benchmark=shapes", "run_dir=out", *(f"benchmark.{option}" for option in options)]
    )
    script.main()
    shown = capsys.readouterr()
    assert "shapes, shown black: 8 items" in shown.out
    assert "Overall" in shown.out
    assert "only knows moving colored shapes" in shown.err
    assert (tmp_path / "my set" / "manifest.json").is_file()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["settings"]["ckpt"] == "default"
    assert DEFAULT_MODEL.is_dir()
