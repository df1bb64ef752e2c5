"""Write the model card (README.md) of an exported model: its parts, data, recipe and metrics.

The content comes from the checkpoint and, if the checkpoint is in the folder of a run, from the run's records. Unknown
facts, such as licenses, are marked as unknown and never guessed.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from tinyvid.checkpoints.card import HERE, front_matter
from tinyvid.errors import DataError, TinyvidError
from tinyvid.evaluation.reporting.report import Report
from tinyvid.files import expanded
from tinyvid.registry import DATASETS

PACKAGES = ("tinyvid", "torch", "transformers", "peft")
RUN_KEYS = ("ckpt", "dtype", "quant", "recipe", "peft")  # keys of a run's configuration to include


def write_card(
    folder: Path,
    ckpt: str,
    groups: Mapping[str, Mapping[str, Any]],
    dtypes: Mapping[str, torch.dtype],
    unmerged: Sequence[str],
    *,
    name: str = "",
    reports: Sequence[Report] = (),
) -> None:
    """Write the model card of an exported checkpoint.

    Args:
        folder: Folder of the ``README.md``.
        ckpt: The exported checkpoint, a directory or a hub id.
        groups: Its component groups.
        dtypes: The dtype in which each part is stored.
        unmerged: Parts whose adapters were merged, and are also stored unmerged.
        name: Name of the model, for the results of evaluations.
        reports: Evaluations of the checkpoint, as ``reports_of`` returns them.
    """
    path = expanded(ckpt)
    run = path.absolute().parent
    record = run / "config.yaml"
    settings = yaml.safe_load(record.read_text(encoding="utf-8")) if record.is_file() else {}
    is_run = isinstance(settings, dict) and "recipe" in settings
    origins = base_models(path, groups)
    started = settings.get("ckpt") if is_run else None if path.is_dir() else ckpt
    sections = [
        front_matter(
            [*origins.values(), started],
            tags=["lora"] if unmerged else [],
            results=[_result(report) for report in reports],
            name=name,
        ),
        f"# A video-language model made with tinyvid {version('tinyvid')}\n",
        _parts(groups, dtypes, origins, started),
        _use(),
        *([_data(settings, run), _recipe(settings), _metrics(run)] if is_run else [_unknown_run()]),
        *([_evaluations(reports)] if reports else []),
        *([_adapters(unmerged)] if unmerged else []),
        _versions(),
    ]
    (folder / "README.md").write_text("\n".join(sections), encoding="utf-8")


def reports_of(folders: Sequence[str], ckpt: str) -> list[Report]:
    """Return the reports of evaluations of a checkpoint.

    Args:
        folders: The folders of the evaluations.
        ckpt: The checkpoint, a directory or a hub id.

    Raises:
        DataError: A folder has no report, or its report is of another model, a control, or has no accuracy.
    """
    reports = [Report.load(folder) for folder in folders]
    for report in reports:
        other = report.data["settings"].get("ckpt")
        if other is not None and expanded(other).absolute() != expanded(ckpt).absolute():
            raise DataError(f"{report.folder} evaluated {other!r}, not ckpt={ckpt!r}; give an evaluation of this model")
        if report.data.get("blind"):
            raise DataError(f"{report.folder} is a control (blind={report.data['blind']}), not a result of the model")
        if report.data["accuracy"]["all"]["value"] is None:
            raise DataError(f"{report.folder} has no accuracy; give an evaluation with answered items")
    return reports


def _result(report: Report) -> dict[str, Any]:
    """Return a result for the hub: the accuracy over all asked items, and the averages of the benchmark."""
    data = report.data
    averages = {name: value for name, value in data["official"].items() if value is not None}
    metrics = [{"type": "accuracy", "name": "accuracy", "value": data["accuracy"]["all"]["value"]}]
    metrics += [{"type": name, "name": name, "value": value} for name, value in averages.items() if name != "accuracy"]
    return {
        "task": {"type": "video-text-to-text", "name": "Video-Text-to-Text"},
        "dataset": {"type": data["benchmark"], "name": _asked(data)},
        "metrics": metrics,
    }


def _asked(data: Mapping[str, Any]) -> str:
    """Return the name of a benchmark, with the number of items if not all of them were asked."""
    part = data["n_total"], data["n_of_benchmark"]
    return data["benchmark"] if part[0] == part[1] else f"{data['benchmark']} ({part[0]:,} of {part[1]:,} items)"


def _evaluations(reports: Sequence[Report]) -> str:
    lines = []
    for report in reports:
        found, chance = report.data["accuracy"]["all"], report.data["chance"]
        guessed = "" if chance is None else f"{chance:.1%}"
        cells = [_asked(report.data), f"{found['value']:.1%}", f"{found['low']:.1%} to {found['high']:.1%}", guessed]
        lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(["| benchmark | accuracy | 95% interval | chance |", "|---|---|---|---|", *lines])
    return f"## Evaluation\n\nItems without an answer count as wrong.\n\n{table}\n"


def base_models(path: Path, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """Return the hub ids of the LLM and the vision tower; ``None`` if they are not recorded."""
    file = path / "config.json"  # TinyLLaVA-Video records them here
    hints = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    named = {
        "llm": hints.get("llm_model_name_or_path"),
        "vision_tower": hints.get("vision_model_name_or_path"),
    }
    paths = {part: str(groups[part]["path"]) for part in named}
    return {part: named[part] or (None if Path(p).is_absolute() or p == part else p) for part, p in paths.items()}


def _parts(
    groups: Mapping[str, Mapping[str, Any]],
    dtypes: Mapping[str, torch.dtype],
    origins: Mapping[str, str | None],
    started: str | None,
) -> str:
    def row(label: str, part: str, origin: str) -> str:
        return f"| {label} | `{groups[part]['name']}` | {origin} | {str(dtypes[part]).removeprefix('torch.')} |"

    def origin(part: str) -> str:
        return f"`{origins[part]}`" if origins[part] else "a local directory, or not recorded"

    connector = {key: value for key, value in groups["connector"].items() if key != "name"}
    return f"""| part | name | based on | dtype |
