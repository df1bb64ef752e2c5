"""Write a comparison: ``comparison.json``, ``comparison.md`` and plots."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyvid.evaluation.reporting.plots import MOST_BARS, error_bars, file_name, finish, plain_text, start
from tinyvid.evaluation.scoring.references import SHARES


def write_comparison(folder: Path, comparison: Mapping[str, Any]) -> None:
    """Write ``comparison.json``, ``comparison.md`` and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(
        json.dumps(comparison, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "comparison.md").write_text(as_text(comparison), encoding="utf-8")
    draw(folder, comparison)


def as_text(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as Markdown."""
    runs = comparison["runs"]
    lines = [f"# {comparison['benchmark']}: {len(runs)} runs on {comparison['n_common']:,} common items", ""]
    lines += ["| run | accuracy | 95 % interval | only the answer | unparsed | media failed | of items |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for run in runs:
        counts = f"{run['n_unparsed']} | {run['n_media_failed']} | {run['n_total']}"
        shown = f" (shown: {run['blind']})" if run["blind"] else ""
        lines.append(f"| {_name(run['name'])}{shown} | {_share(run)} | {_percent(run['exact'])} | {counts} |")
    if comparison["repeats"]:
        lines += ["", "## Repeats", "", "| run | n | mean | lowest | highest | standard deviation |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, spread in comparison["repeats"].items():
            numbers = " | ".join(_percent(spread[key]) for key in ("mean", "low", "high", "deviation"))
            lines.append(f"| {_name(name)} | {spread['n']} | {numbers} |")
    lines += ["", "## Pairs", "", "Pairs use the first of repeated runs. Intervals resample whole videos.", ""]
    if any(pair["test"] == "bootstrap" for pair in comparison["pairs"]):
        lines[-1:] = ["Some values are between 0 and 1: those of at least 0.5 count as right.", ""]
    lines += ["| first | second | only first right | only second right | difference | 95 % interval | p | test |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for pair in comparison["pairs"]:
        bounds = f"{_points(pair['low'])} to {_points(pair['high'])}"
        names = f"{_name(pair['first'])} | {_name(pair['second'])}"
        counts = f"{pair['only_first']} | {pair['only_second']}"
        lines.append(
            f"| {names} | {counts} | {_points(pair['difference'])} | {bounds} | {pair['p']:.3g} | {pair['test']} |"
        )
    lines += _table_of_marks(comparison)
    tables = {f"By {kind}": groups for kind, groups in comparison["groups"].items()}
    for title, groups in {**tables, "By right answer": comparison["classes"]}.items():
        if groups:
            lines += ["", f"## {title}", "", f"| group | n | {' | '.join(_name(run['name']) for run in runs)} |"]
            lines += ["|---|---|" + "---|" * len(runs)]
            for name, group in groups.items():
                shares = " | ".join(_percent(number["value"]) for number in group["runs"])
                lines.append(f"| {_name(name)} | {group['n']} | {shares} |")
    return "\n".join(lines) + "\n"


def _table_of_marks(comparison: Mapping[str, Any]) -> list[str]:
    """Return the marks as Markdown: a row per mark, a column per run, with the number of items if they differ."""
    if not comparison["marks"]:
        return []
    lines = ["", "## Marks", "", "With 95 % intervals, and the number of items that have the mark.", ""]
    lines += [f"| mark | {' | '.join(_name(run['name']) for run in comparison['runs'])} |"]
    lines += ["|---|" + "---|" * len(comparison["runs"])]
    for name, mark in comparison["marks"].items():
        cells = " | ".join(
            "none" if of is None else f"{of['value']:.2f} ({of['low']:.2f} to {of['high']:.2f}), n={of['n']}"
            for of in mark["runs"]
        )
        lines.append(f"| {_name(name)} | {cells} |")
    return lines


def _name(text: str) -> str:
    return text.replace("|", "\\|")


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def _share(run: Mapping[str, Any]) -> str:
    return f"{_percent(run['value'])} | {_percent(run['low'])} to {_percent(run['high'])}"


def draw(folder: Path, comparison: Mapping[str, Any]) -> None:
    """Plot runs, differences of pairs, runs by group, and the marks of cited frames.

    The files are ``runs.png``, ``pairs.png``, ``by_<kind>.png`` and ``references.png``.
    """
    pyplot = start()
    runs = [(run["name"], run) for run in comparison["runs"]]
    _draw_intervals(pyplot, folder / "runs.png", runs, "value", "accuracy in %, with 95 % interval")
    pairs = [(f"{pair['second']} - {pair['first']} (p={pair['p']:.2g})", pair) for pair in comparison["pairs"]]
    if pairs:
        _draw_intervals(pyplot, folder / "pairs.png", pairs, "difference", "difference in points, with 95 % interval")
    names = [run["name"] for run in comparison["runs"]]
    for kind, groups in {**comparison["groups"], "answer": comparison["classes"]}.items():
        if groups:
            _draw_groups(pyplot, folder / f"by_{file_name(kind)}.png", names, groups, kind)
    missing = {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    shares = {name: [of or missing for of in comparison["marks"].get(name, {"runs": []})["runs"]] for name in SHARES}
    marks = {name: {"n": max(of["n"] for of in shown), "runs": shown} for name, shown in shares.items() if shown}
    if marks:
        accuracy = {"accuracy": {"n": comparison["n_common"], "runs": comparison["runs"]}}
        _draw_groups(pyplot, folder / "references.png", names, accuracy | marks, "cited frames")


def _draw_intervals(pyplot: Any, path: Path, rows: list[tuple[str, Mapping[str, Any]]], key: str, label: str) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.35 * len(rows)), layout="constrained")
    for place, (_, row) in enumerate(rows):
        axes.errorbar([100 * row[key]], [place], xerr=error_bars([row], key), fmt="o", color="tab:blue", capsize=3)
    axes.set_yticks(range(len(rows)), [plain_text(name, 48) for name, _ in rows])
    axes.invert_yaxis()
    if key == "difference":
        axes.axvline(0, color="black", linestyle="--", linewidth=1)
    axes.set_xlabel(label)
    finish(pyplot, figure, path)


def _draw_groups(pyplot: Any, path: Path, names: list[str], groups: Mapping[str, Any], kind: str) -> None:
    shown = dict(list(groups.items())[:MOST_BARS])
    height = 0.8 / len(names)
    figure, axes = pyplot.subplots(figsize=(7, 1.5 + 0.3 * len(shown) * max(1, len(names) / 2)), layout="constrained")
    for number, name in enumerate(names):
        values = [group["runs"][number] for group in shown.values()]
        places = [place + (number + 0.5) * height - 0.4 for place in range(len(shown))]
        bars = [100 * value["value"] for value in values]
        axes.barh(places, bars, height=height, xerr=error_bars(values), capsize=1, label=plain_text(name, 48))
    axes.set_yticks(range(len(shown)), [f"{plain_text(name)} ({group['n']})" for name, group in shown.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("mean in %, with 95 % interval")
    axes.set_title(plain_text(f"by {kind}", 80))
    axes.legend(fontsize=8)
    finish(pyplot, figure, path)
