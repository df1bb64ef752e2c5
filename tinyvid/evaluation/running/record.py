"""Record what the rows of a run depend on. It must not change when a run is resumed, and is part of the report."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyvid.assistant import Assistant
from tinyvid.data.skipped import sources_of
from tinyvid.errors import CheckpointError, ConfigError, listed
from tinyvid.evaluation.items import Benchmark, Item, ReadsTimes
from tinyvid.evaluation.running.blind import blind_of
from tinyvid.files import read_json
from tinyvid.outputs import write_text

RECORD = "run.json"
SEEN = 16  # number of values of each weight in a fingerprint


def describe(assistant: Assistant, benchmark: Benchmark, items: Sequence[Item], **options: Any) -> dict[str, Any]:
    """Return everything that the rows of a run depend on, except the videos and the versions of libraries."""
    groups = assistant.config
    return {
        "benchmark": benchmark.name,
        "prompt_style": benchmark.prompt_style,
        "blind": blind_of(benchmark),
        "questions": digest_items(items),
        "reads_times": isinstance(benchmark, ReadsTimes),  # such text is added to prompts later and is not in the items
        "weights": fingerprint(assistant.model),
        "dtype": str(assistant.model.dtype).removeprefix("torch."),
        "motion": groups.get("motion"),  # has no weights
        "reducer": groups.get("reducer"),  # most have no weights
        "sampler": groups["sampler"],
        "template": groups["template"],
        "reader": assistant.processor.reader.name,
        "frame_format": None if assistant.processor.frames is None else assistant.processor.frames.format,
        **options,
    }


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """Return a short hash of a few values of each weight of a model. Training changes all values."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        seen = flat[:: max(1, flat.numel() // SEEN)][:SEEN]
        digest.update(seen.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def digest_items(items: Sequence[Item]) -> str:
    """Return a short hash of the items: ids, prompts, options, answers, and the name and bounds of each video."""
    digest = hashlib.sha256()
    for item in items:
        messages = [[message.role, message.text, *message.places] for message in item.sample.messages]
        bounds = [[video.start, video.end, video.fps] for video in item.sample.videos]
        names = [os.path.basename(source) for source in sources_of(item.sample.videos)]  # folders may move
        entry = [item.id, item.rule, messages, item.prefix, dict(item.options), item.answer, bounds, names, item.rubric]
        entry += item.alternatives
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()[:16]


def prepare(folder: Path, identity: Mapping[str, Any]) -> None:
    """Record in a run's folder what its rows depend on.

    Raises:
        ConfigError: The folder contains rows of another run, or is not the folder of a run.
    """
    record = folder / RECORD
    if record.exists():
        _refuse_changes(record, identity)
        return
    others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if others:
        raise ConfigError(
            f"run_dir={str(folder)!r} is not a run: it contains {listed(others)} but no {RECORD}; "
            "choose an empty or a new folder"
        )
    write_text(record, json.dumps(identity, indent=2, sort_keys=True) + "\n")


def _refuse_changes(record: Path, identity: Mapping[str, Any]) -> None:
    try:
        before = read_json(record)
    except CheckpointError as error:
        raise ConfigError(f"{error}; choose another run_dir") from error
    after = json.loads(json.dumps(identity))
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    if changed:
        shown = listed((f"{key}: {before.get(key)!r:.120} -> {after.get(key)!r:.120}" for key in changed), 4)
        raise ConfigError(
            f"run_dir={str(record.parent)!r} contains a run with other settings, which cannot be continued: {shown}; "
            "choose another run_dir"
        )
