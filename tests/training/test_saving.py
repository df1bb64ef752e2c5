"""Runs that are stopped by a signal, a full disk or a damaged checkpoint, and what they leave."""

import functools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.runs import load_program, settings, write_rows
from tinyvid import CheckpointError, ConfigError
from tinyvid.training.log import read_metrics
from tinyvid.training.runs import numbered

pytestmark = pytest.mark.slow

program = load_program("train")
STEPS = ["recipe.epochs=3", "recipe.max_steps=10", "recipe.batch_size=2", "recipe.save_every=100", "recipe.keep=9"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def configuration(models, rows):
    """A run of 10 steps with dropout, an evaluation per epoch of 4 steps, and one checkpoint at the end."""
    return settings(models, rows, *STEPS, "peft.dropout=0.1", f"eval_path={rows}")


@pytest.fixture(scope="module")
def whole(configuration, tmp_path_factory):
    """The uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    program.train(configuration, run)
    return run


def interrupted(configuration, run_dir, number, ready):
    """Train in a child process, send it a signal as soon as ``ready`` returns true, and return its exit status."""
    child = multiprocessing.get_context("fork").Process(target=program.train, args=(configuration, run_dir))
    child.start()
    while child.is_alive() and not ready():
        time.sleep(0.001)
    os.kill(child.pid, number)
    child.join()
    return child.exitcode


def same_weights(one, two):
    first, second = (load_file(run / "checkpoint-10" / "trained.safetensors") for run in (one, two))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def evaluations(run_dir):
    return {record["step"]: record["eval_loss"] for record in read_metrics(run_dir) if "eval_loss" in record}


def test_signals_finish_the_step_and_the_run_resumes_exactly(configuration, whole, tmp_path):
    run = tmp_path / "run"
    configuration = configuration | {"recipe": configuration["recipe"] | {"workers": 1}}
    for number, status, step in ((signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 5)):
        ready = functools.partial(lambda step: any(r["step"] >= step for r in read_metrics(run)), step)
        assert interrupted(configuration | {"resume": run.exists()}, run, number, ready) == status
        newest = numbered(run)[-1]
        assert step <= int(newest.name.rpartition("-")[2]) < 10
    assert not (run / ".lock").exists()
    program.train(configuration | {"resume": True}, run)
    assert same_weights(run, whole)
    assert evaluations(run) == evaluations(whole)


def test_an_evaluation_after_the_last_checkpoint_is_made_on_resume(configuration, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "model")
    state = json.loads((run / "checkpoint-10" / "trainer_state.json").read_text())
    state["log_history"] = [r for r in state["log_history"] if r["step"] < 10 or "eval_loss" not in r]
    (run / "checkpoint-10" / "trainer_state.json").write_text(json.dumps(state))
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-3]) + '{"step": 10, "lo')
    program.train(configuration | {"resume": True}, run)
    assert evaluations(run) == evaluations(whole)


def test_early_stopping_keeps_the_best_weights_and_resumes_exactly(models, rows, tmp_path):
    """Train with a learning rate that changes the adapter, but not the loss, so that early evaluations are the best."""
    steps = ["recipe.lr=1e-9", "recipe.warmup=0", "recipe.eval_every=1", "recipe.max_steps=9", "recipe.epochs=9"]
    frozen = ["recipe.connector.train=frozen", "recipe.early_stopping=2", f"eval_path={rows}"]
    configuration, run = settings(models, rows, *steps, *frozen), tmp_path / "run"

    def adapter(name):
        return load_file(run / name / "adapter" / "adapter_model.safetensors")

    program.train(configuration, run)
    found = evaluations(run)
    best, last = min(found, key=found.get), max(found)
    assert last == best + 2 < 9
    result, kept, later = adapter("model"), adapter(f"checkpoint-{best}"), adapter(f"checkpoint-{last // 2 * 2}")
    assert all(torch.equal(result[key], kept[key]) for key in kept)
    assert not all(torch.equal(result[key], later[key]) for key in later)
    shutil.rmtree(run / "model")
    program.train(configuration | {"resume": True}, run)
    again = adapter("model")
    assert all(torch.equal(again[key], result[key]) for key in again)
    assert evaluations(run) == found


def test_early_stopping_needs_an_evaluation(models, rows, tmp_path):
    with pytest.raises(ConfigError, match="recipe.early_stopping=2 needs an evaluation; set eval_path= or benchmark="):
        program.train(settings(models, rows, "recipe.early_stopping=2"), tmp_path / "run")


def test_files_have_the_mode_of_the_umask(whole):
    modes = {path.stat().st_mode & 0o777 for path in whole.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~current_umask()}


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def limit_files(size, task, *arguments):
    """Run a task in a child process in which no file may grow beyond ``size`` bytes, and return its error."""
    answers = multiprocessing.get_context("fork").SimpleQueue()

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            task(*arguments)
        except BaseException as error:
            answers.put((type(error).__name__, str(error)))

    child = multiprocessing.get_context("fork").Process(target=limited)
    child.start()
    child.join()
    return answers.get()


def test_a_full_disk_is_a_typed_error_and_leaves_no_partial_checkpoint(configuration, tmp_path):
    run = tmp_path / "run"
    steps = configuration["recipe"] | {"save_every": 2}
    kind, message = limit_files(20_000, program.train, configuration | {"recipe": steps}, run)
    assert kind == "CheckpointError"
    assert "checkpoint-2 cannot be written: " in message
    assert message.endswith("; free disk space or correct the permissions, then continue with resume=true")
    assert not list(run.glob(".partial-*"))
    assert not list(run.glob("checkpoint-*"))


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt", "rng_state.pth"])
def test_a_damaged_checkpoint_is_named(configuration, whole, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "model")
    (run / "checkpoint-10").rename(run / "checkpoint-9")
    state = json.loads((run / "checkpoint-9" / "trainer_state.json").read_text())
    (run / "checkpoint-9" / "trainer_state.json").write_text(json.dumps(state | {"global_step": 9}))
    file = run / "checkpoint-9" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"checkpoint-9 is damaged: .*; remove it to start from the beginning"):
        program.train(configuration | {"resume": True}, run)


def test_two_processes_cannot_train_in_one_folder(configuration, tmp_path):
    run, errors = tmp_path / "run", []

    def second():
        if read_metrics(run):
            with pytest.raises(ConfigError, match="is used by process") as raised:
                program.train(configuration | {"resume": True}, run)
            errors.append(str(raised.value))
        return bool(errors)

    assert interrupted(configuration, run, signal.SIGKILL, second) == -signal.SIGKILL
    assert errors