|---|---|---|---|
{row("LLM", "llm", origin("llm"))}
{row("vision tower", "vision_tower", origin("vision_tower"))}
{row("connector", "connector", f"`{connector}`")}

Trained from: {f"`{started}`" if started else "these parts and a new connector, or not recorded"}.
Frames: `{dict(groups["sampler"])}`. Template: `{groups["template"]["name"]}`.
"""


def _use() -> str:
    return f"""All files are included; loading the model needs no other download.

```python
from tinyvid import Assistant

print(Assistant.from_pretrained("{HERE}").ask("clip.mp4", "What happens?"))
```
"""


def _data(settings: Mapping[str, Any], run: Path) -> str:
    policy = ("on_error", "max_skip", "skip_listed")
    data = {key: value for key, value in settings["data"].items() if key not in policy}
    try:
        rows = f"{len(DATASETS.build(data, key='data')):,}"
    except TinyvidError:
        rows = "unknown (the data is no longer available)"
    skipped = run / "skipped.jsonl"
    left_out = len(skipped.read_text(encoding="utf-8").splitlines()) if skipped.is_file() else 0
    return f"""## Data

Rows: {rows}. Rows skipped in training: {left_out}. Evaluated on: `{settings.get("eval_path") or "nothing"}`.

```yaml
{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}```

The licenses of the data and of the base models are not recorded. Check them before you share the model.
"""


def _recipe(settings: Mapping[str, Any]) -> str:
    chosen = {key: settings[key] for key in RUN_KEYS if key in settings}
    return f"## Recipe\n\n```yaml\n{yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True)}```\n"


def _metrics(run: Path) -> str:
    from tinyvid.training.log import read_metrics  # imports the Trainer, so only if there are metrics

    records = read_metrics(run)
    wanted = {"loss": "last training loss", "eval_loss": "last evaluation loss", "eval_accuracy": "last accuracy"}
    lines = []
    for key, label in wanted.items():
        found = [record for record in records if key in record]
        if found:
            lines.append(f"| {label} | {found[-1][key]:.4g} | {found[-1]['step']} |")
    best = min((r for r in records if "eval_loss" in r), key=lambda r: r["eval_loss"], default=None)
    if best is not None:
        lines.append(f"| best evaluation loss | {best['eval_loss']:.4g} | {best['step']} |")
    table = "\n".join(["| metric | value | step |", "|---|---|---|", *lines]) if lines else "No metrics were recorded."
    return f"## Metrics\n\nThese metrics are of the whole run, not of one checkpoint.\n\n{table}\n"


def _unknown_run() -> str:
    return """## Data, recipe and metrics

Not recorded, because the checkpoint was not in the folder of a training run. The licenses of the data and of the base
models are not recorded either.
"""


def _adapters(parts: Sequence[str]) -> str:
    listed = ", ".join(f"`adapters_unmerged/{part}`" for part in parts)
    return f"""## Adapters

The adapters are merged into these weights. The original adapters are in {listed}. Use them with peft on the weights
that they were trained on, never on the merged ones. The connector that they were trained with is in the exported
checkpoint.
"""


def _versions() -> str:
    return "## Versions\n\n" + ", ".join(f"{package} {version(package)}" for package in PACKAGES) + "\n"
