"""The folder of a run: what may start or continue there, and what a kill leaves."""

import json
from types import SimpleNamespace

import pytest

from tinyvid import CheckpointError, ConfigError
from tinyvid.training.runs import evaluation_is_due, prepare, put_in_place, remove_old

ROWS = {"data": {"count": 8, "digest": "aa"}, "eval_path": None}
FILES = ("trained.safetensors", "rng_state.pth", "scheduler.pt", "optimizer.pt")


def settings(**changes):
    return {"resume": False, "device": "cpu", "recipe": {"lr": 1e-5, "epochs": 3, "workers": 2}} | changes


def checkpoint(run_dir, step):
    folder = run_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("x")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


@pytest.fixture
def run(tmp_path):
    """Return a run with two checkpoints."""
    prepare(settings(), tmp_path, rows=ROWS)
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 10)
    return tmp_path


def resume(run, rows=ROWS, **changes):
    return prepare(settings(resume=True, **changes), run, rows=rows)


def test_a_run_resumes_from_its_newest_checkpoint(run):
    assert resume(run, device="cuda", recipe={"lr": 1e-5, "epochs": 3, "workers": 0}) == str(run / "checkpoint-10")


def test_a_run_that_a_bad_row_stopped_continues_without_it(tmp_path):
    prepare(settings(data={"on_error": "raise", "max_skip": 0.01}), tmp_path, rows=ROWS)
    newest = checkpoint(tmp_path, 2)
    assert resume(tmp_path, data={"on_error": "skip", "max_skip": 0.1}) == str(newest)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ({"data": {"count": 9, "digest": "bb"}, "eval_path": None}, {}, r"rows.data.count: 8 -> 9, rows.data.digest"),
        ({"data": {"count": 8, "digest": "bb"}, "eval_path": None}, {}, r"rows.data.digest: 'aa' -> 'bb'"),
        (ROWS | {"eval_path": {"count": 1, "digest": "cc"}}, {}, r"rows.eval_path.count: None -> 1, "),
        (ROWS, {"recipe": {"lr": 1e-5, "epochs": 6}}, r"recipe.epochs: 3 -> 6; .* set ckpt= to a checkpoint"),
    ],
)
def test_other_rows_or_settings_are_refused(run, rows, changes, message):
    with pytest.raises(ConfigError, match=rf"resume=true, but the settings differ from those of .*{message}"):
        resume(run, rows, **changes)


def test_another_number_of_processes_is_refused(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"processes: 1 -> 2"):
        resume(run)


@pytest.mark.parametrize("name", [*FILES, "trainer_state.json"])
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_an_incomplete_checkpoint_is_refused(run, name, damage):
    file = run / "checkpoint-10" / name
    file.unlink() if damage == "missing" else file.write_text("")
    with pytest.raises(CheckpointError, match=rf"checkpoint-10 is incomplete: it lacks .*{name}; remove it to resume "):
        resume(run)


def test_a_damaged_state_is_refused(run):
    (run / "checkpoint-10" / "trainer_state.json").write_text('{"global')
    with pytest.raises(CheckpointError, match=r"lacks a readable trainer_state.json; remove it to resume from .*-2"):
        resume(run)


@pytest.mark.parametrize("record", ["", "{", None])
def test_a_run_without_a_checkpoint_does_not_block_its_folder(tmp_path, record):
    prepare(settings(), tmp_path, rows=ROWS)
    if record is not None:
        (tmp_path / "config.yaml").write_text(record)
    assert prepare(settings(recipe={"lr": 1.0}), tmp_path, rows=ROWS) is None
    assert prepare(settings(resume=True, recipe={"lr": 1.0}), tmp_path, rows=ROWS) is None
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert prepare(settings(resume=True, recipe={"lr": 1.0}), tmp_path, rows=ROWS) is None
    with pytest.raises(ConfigError, match="already contains a run; continue it with resume=true"):
        prepare(settings(), tmp_path, rows=ROWS)


def test_a_record_that_is_damaged_is_refused(run):
    (run / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"config.yaml is missing or damaged, so the run cannot continue"):
        resume(run)


def test_a_finished_run_names_the_way_to_train_on(run):
    (run / "model").mkdir()
    with pytest.raises(ConfigError, match=r"contains a finished model; to train it further, .* set ckpt=.*/model"):
        resume(run, recipe={"epochs": 6})


def test_a_kill_between_two_versions_of_a_checkpoint_keeps_one(run):
    (run / "checkpoint-10").rename(run / ".replaced-checkpoint-10")
    (run / ".partial-checkpoint-10").mkdir()
    assert resume(run) == str(run / "checkpoint-10")
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-10", "checkpoint-2", "config.yaml"]
    new = run / ".partial-checkpoint-10"
    new.mkdir()
    put_in_place(new, run / "checkpoint-10")
    assert [*(run / "checkpoint-10").iterdir()] == []
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-10", "checkpoint-2", "config.yaml"]


def test_old_checkpoints_are_removed(run):
    checkpoint(run, 20)
    (run / "checkpoint-mine").mkdir()
    remove_old(run, keep=1, best=run / "checkpoint-2")
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-20", "checkpoint-mine"}


@pytest.mark.parametrize(
    ("step", "epoch", "strategy", "logged", "expected"),
    [
        (4, 1.0, "epoch", None, True),
        (4, 1.0, "epoch", 4, False),
        (4, 1.0, "epoch", 2, True),
        (3, 0.75, "epoch", None, False),
        (10, 2.5, "epoch", None, True),  # the last step
        (4, 1.0, "steps", None, True),
        (3, 0.75, "steps", None, False),
        (10, 2.5, "steps", 10, False),
        (4, 1.0, "no", None, False),
        (0, 0.0, "epoch", None, False),
    ],
)
def test_an_evaluation_is_due_where_the_run_would_have_made_it(step, epoch, strategy, logged, expected):
    history = [{"step": step, "loss": 1.0}, *([] if logged is None else [{"step": logged, "eval_loss": 2.0}])]
    state = SimpleNamespace(global_step=step, epoch=epoch, max_steps=10, eval_steps=2, log_history=history)
    assert evaluation_is_due(state, SimpleNamespace(eval_strategy=strategy, metric_for_best_model="loss")) is expected
