"""The report of a run: counts, accuracies with intervals, groups, failures, and settings.

``accuracy.all`` is over all items and counts unanswered items as wrong. ``accuracy.decodable`` excludes items whose
videos could not be read. ``accuracy.exact`` requires that a reply is the answer and nothing else. ``chance`` and
``majority`` are the accuracies of guessing and of always giving the most common answer; compare a result with them.
For items with timed rules, the accuracy is the mean value (mIoU, mAP or F1), and ``official`` includes the published
averages of these rules.
"""

import hashlib
import json
import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tinyvid.data.skipped import SKIPPED
from tinyvid.errors import CheckpointError, DataError
from tinyvid.evaluation.items import NOT_ASKED, Benchmark, Item, Outcome, WritesFiles
from tinyvid.evaluation.reporting.plots import draw_report
from tinyvid.evaluation.scoring.averages import by_group, graded, interval, kinds_of, macro, mean_points
from tinyvid.evaluation.scoring.timed import NAMES, timed_averages
from tinyvid.files import expanded, read_json
from tinyvid.outputs import write_text

REPORT = "report.json"
TEXT = "report.md"
SHOWN = 20  # most failures that report.md lists
UNREAD = "(unparsed)"
PACKAGES = (
    "tinyvid", "torch", "transformers", "peft", "timm", "open_clip_torch", "av", "decord", "decord2", "torchcodec"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """The content of ``report.json`` in a run's folder."""

    data: Mapping[str, Any]
    folder: Path

    @classmethod
    def load(cls, folder: str | Path) -> "Report":
        """Read the report of a run's folder.

        Raises:
            DataError: The report is missing or damaged.
        """
        file = expanded(folder) / REPORT
        try:
            data = read_json(file)
        except CheckpointError as error:
            raise DataError(f"{file} is not a report: {error}; give the run_dir of a finished run") from error
        if "accuracy" not in data:
            raise DataError(f"{file} is not a report of a benchmark; give the run_dir of a finished run")
        return cls(data, file.parent)

    @property
    def accuracy(self) -> float:
        """The accuracy over all items, in [0, 1]; NaN if the benchmark has no answers."""
        value = self.data["accuracy"]["all"]["value"]
        return math.nan if value is None else float(value)

    def text(self) -> str:
        """Return the main numbers in a few lines, for a terminal."""
        data = self.data
        counts = {"unparsed": data["n_unparsed"], "media failed": data["n_media_failed"]}
        counts |= {"prompt failed": data["n_prompt_failed"]}
        counts |= {"judge failed": data["n_judge_failed"]}
        failed = "".join(f", {count:,} {name}" for name, count in counts.items() if count)
        shown = f", shown {data['blind']}" if data.get("blind") else ""
        lines = [f"{data['benchmark']}{shown}: {data['n_total']:,} items, {data['n_answered']:,} answered{failed}"]
        for name, value in (("accuracy", data["accuracy"]["all"]), ("of decodable", data["accuracy"]["decodable"])):
            if value["value"] is not None and (name == "accuracy" or data["n_media_failed"]):
                lines.append(
                    f"{name} {_percent(value['value'])} ({_percent(value['low'])} to {_percent(value['high'])})"
                )
        lines += [f"{name} {value:.2f}" for name, value in data["official"].items() if value is not None]
        if data["points"].get("references"):
            f1, chance = (data["points"][f"reference_{name}"] for name in ("f1", "f1_chance"))
            lines.append(f"cited frames: F1 {_percent(f1)} (at random {_percent(chance)})")
        if data["n_media_failed"] or data["n_prompt_failed"]:
            lines.append(f"{self.folder / SKIPPED} lists the items that were not asked.")
        return "\n".join([*lines, f"See {self.folder / TEXT} for details."])

    def metrics(self) -> dict[str, float]:
        """Return the main numbers by name, for a log."""
        data = self.data
        numbers = {"accuracy": self.accuracy, "unparsed": data["n_unparsed"], "media_failed": data["n_media_failed"]}
        official = {name: value for name, value in data["official"].items() if value is not None}
        cited = {
            name: value for name, value in data["points"].items() if name in ("reference_f1", "reference_f1_chance")
        }
        return {f"{data['benchmark']} {name}": float(value) for name, value in {**numbers, **official, **cited}.items()}


def write_report(
    folder: Path,
    benchmark: Benchmark,
    items: Sequence[Item],
    outcomes: Sequence[Outcome],
    settings: Mapping[str, Any],
) -> None:
    """Write ``report.json``, ``report.md``, the plots and the benchmark's own files."""
    data = summarize(benchmark, items, outcomes, settings)
    draw_report(folder, data, outcomes)
    (folder / TEXT).write_text(as_text(data), encoding="utf-8")
    if isinstance(benchmark, WritesFiles):
        for name, content in benchmark.files(outcomes).items():
            (folder / name).write_text(content, encoding="utf-8")
    # Last: a folder with a report is complete.
    write_text(folder / REPORT, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def summarize(
    benchmark: Benchmark, items: Sequence[Item], outcomes: Sequence[Outcome], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of ``report.json``."""
    count = Counter(outcome.status for outcome in outcomes)
    decodable = [outcome for outcome in outcomes if outcome.status != "media_failed"]
    exact = [float(outcome.exact) for outcome in graded(outcomes) if not outcome.likelihoods]
    labels = _labels(items, outcomes)
    groups = {kind: _groups(outcomes, kind) for kind in kinds_of(outcomes)}
    if labels:
        by_answer: dict[str, list[Outcome]] = {label: [] for label in labels}
        for outcome in graded(outcomes):
            by_answer[str(outcome.answer)].append(outcome)
        groups["answer"] = {label: _accuracy(members) for label, members in by_answer.items() if members}
    return {
        "benchmark": benchmark.name,
        "prompt_style": benchmark.prompt_style,
        "blind": settings.get("blind"),
        "n_total": len(outcomes),
        "n_answered": count["answered"],
        "n_unparsed": count["unparsed"],
        "n_media_failed": count["media_failed"],
        "n_prompt_failed": count["prompt_failed"],
        "n_judge_failed": count["judge_failed"],
        "n_without_answer": sum(outcome.value is None for outcome in outcomes),
        "n_of_benchmark": len(benchmark),
        "accuracy": {"all": _accuracy(outcomes), "decodable": _accuracy(decodable), "exact": _number(exact)},
        "chance": _chance(items),
        "majority": _majority(items, outcomes),
        "macro": {kind: _finite(macro(outcomes, kind)) for kind in kinds_of(outcomes)},
        "official": {name: _finite(value) for name, value in _official(benchmark, items, outcomes).items()},
        "points": dict(mean_points(outcomes)),
        "kept": _mean([outcome.kept for outcome in outcomes if outcome.kept is not None]),
        "groups": groups,
        "confusion": _confusion(labels, outcomes) if labels else None,
        "unparsed": [outcome.id for outcome in outcomes if outcome.status == "unparsed"],
        "media_failed": _reasons(outcomes, "media_failed"),
        "prompt_failed": _reasons(outcomes, "prompt_failed"),
        "judge_failed": _reasons(outcomes, "judge_failed"),
        "first_prompt": [[message.role, message.text] for message in items[0].sample.messages],
        "settings": dict(settings),
        "config_hash": _config_hash(settings),
        "versions": _versions(),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _official(benchmark: Benchmark, items: Sequence[Item], outcomes: Sequence[Outcome]) -> Mapping[str, float]:
    """Return the averages of the benchmark, and those of timed rules unless the benchmark includes them."""
    summary = benchmark.summary(outcomes)
    names = {NAMES[item.rule] for item in items if item.rule in NAMES}
    return summary if names <= summary.keys() else {**timed_averages(items, outcomes), **summary}


def _accuracy(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        **_number([outcome.value for outcome in outcomes if outcome.value is not None]),
        "n_answered": sum(outcome.status == "answered" for outcome in outcomes),
    }


def _number(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of values, its interval and the number of values."""
    if not values:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = interval(values)
    return {"value": sum(values) / len(values), "low": low, "high": high, "n": len(values)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _groups(outcomes: Sequence[Outcome], kind: str) -> dict[str, Any]:
    return {name: _accuracy(members) for name, members in by_group(outcomes, kind).items()}


def _chance(items: Sequence[Item]) -> float | None:
    """Return the accuracy of guessing among the options; ``None`` if an item has no options."""
    if not all(item.options for item in items):
        return None
    return sum(1 / len(item.options) for item in items) / len(items)


def _majority(items: Sequence[Item], outcomes: Sequence[Outcome]) -> float | None:
    """Return the accuracy of always giving the most common answer; ``None`` if an item has no options."""
    answers = Counter(outcome.answer for outcome in graded(outcomes))
    return max(answers.values()) / answers.total() if answers and all(item.options for item in items) else None


def _labels(items: Sequence[Item], outcomes: Sequence[Outcome]) -> list[str]:
    """Return the labels if all items have the same ones; otherwise an empty list."""
    sets = {tuple(item.options) for item in items}
    is_task = len(sets) == 1 and all(item.rule == "label" for item in items) and graded(outcomes)
    return list(items[0].options) if is_task else []


def _confusion(labels: list[str], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the confusion matrix: correct labels (rows) by predictions (columns; the last one is unparsed)."""
    columns = [*labels, UNREAD]
    counts = {label: dict.fromkeys(columns, 0) for label in labels}
    for outcome in graded(outcomes):
        if outcome.status not in NOT_ASKED:
            counts[str(outcome.answer)][outcome.prediction or UNREAD] += 1
    return {"labels": labels, "columns": columns, "counts": [[*counts[label].values()] for label in labels]}


def _reasons(outcomes: Sequence[Outcome], status: str) -> list[dict[str, str]]:
    return [{"id": o.id, "video": o.video, "reason": o.reason} for o in outcomes if o.status == status]


def _config_hash(settings: Mapping[str, Any]) -> str:
    """Return a short hash of the settings; reports with the same hash have the same settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def as_text(data: Mapping[str, Any]) -> str:
    """Return a report as Markdown."""
    style, total, whole = data["prompt_style"], data["n_total"], data["n_of_benchmark"]
    shown = f", shown in place of each clip: {data['blind']}" if data["blind"] else ""
    lines = [f"# {data['benchmark']}, prompt style {style}{shown}", ""]
    lines.append(f"{total:,} items" + (f" of {whole:,}" if whole != total else "") + ":")
    for name, key in (
        ("answered", "n_answered"),
        ("unparsed (counted wrong)", "n_unparsed"),
        ("media failed (counted wrong)", "n_media_failed"),
        ("prompt failed (counted wrong)", "n_prompt_failed"),
        ("judge failed (counted wrong)", "n_judge_failed"),
        ("without a public answer", "n_without_answer"),
    ):
        lines += [f"- {name}: {data[key]:,}"] if data[key] or key == "n_answered" else []
    lines += ["", "| accuracy | value | 95 % interval | n |", "|---|---|---|---|"]
    names = {"all": "over all items", "decodable": "over decodable items", "exact": "reply is exactly the answer"}
    lines += [_row(names[key], value) for key, value in data["accuracy"].items()]
    for key, text in (("chance", "guessing among the options"), ("majority", "always the most common answer")):
        if data[key] is not None:
            lines.append(f"| {text} | {_percent(data[key])} | | |")
    if data.get("kept") is not None:
        lines += [
            "",
            f"With the reducer, an item had {_percent(data['kept'])} as many video tokens as patches on average.",
        ]
    for title, values in (("Averages of the benchmark", data["official"]), ("Marks", data["points"])):
        if values:
            lines += ["", f"## {title}", "", "| average | value |", "|---|---|"]
            lines += [f"| {name} | {'none' if value is None else f'{value:.2f}'} |" for name, value in values.items()]
    for kind, groups in data["groups"].items():
        lines += ["", f"## By {kind}", "", f"| {kind} | accuracy | 95 % interval | n |", "|---|---|---|---|"]
        lines += [_row(name, value) for name, value in groups.items()]
        if data["macro"].get(kind) is not None:
            lines.append(f"| **mean over {kind}** | {_percent(data['macro'][kind])} | | {len(groups)} |")
    return "\n".join([*lines, *_text_of_failures(data), *_text_of_settings(data)]) + "\n"


def _text_of_failures(data: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if data["unparsed"]:
        more = len(data["unparsed"]) - SHOWN
        lines += ["", "## Unparsed", "", ", ".join(map(_escape, data["unparsed"][:SHOWN]))]
        lines += [f"and {more} more, in {REPORT}"] if more > 0 else []
    for key in ("media_failed", "prompt_failed", "judge_failed"):
        if data[key]:
            lines += ["", f"## {key.replace('_', ' ').capitalize()}", "", "| item | reason |", "|---|---|"]
            lines += [f"| {_escape(entry['id'])} | {_escape(entry['reason'])} |" for entry in data[key][:SHOWN]]
            lines += [f"| {len(data[key]) - SHOWN} more | in {REPORT} |"] if len(data[key]) > SHOWN else []
    return lines


def _text_of_settings(data: Mapping[str, Any]) -> list[str]:
    lines = ["", "## Settings", "", f"Configuration {data['config_hash']}.", "", "| setting | value |", "|---|---|"]
    lines += [f"| {key} | {_escape(json.dumps(value))} |" for key, value in data["settings"].items()]
    lines += [f"| versions | {', '.join(f'{name} {number}' for name, number in data['versions'].items())} |"]
    prompt = "\n".join(f"{role}: {text}" for role, text in data["first_prompt"])
    fence = "`" * 4
    return [*lines, "", "The first prompt, before the template:", "", fence, prompt, fence]


def _row(name: str, value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return f"| {_escape(name)} | none | | 0 |"
    bounds = f"{_percent(value['low'])} to {_percent(value['high'])}"
    return f"| {_escape(name)} | {_percent(value['value'])} | {bounds} | {value['n']:,} |"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
