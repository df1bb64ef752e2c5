"""``debug=`` tries the training program in seconds, without data, downloads or a GPU."""

import json

import pytest

from tests.factories import tiny_overrides
from tests.runs import PLAIN, python, settings, write_rows
from tinyvid import Assistant

pytestmark = pytest.mark.slow


def test_one_batch_is_learned_without_data_or_downloads(tmp_path):
    done = python("recipes/train.py", "debug=one_batch", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, second = (record["loss"] for record in records if "loss" in record)
    assert second < first / 2
    assert Assistant.from_pretrained(tmp_path / "run" / "model", device="meta").config["connector"]["mixer_layers"] == 3


def test_two_steps_of_your_own_run(tmp_path):
    rows = write_rows(tmp_path / "data", count=4)
    own = [*tiny_overrides(tmp_path / "models"), *PLAIN, f"data.path={rows}", f"eval_path={rows}"]
    done = python("recipes/train.py", "debug=two_steps", "recipe.keep=9", f"run_dir={tmp_path / 'run'}", *own)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum("eval_loss" in record for record in records) == 2
    assert settings(tmp_path / "models", rows, "debug=two_steps")["recipe"]["workers"] == 0
