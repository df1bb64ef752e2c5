"""Compare runs of a benchmark on their common items.

Pairs of runs are compared item by item: how often only one run is correct (McNemar's exact test), and the interval of
the difference when whole videos are resampled. If some values are between 0 and 1, such as an IoU, the same resampling
gives the p-value. Runs with the same name are repeats, such as seeds. Their spread shows
how large a difference is due to chance.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvid.errors import ConfigError, DataError
from tinyvid.evaluation.items import Outcome
from tinyvid.evaluation.reporting.predictions import ROWS, read_outcomes
from tinyvid.evaluation.reporting.report import Report
from tinyvid.evaluation.scoring.averages import (
    CONFIDENCE,
    bootstrap,
    bootstrap_p,
    by_group,
    interval,
    kinds_of,
    macro,
    mcnemar,
    micro,
)
from tinyvid.files import expanded


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run: its name in the comparison, its folder, its report and its outcomes by item."""

    name: str
    folder: Path
    report: Report
    outcomes: dict[str, Outcome]


def load_runs(folders: Sequence[str | Path], names: Sequence[str] | None = None) -> list[FinishedRun]:
    """Read finished runs.

    Args:
        folders: Run folders, at least two.
        names: One name per run; runs with the same name are repeats. By default, the settings in which the runs
            differ, or the names of the folders.

    Raises:
        ConfigError: There are fewer than two runs, or the number of names differs.
        DataError: A folder does not contain a finished run, or the runs are of different benchmarks.
    """
    if len(folders) < 2:
        raise ConfigError(f"runs= contains {len(folders)} run; give at least two, separated by commas")
    if names is not None and len(names) != len(folders):
        raise ConfigError(f"names= contains {len(names)} names for {len(folders)} runs; give one name per run")
    paths = [expanded(folder) for folder in folders]
    reports = [Report.load(path) for path in paths]
    benchmarks = {report.data["benchmark"] for report in reports}
    if len(benchmarks) > 1:
        raise DataError(
            f"the runs are of different benchmarks ({', '.join(sorted(benchmarks))}); give runs of one benchmark"
        )
    runs = []
    for name, path, report in zip(names or _names(paths, reports), paths, reports, strict=True):
        outcomes = {outcome.id: outcome for outcome in read_outcomes(path / ROWS)}
        if len(outcomes) != report.data["n_total"]:
            raise DataError(
                f"{path / ROWS} contains {len(outcomes)} items, but its report counts {report.data['n_total']}; run "
                "the benchmark again in this folder to complete it"
            )
        runs.append(FinishedRun(name, path, report, outcomes))
    return runs


def _names(paths: Sequence[Path], reports: Sequence[Report]) -> list[str]:
    """Return the settings in which the runs differ, or the names of their folders if that is not possible."""
    settings = [_flat(report.data["settings"]) for report in reports]
    keys = dict.fromkeys(key for one in settings for key in one)
    differing = [key for key in keys if len({json.dumps(one.get(key)) for one in settings}) > 1]
    told = [", ".join(f"{key}={one.get(key)}" for key in differing) for one in settings]
    if differing and all(len(name) <= 60 for name in told) and len(set(told)) == len(told):
        return told
    folders = [path.resolve().name for path in paths]
    return folders if len(set(folders)) == len(folders) else [str(path) for path in paths]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings that users choose, with dotted keys; ``blind`` once, although options have it, too."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and key != "model":
            flat |= _flat(value, f"{prefix}{key}.")
        elif key not in ("weights", "questions", "model") and f"{prefix}{key}" != "options.blind":
            flat[f"{prefix}{key}"] = value
    return flat


