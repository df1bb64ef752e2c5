"""The folder of a training run: its settings, the identity of its rows, and its checkpoints."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from transformers.trainer_utils import get_last_checkpoint

from tinyvid.data.skipped import SKIPPED
from tinyvid.errors import CheckpointError, ConfigError, listed
from tinyvid.outputs import write_text
from tinyvid.protocols import Dataset

RECORD = "config.yaml"
RESULT = "model"
TRAINED = "trained.safetensors"  # the weights that train, in full precision, for resuming
STATE = "trainer_state.json"
PARTIAL, REPLACED = ".partial-", ".replaced-"  # folders of a checkpoint that is being written, and of its older version
# Keys that a resumed run may change, because they do not affect the result.
FREE_ON_RESUME = (
    "resume",
    "device",
    "run_dir",
    "cache.frames",
    "cache.max_gib",
    "data.max_skip",
    "data.on_error",  # so that a run that a bad row has stopped can go on without it
    "recipe.workers",
    "recipe.log_every",
    "recipe.save_every",
    "report",
    "video_reader.isolate",
)


def identity_of(rows: Dataset) -> dict[str, Any]:
    """Return the number of rows, and the digest of their content."""
    return {"count": len(rows), "digest": rows.digest()}


def prepare(settings: Mapping[str, Any], run_dir: Path, *, rows: Mapping[str, Any]) -> str | None:
    """Record the settings of a run in its folder, and return the checkpoint to resume from, if any.

    A folder without a checkpoint is free, unless its run has logged metrics; then ``resume`` starts the run again.

    Args:
        settings: The composed configuration.
        run_dir: The folder, which the first process owns.
        rows: ``identity_of`` the training and evaluation rows.

    Raises:
        ConfigError: The folder contains another run, or ``resume`` finds no run or one with other settings or rows.
        CheckpointError: The newest checkpoint is incomplete.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    newest = get_last_checkpoint(str(run_dir))
    if int(os.environ.get("RANK", "0")) == 0:  # the first process checks and records for all
        _clean(run_dir)
        newest = get_last_checkpoint(str(run_dir))
        record = {**settings, "rows": dict(rows), "processes": processes}
        before = _read_record(run_dir / RECORD)
        _refuse(run_dir, settings, started=newest is not None or (run_dir / "metrics.jsonl").exists(), before=before)
        if settings["resume"]:
            _refuse_changes(record, before, run_dir)
        else:
            (run_dir / SKIPPED).unlink(missing_ok=True)  # of a run that died before its first checkpoint
        write_text(run_dir / RECORD, OmegaConf.to_yaml(OmegaConf.create(record)))
    if newest is not None:
        check_complete(Path(newest), processes)
    return newest


def _clean(run_dir: Path) -> None:
    """Remove what a kill left: checkpoints that were being written, or were about to be replaced."""
    for replaced in run_dir.glob(f"{REPLACED}*"):
        final = run_dir / replaced.name.removeprefix(REPLACED)
        if not final.exists():
            replaced.rename(final)
    for left in [*run_dir.glob(f"{PARTIAL}*"), *run_dir.glob(f"{REPLACED}*")]:
        shutil.rmtree(left)


def _read_record(file: Path) -> dict[str, Any]:
    """Return the recorded settings; none if the file is missing, empty or damaged."""
    try:
        found = OmegaConf.to_container(OmegaConf.load(file)) if file.exists() else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _refuse(run_dir: Path, settings: Mapping[str, Any], *, started: bool, before: Mapping[str, Any]) -> None:
    where = f"run_dir={str(run_dir)!r}"
    if (run_dir / RESULT).exists():
        raise ConfigError(
            f"{where} contains a finished model; to train it further, for more epochs or on other rows, choose another "
            f"run_dir and set ckpt={run_dir / RESULT}"
        )
    if started and not settings["resume"]:
        raise ConfigError(f"{where} already contains a run; continue it with resume=true, or choose another run_dir")
    if started and not before:
        raise ConfigError(
            f"{where}: {RECORD} is missing or damaged, so the run cannot continue; choose another run_dir"
        )
    if settings["resume"] and not before:
        raise ConfigError(f"resume=true, but {where} contains no run; set the run_dir of the run to resume")


def _refuse_changes(new: Mapping[str, Any], old: Mapping[str, Any], run_dir: Path) -> None:
    """Raise ConfigError if a resumed run has settings or rows that would affect its result."""
    before, after = _flat(old), _flat(new)
    changed = [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(FREE_ON_RESUME)
    ]
    if changed:
        shown = listed((f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in changed), 5)
        raise ConfigError(
            f"resume=true, but the settings differ from those of {str(run_dir)!r}: {shown}; restore them, or choose "
            "another run_dir and set ckpt= to a checkpoint of this run"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        result |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def check_complete(checkpoint: Path, processes: int) -> None:
    """Check that a checkpoint has all files that an exact resume needs.

    Raises:
        CheckpointError: A file is missing or empty.
    """
    ranks = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    needed = [TRAINED, STATE, *ranks]
    if not any(checkpoint.glob("global_step*")):  # DeepSpeed has other files
        needed.append("scheduler.pt")
        if not any(entry.is_dir() for entry in checkpoint.glob("optimizer*")):  # FSDP writes a folder
            needed.append("optimizer.pt")
    missing = [name for name in needed if not (checkpoint / name).is_file() or not (checkpoint / name).stat().st_size]
    if not missing:
        try:
            json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        except ValueError:
            missing = [f"a readable {STATE}"]
    if missing:
        raise CheckpointError(f"{checkpoint} is incomplete: it lacks {', '.join(missing)}; {without(checkpoint)}")


def without(checkpoint: Path) -> str:
    """Return the advice of an error about a checkpoint: what happens if it is removed."""
    others = [folder for folder in numbered(checkpoint.parent) if folder != checkpoint]
    return f"remove it to resume from {others[-1].name}" if others else "remove it to start from the beginning"


def numbered(run_dir: Path) -> list[Path]:
    """Return the checkpoints of a run by step."""
    steps = {folder: folder.name.rpartition("-")[2] for folder in run_dir.glob("checkpoint-*")}
    return sorted((folder for folder, step in steps.items() if step.isdecimal()), key=lambda found: int(steps[found]))


def put_in_place(partial: Path, final: Path) -> None:
    """Rename a written checkpoint. A kill at any moment leaves the new or the older version of the same step."""
    replaced = final.with_name(f"{REPLACED}{final.name}")
    if final.exists():  # the same step again, after its evaluation
        final.rename(replaced)
    partial.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)


def remove_old(run_dir: Path, *, keep: int, best: Path) -> None:
    """Remove all but the newest checkpoints and the best one. The Trainer's own rule may remove the newest."""
    for folder in numbered(run_dir)[:-keep]:
        if folder != best:
            aside = folder.with_name(f"{PARTIAL}{folder.name}")  # a kill must not leave half a checkpoint
            folder.rename(aside)
            shutil.rmtree(aside)


def evaluation_is_due(state: Any, arguments: Any) -> bool:
    """Return whether the last step has an evaluation that its checkpoint does not contain."""
    step = state.global_step
    if step == 0 or arguments.eval_strategy == "no":
        return False
    at_step = step % state.eval_steps == 0 if arguments.eval_strategy == "steps" else float(state.epoch).is_integer()
    evaluated = any(record["step"] == step and f"eval_{arguments.metric_for_best_model}" in record
                    for record in state.log_history)  # fmt: skip
    return (at_step or step >= state.max_steps) and not evaluated
