"""Two processes on the CPU: the same result as one with twice the accumulation, and nobody waits for ever."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.factories import tiny_overrides
from tests.runs import PLAIN, ROOT, load_program, settings, turns, write_rows

STEPS = ["recipe.batch_size=1", "recipe.epochs=2", "recipe.max_steps=null", "recipe.save_every=100"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def launch(models, rows, run_dir, *overrides, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    parts = [*tiny_overrides(models), *PLAIN, *STEPS, f"data.path={rows}", f"run_dir={run_dir}", *overrides]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    program = [*command, "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", "recipes/train.py", *parts]
    return subprocess.run(program, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_two_processes_equal_one_with_doubled_accumulation(models, tmp_path):
    rows = write_rows(tmp_path / "data", count=7)  # uneven: one process has a row more than the other
    done = launch(models, rows, tmp_path / "two", "recipe.accumulate=1")
    assert done.returncode == 0, done.stderr[-3000:]
    configuration = settings(models, rows, *STEPS, "recipe.accumulate=2")
    load_program("train").train(configuration, tmp_path / "one")
    one = load_file(tmp_path / "one" / "checkpoint-8" / "trained.safetensors")
    two = load_file(tmp_path / "two" / "checkpoint-8" / "trained.safetensors")
    for key in one:
        # Adam divides by the gradient's size, which magnifies float32 rounding where gradients are tiny.
        torch.testing.assert_close(one[key], two[key], atol=1e-4, rtol=0)


def test_a_row_that_one_process_skips_stops_nobody(models, tmp_path):
    rows = write_rows(tmp_path / "data", count=6)
    (rows.parent / "bad.mp4").write_bytes(b"no video at all, only text that is long enough to look at")
    bad = {"video": "bad.mp4", "conversations": turns("Q?", "A.")}
    rows.write_text(json.dumps(bad) + "\n" + rows.read_text())
    done = launch(models, rows, tmp_path / "run", "recipe.accumulate=1", "data.on_error=skip", "data.max_skip=0.5")
    assert done.returncode == 0, done.stderr[-3000:]
    skipped = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert {json.loads(line)["where"].rpartition(":")[2] for line in skipped} == {"1"}


def test_several_processes_need_a_folder_of_their_own_choice(models, tmp_path):
    rows = write_rows(tmp_path / "data", count=2)
    env = os.environ | {"WORLD_SIZE": "2"}
    command = [sys.executable, "recipes/train.py", *tiny_overrides(models), f"data.path={rows}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "give run_dir=" in done.stderr