def common_items(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the ids of the items with an answer that are in every run, in the order of the first run.

    Raises:
        DataError: There are none, or the runs were scored with different answers.
    """
    common = [
        name
        for name, outcome in runs[0].outcomes.items()
        if outcome.value is not None and all(name in run.outcomes for run in runs)
    ]
    if not common:
        raise DataError("the runs have no item with an answer in common; give runs of the same questions")
    for run in runs[1:]:
        for name in common:
            answers = runs[0].outcomes[name].answer, run.outcomes[name].answer
            if answers[0] != answers[1]:
                raise DataError(
                    f"item '{name}' has the answer {answers[0]!r} in {runs[0].folder} and {answers[1]!r} in "
                    f"{run.folder}; the annotation changed between the runs, so run one of them again"
                )
    return common


def compare_runs(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Compare runs; return the content of ``comparison.json``."""
    common = common_items(runs)
    chosen = {id(run): [run.outcomes[name] for name in common] for run in runs}
    first_of = {run.name: run for run in reversed(runs)}  # the tests use the first of repeated runs
    different = [run for run in runs if run is first_of[run.name]]
    pairs = [
        {"first": a.name, "second": b.name, **paired(chosen[id(a)], chosen[id(b)])}
        for number, a in enumerate(different)
        for b in different[number + 1 :]
    ]
    return {
        "benchmark": runs[0].report.data["benchmark"],
        "n_common": len(common),
        "runs": [_run(run, chosen[id(run)]) for run in runs],
        "repeats": _repeats(runs, {id(run): micro(chosen[id(run)]) for run in runs}),
        "pairs": pairs,
        "marks": _marks([chosen[id(run)] for run in runs]),
        "groups": {kind: _groups(runs, chosen, kind) for kind in kinds_of(chosen[id(runs[0])])},
        "classes": _classes(runs, chosen),
    }


def paired(first: Sequence[Outcome], second: Sequence[Outcome], *, confidence: float = CONFIDENCE) -> dict[str, Any]:
    """Compare two runs on the same items; ``confidence`` is that of the interval.

    If all values are 0 or 1, the p-value is that of McNemar's test; otherwise, that of the bootstrap of the difference.
    The counts take values of at least 0.5 as correct. The difference uses the values themselves.
    """
    differences = [float(b.value or 0) - float(a.value or 0) for a, b in zip(first, second, strict=True)]
    right = [((a.value or 0) >= 0.5, (b.value or 0) >= 0.5) for a, b in zip(first, second, strict=True)]
    only_first, only_second = right.count((True, False)), right.count((False, True))
    clusters = [outcome.video or outcome.id for outcome in first]
    low, high = bootstrap(differences, clusters, confidence)
    is_binary = all(outcome.value in (0, 1) for outcome in (*first, *second))
    return {
        "both": right.count((True, True)),
        "only_first": only_first,
        "only_second": only_second,
        "neither": right.count((False, False)),
        "same_prediction": sum(a.prediction == b.prediction for a, b in zip(first, second, strict=True)),
        "difference": sum(differences) / len(differences),
        "low": low,
        "high": high,
        "p": mcnemar(only_first, only_second) if is_binary else bootstrap_p(differences, clusters),
        "test": "McNemar" if is_binary else "bootstrap",
    }


def _run(run: FinishedRun, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "name": run.name,
        "folder": str(run.folder),
        "blind": run.report.data.get("blind"),
        "config_hash": run.report.data["config_hash"],
        "n_total": run.report.data["n_total"],
        "n_unparsed": sum(outcome.status == "unparsed" for outcome in outcomes),
        "n_media_failed": sum(outcome.status == "media_failed" for outcome in outcomes),
        "exact": sum(outcome.exact for outcome in outcomes) / len(outcomes),
        "macro": {kind: macro(outcomes, kind) for kind in kinds_of(outcomes)},
        **number(outcomes),
    }


def number(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the accuracy of outcomes, its interval, and their number."""
    low, high = interval([outcome.value or 0.0 for outcome in outcomes])
    return {"value": micro(outcomes), "low": low, "high": high, "n": len(outcomes)}


def _marks(of_runs: Sequence[Sequence[Outcome]]) -> dict[str, Any]:
    """Return the mean of each mark in each run, over the items that have it; ``None`` if none of a run's items has."""
    names = dict.fromkeys(name for outcomes in of_runs for outcome in outcomes for name in outcome.points)
    return {name: {"runs": [_mark(outcomes, name) for outcomes in of_runs]} for name in names}


def _mark(outcomes: Sequence[Outcome], name: str) -> dict[str, Any] | None:
    values = [float(outcome.points[name]) for outcome in outcomes if name in outcome.points]
    if not values:
        return None
    low, high = interval(values)
    return {"value": statistics.fmean(values), "low": low, "high": high, "n": len(values)}


def _repeats(runs: Sequence[FinishedRun], values: Mapping[int, float]) -> dict[str, Any]:
    """Return the spread of the runs with the same name, for each repeated name."""
    by_name: dict[str, list[float]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(values[id(run)])
    return {
        name: {
            "n": len(repeated),
            "mean": statistics.fmean(repeated),
            "low": min(repeated),
            "high": max(repeated),
            "deviation": statistics.stdev(repeated),
        }
        for name, repeated in by_name.items()
        if len(repeated) > 1
    }


def _groups(runs: Sequence[FinishedRun], chosen: Mapping[int, Sequence[Outcome]], kind: str) -> dict[str, Any]:
    """Return the number of items of each group, and each run's accuracy on them."""
    of_runs = [by_group(chosen[id(run)], kind) for run in runs]
    return {
        name: {"n": len(members), "runs": [number(groups[name]) for groups in of_runs]}
        for name, members in of_runs[0].items()
    }


def _classes(runs: Sequence[FinishedRun], chosen: Mapping[int, Sequence[Outcome]]) -> dict[str, Any]:
    """Return the number of items of each correct label, and each run's accuracy on them, for tasks with labels."""
    confusion = runs[0].report.data["confusion"]
    classes = {}
    for label in confusion["labels"] if confusion else ():
        members = [[outcome for outcome in chosen[id(run)] if outcome.answer == label] for run in runs]
        if members[0]:
            classes[label] = {"n": len(members[0]), "runs": [number(of_run) for of_run in members]}
    return classes
