"""Benchmarks as programs: kills at random times, several processes, sweeps, training, and error messages."""

import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.goldens import TINYLLAVA_VIDEO
from tests.questions import read_rows, write_questions
from tests.runs import ROOT, load_program, python
from tinyvid import ConfigError, DataError, EvaluationOptions, Outcome, build_benchmark, compose
from tinyvid.command_line import CommandLine
from tinyvid.evaluation.reporting.predictions import Predictions
from tinyvid.training.evaluation import TrainingBenchmark

CKPT = TINYLLAVA_VIDEO / "group_qwen2"
ENV = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
FIXED = (f"ckpt={CKPT}", "device=cpu", "max_new_tokens=4", "benchmark=custom", "batch_size=3", "workers=1")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("questions"), clips=6)


@pytest.fixture(scope="module")
def program():
    """Load ``eval.py`` as a module; the package ``eval`` has the same name."""
    spec = importlib.util.spec_from_file_location("eval_program", ROOT / "eval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(program, *arguments):
    """Run the program in this process."""
    given = [str(argument) for argument in arguments]
    keys = {argument.partition("=")[0] for argument in given}
    line = CommandLine.parse([*(fixed for fixed in FIXED if fixed.partition("=")[0] not in keys), *given])
    program.run(compose(line.overrides), line)


def start(*arguments, launcher=()):
    """Run the program in a new process."""
    return python(*launcher, ROOT / "eval.py", *FIXED, *arguments, **ENV)


@pytest.fixture(scope="module")
def finished(program, questions, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(program, f"benchmark.root={questions}", f"run_dir={folder}", "sampler.num_frames=2")
    return folder


def same_result(folder, other):
    assert read_rows(folder) == read_rows(other)
    for name in ("report.json", "report.md"):
        assert (folder / name).read_text() == (other / name).read_text()
    assert not list(folder.glob("predictions.*.jsonl")), "what processes wrote is in one file"


@pytest.mark.slow
def test_a_run_that_is_killed_repeatedly_has_the_same_report(program, questions, finished, tmp_path):
    folder, chance = tmp_path / "run", random.Random(0)
    rows = folder / "predictions.jsonl"
    arguments = (f"benchmark.root={questions}", f"run_dir={folder}", "sampler.num_frames=2")

    def size():
        return rows.stat().st_size if rows.exists() else 0

    kills = 0
    while True:
        child = multiprocessing.get_context("fork").Process(target=run, args=(program, *arguments))
        child.start()
        more = size() + chance.randrange(600)
        while child.is_alive() and (size() <= more or kills == 6):
            time.sleep(chance.random() / 50)
        kills += child.is_alive()
        child.kill()
        child.join()
        if (folder / "report.json").exists():
            break  # all rows are written, so a kill cannot truncate one
        if kills < 6 and chance.random() < 0.5 and size():
            rows.write_bytes(rows.read_bytes()[: -chance.randrange(1, 60)])
    assert kills > 2
    ids = [row["id"] for row in read_rows(folder)]
    assert len(ids) == len(set(ids)) == 19
    same_result(folder, finished)


@pytest.mark.slow
def test_a_finished_run_is_reported_again_without_asking(program, questions, finished, tmp_path, monkeypatch):
    monkeypatch.setattr("tinyvid.evaluation.running.answering.replies", None)
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "report.json").unlink()
    run(program, f"benchmark.root={questions}", f"run_dir={folder}", "sampler.num_frames=2")
    same_result(folder, finished)


@pytest.mark.slow
def test_two_processes_have_the_same_report_as_one(questions, finished, tmp_path):
    launcher = (
        "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0",
    )  # fmt: skip
    arguments = (f"benchmark.root={questions}", f"run_dir={tmp_path / 'two'}", "sampler.num_frames=2")
    done = start(*arguments, launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("custom: 19 items") == 1, "one process speaks for all"
    same_result(tmp_path / "two", finished)


@pytest.mark.slow
def test_processes_continue_where_others_stopped(program, questions, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "report.json").unlink()
    lines = (folder / "predictions.jsonl").read_text().splitlines(keepends=True)
    (folder / "predictions.jsonl").write_text("".join(lines[:4]) + lines[4][:30])
    (folder / "predictions.1.jsonl").write_text("".join(lines[9:12]) + lines[2])
    run(program, f"benchmark.root={questions}", f"run_dir={folder}", "sampler.num_frames=2")
    same_result(folder, finished)


def test_rows_of_several_processes_are_merged(tmp_path):
    first, second = Predictions(tmp_path, 0), Predictions(tmp_path, 1)
    first.append([Outcome("a", "answered", 1.0), Outcome("b", "answered", 0.0)])
    second.append([Outcome("c", "answered", 1.0, reply="\ud800 half"), Outcome("a", "unparsed", 0.0)])
    with (tmp_path / "predictions.1.jsonl").open("a") as file:
        file.write('{"id": "d", "status"')
    rows = first.read()
    assert list(rows) == ["a", "b", "c"]
    assert rows["a"].status == "answered"
    first.rewrite(rows.values())
    assert first.read() == rows
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


@pytest.mark.slow
def test_a_sweep_is_one_folder_per_job_and_compares(questions, tmp_path, capsys):
    fps = ("sampler=fps", "sampler.fps=1,4", "limit=6")
    done = start("-m", *fps, f"run_dir={tmp_path}", f"benchmark.root={questions}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("custom: 6 items") == 2
    compare = load_program("compare")
    line = CommandLine.parse([f"runs={tmp_path}/*", f"out={tmp_path / 'out'}"])
    compare.main(compose(line.overrides, config="compare"), line)
    assert "2 runs on 6 common items" in capsys.readouterr().out
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["name"] for run in comparison["runs"]] == ["sampler.fps=1.0", "sampler.fps=4.0"]
    assert {"runs.png", "pairs.png", "by_group.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("benchmark=custum",), r"benchmark=custum: unknown option. Did you mean 'custom'\?"),
        ((), "benchmark 'custom' needs benchmark.root"),
        (("benchmark.root=nowhere",), "benchmark.root='nowhere' lacks 1 of 1 files: rows.jsonl"),
        (("benchmark.root=ROOT", "benchmark.prompt_style=x"), "prompt_style='x' is not allowed"),
        (("benchmark.root=ROOT", "score=likelyhood"), r"'likelyhood' is not allowed. Did you mean 'likelihood'\?"),
        (("benchmark.root=ROOT", "limit=0"), "limit=0 must be at least 1"),
        (("benchmark.root=ROOT", "question=Q"), "benchmark= asks its own questions; remove question="),
        (("benchmark.root=ROOT", "judge=openai", "judge.model=m"), "judge 'openai' needs judge.url"),
        (("benchmark.root=ROOT", "run_dir=tests"), "run_dir='tests' is not a run"),
        (("benchmark.root=ROOT", "connector=mlp"), "connector is fixed by ckpt="),
    ],
)
def test_a_mistake_is_one_clear_line(program, questions, arguments, message):
    with pytest.raises((ConfigError, DataError), match=message):
        run(program, *(argument.replace("ROOT", str(questions)) for argument in arguments))


def test_several_processes_need_an_explicit_folder(program, questions, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="set run_dir="):
        run(program, f"benchmark.root={questions}")


@pytest.mark.slow
@pytest.mark.parametrize("key", ["limit=3", "benchmark.root=x", "judge=exact", "cache.frames=x"])
def test_keys_of_a_benchmark_need_one(program, key):
    line = CommandLine.parse([f"ckpt={CKPT}", "question=Q", key])
    name = key.partition("=")[0].partition(".frames")[0]
    with pytest.raises(ConfigError, match=f"{name}= needs benchmark=NAME"):
        program.run(compose(line.overrides), line)


@pytest.mark.slow
def test_the_package_and_the_program_share_a_name():
    package = importlib.import_module("eval")
    assert [Path(path) for path in package.__path__] == [ROOT / "eval"]
    # From another directory, the package is found by its file.
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('tinyvid', {str(ROOT / 'tinyvid' / '__init__.py')!r})\n"
        "module = sys.modules['tinyvid'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "from tinyvid import build_benchmark\n"
        "from tinyvid.errors import DataError\n"
        "try:\n    build_benchmark({'name': 'custom', 'root': 'nowhere'})\n"
        "except DataError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd="/", env=os.environ | ENV, capture_output=True, text=True, timeout=300)
    assert "benchmark.root='nowhere' lacks 1 of 1 files: rows.jsonl" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_benchmark_evaluates_a_training_run(assistant, questions, tmp_path):
    assistant.model.train()
    benchmark = build_benchmark({"name": "custom", "root": str(questions)})
    options = EvaluationOptions(limit=4, max_new_tokens=2, workers=0)
    hook = TrainingBenchmark(benchmark, tmp_path / "run", options=options)
    metrics = hook(assistant.loaded, 10)
    assert metrics.keys() >= {"eval_custom_accuracy", "eval_custom_unparsed", "eval_custom_media_failed"}
    assert 0 <= metrics["eval_custom_accuracy"] <= 1
    assert assistant.model.training
    assert len(read_rows(tmp_path / "run" / "benchmarks" / "custom-10")) == 4
    next(assistant.model.connector.parameters()).data.add_(0.1)
    assert hook(assistant.loaded, 10), "a step that a resumed run reaches again is evaluated anew"


def test_a_sharded_model_is_refused(assistant, questions, tmp_path, monkeypatch):
    next(assistant.model.parameters()).full_tensor = None
    benchmark = build_benchmark({"name": "custom", "root": str(questions)})
    hook = TrainingBenchmark(benchmark, tmp_path, options=EvaluationOptions(limit=1))
    with pytest.raises(ConfigError, match="use DDP instead of FSDP"):
        hook(assistant.loaded, 1)
