"""The scripts in perf/ run and report what they promise. Speed depends on the machine and is not tested."""

import importlib
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import python

pytestmark = pytest.mark.slow

PERF = Path(__file__).parents[2] / "perf"


def run(name: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = python(PERF / name, *arguments)
    assert done.returncode == status, done.stderr
    return done


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", sorted(path.name for path in PERF.glob("[a-z]*.py")))
def test_help_explains_what_is_measured_and_what_is_reported(name):
    text = run(name, "--help").stdout
    assert "usage:" in text
    assert "JSON" in text
    assert len(text.split()) > 100


@pytest.mark.long
def test_train_step_reports_its_ratios():
    done = run("train_step.py", "--quick")
    report = last_line(done)
    assert all(math.isfinite(value) for value in report.values() if not isinstance(value, str))
    assert {"logits_memory_ratio", "cached_epoch_over_flops_limit", "frames_cache_speedup"} <= report.keys()
    assert {report["cached_limit"], report["uncached_limit"]} <= {"compute", "Processor"}
    # Unlike times, memory and losses do not depend on the machine.
    assert report["logits_memory_ratio"] <= 1 / 8
    assert report["loss_difference"] < 1e-4
    assert report["flops_share"] < 1


@pytest.mark.long
def test_gpu_runs_the_same_steps_on_the_cpu_when_tiny():
    report = last_line(run("gpu.py", "--tiny"))
    rows = [(row["method"], row["features"]) for row in report["rows"]]
    assert rows == [(method, features) for method in ("lora", "qlora") for features in ("uncached", "cached")]
    assert not any(row["out_of_memory"] for row in report["rows"])
    assert report["rows"][1]["tflop"] < report["rows"][0]["tflop"]
    assert {"lora_peak_gb", "qlora_peak_gb", "lora_mfu"} <= report.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_needs_a_gpu():
    done = run("gpu.py", status=2)
    assert "needs a CUDA device" in done.stderr
    assert not done.stdout


@pytest.mark.long
def test_the_learning_check_of_llamavid_reports_its_margin():
    few = ["--seeds=1", "--steps=2", "--train=70", "--test=64", "--batch-size=32"]
    report = last_line(run("llamavid_learning.py", *few))
    assert report["margin"] == report["least_margin"]
    counts = {name: len(values) for name, values in report["accuracy"].items()}
    assert counts == {"llamavid": 1, "withheld": 1, "naive": 1}


@pytest.mark.long
def test_tokens_compares_reducers_and_continues(tmp_path):
    few = ["--quick", f"--out={tmp_path}", f"--plot={tmp_path / 'tokens.png'}"]
    report = last_line(run("tokens.py", *few))
    assert {"drop_accuracy_kept", "merge_over_meanpool", "views_difference", "grounding_miou"} <= report.keys()
    assert report["drop_accuracy_kept"] > 0.5
    assert report["drop_dropped"] >= 0.8
    measured = (tmp_path / "results.jsonl").read_text()
    rows = [json.loads(line) for line in measured.splitlines()]
    none = [row for row in rows if row["setting"] == "none"]
    assert [(row["set"], row["kept"], row["operations"]) for row in none] == [("low", 1, 1), ("high", 1, 1)]
    assert all(row["operations"] < 1 for row in rows if row["reducer"])
    assert (tmp_path / "tokens.png").stat().st_size > 10_000
    assert last_line(run("tokens.py", *few)) == report
    assert (tmp_path / "results.jsonl").read_text() == measured


def test_readers_never_crash_hang_or_raise_untyped_errors(tmp_path):
    done = run("readers.py", "--quick", "--reader=pyav", f"--keep={tmp_path}")
    report = last_line(done)
    assert report["files"] > 30, done.stdout
    assert report["crashes"] == report["hangs"] == report["untyped"] == 0, done.stdout
    assert not report.get("wrong_intact"), done.stdout


def test_soak_counts_the_files_that_fail(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(PERF)
    soak = importlib.import_module("soak")
    soak.write_files(str(tmp_path), count=40)
    found = soak.open_often(str(tmp_path), count=80, isolate=False)
    assert found["failed"] == found["expected_failures"] == 4
    assert found["descriptors"] == 0


@pytest.mark.long
def test_interruptions_lose_nothing():
    report = last_line(run("interruptions.py", "--quick", "--programs", "cache", "make_world"))
    assert report == dict.fromkeys(("cache", "make_world"), 1) | dict.fromkeys(
        ("lost", "half", "different", "failed", "untyped"), 0
    )
