"""The benchmark ``footage``: its set is drawn once from a folder of pictures, and its items are its rows."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from tests.benchmark_files import build, outcomes
from tests.worlds.footage_sources import write_photo, write_sources
from tinyvid import ConfigError, DataError, EvaluationOptions, build_benchmark, evaluate
from tinyvid.evaluation.scoring.scores import read
from tinyvid.worlds.footage import FAMILIES

OPTIONS = {"clips": 6, "split": "all", "sizes": ["96x96"], "fps": [8.0], "seconds": [2.0], "families": [*FAMILIES]}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("source"), 5, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sets") / "footage"


@pytest.fixture(scope="module")
def benchmark(source, folder):
    return build("footage", folder, source=str(source), **OPTIONS)


def test_items_are_the_rows(benchmark, folder):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(benchmark) == len(rows) > 12
    for item, row in zip(benchmark, rows, strict=True):
        assert item.id == f"{benchmark.set}/{row['id']}"
        assert [message.text for message in item.sample.messages] == [row["conversations"][0]["value"]]
        assert item.answer == row["conversations"][1]["value"]
        assert item.groups["family"] == row["family"]
        assert list(item.options.values()) == row.get("options", [])
        assert read(item, item.answer).value == 1.0
    assert {item.rule for item in benchmark} == {"choice", "yes_no", "exact", "span"}
    span = next(item for item in benchmark if item.rule == "span")
    assert read(span, re.sub(r"<time:([\d.]+)>", r"\1 s", span.answer)).value == 1.0
    assert read(span, "From 0.0 to 0.1 seconds.").value < 0.2


def test_a_set_is_used_again_even_without_its_source(benchmark, source, folder, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for options in ({"source": str(source)}, {}):
        again = build("footage", folder, **OPTIONS, **options)
        assert [item.id for item in again] == [item.id for item in benchmark]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    for changed, told in (({"clips": 7}, "clips is 6, not 7"), ({"source": str(tmp_path)}, "source is '.*', not '")):
        with pytest.raises(ConfigError, match=f"contains a set with other options .*{told}"):
            build("footage", folder, **OPTIONS | changed)


def test_what_cannot_be_drawn_is_refused_and_leaves_nothing(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options in ({}, {"root": "missing"}):
        with pytest.raises(ConfigError, match=r"benchmark.source is missing; give a folder of photos and videos"):
            build_benchmark({"name": "footage", **options})
    with pytest.raises(ConfigError, match=r"has 5 sources, and \d in split=iid with held_out=0.01"):
        build_benchmark({"name": "footage", "source": str(source), "held_out": 0.01})
    write_photo(tmp_path / "small" / "x.png", 1, 30, 30)
    with pytest.raises(DataError, match=r"x.png \(30x30 pixels are too few for clips of 224x224\)"):
        build_benchmark({"name": "footage", "source": "small"})
    assert not list(tmp_path.rglob("*.mp4"))
    assert not list((tmp_path / "runs" / "worlds").glob("*/"))


def test_times_count_apart(benchmark):
    values = [0.8 if item.rule == "span" else 1.0 for item in benchmark]
    found = benchmark.summary(outcomes(benchmark, values))
    assert found == pytest.approx({"Overall": 100, "mean over family": 100, "mIoU": 80, "R@0.7": 100})
    alone = [outcome for outcome in outcomes(benchmark, values) if outcome.groups["part"] != "questions"]
    assert set(benchmark.summary(alone)) == {"mIoU", "R@0.7"}
    only = [outcome for outcome in outcomes(benchmark, values) if outcome.groups["part"] == "questions"]
    families = Counter(outcome.groups["family"] for outcome in only)
    assert benchmark.summary(only)["mean over family"] == pytest.approx(100)
    assert len(families) >= 5


@pytest.mark.slow
def test_a_run_reports_families_and_formats(assistant, benchmark, tmp_path):
    options = EvaluationOptions(max_new_tokens=4, workers=0)
    report = evaluate(assistant, benchmark, run_dir=tmp_path / "run", options=options).data
    assert (report["n_total"], report["n_media_failed"]) == (len(benchmark), 0)
    for kind in ("family", "format", "part"):
        assert sum(group["n"] for group in report["groups"][kind].values()) == len(benchmark)
    assert np.isfinite(report["official"]["Overall"])
