"""Plots of a report: bars per group with intervals, a confusion matrix, and accuracy against duration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.evaluation.items import Outcome
from tinyvid.evaluation.scoring.averages import interval

BINS = 5  # of durations, with about the same number of items
MOST_BARS = 40


def draw_report(folder: Path, data: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Draw the plots that the data allow: ``groups_<kind>.png``, ``confusion.png`` and ``duration.png``."""
    pyplot = start()
    for kind, groups in data["groups"].items():
        bars = {name: value for name, value in groups.items() if value["value"] is not None}
        if bars:
            draw_bars(pyplot, folder / f"groups_{file_name(kind)}.png", bars, kind, data)
    if data["confusion"]:
        draw_confusion(pyplot, folder / "confusion.png", data["confusion"])
    draw_durations(pyplot, folder / "duration.png", outcomes)


def start() -> Any:
    """Return pyplot with a backend that draws into files."""
    import matplotlib  # slow to import, so imported only for plots

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def finish(pyplot: Any, figure: Any, path: Path) -> None:
    """Write a figure and close it."""
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def file_name(text: str) -> str:
    """Return a text as part of a file name."""
    return "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in text)[:60]


def plain_text(text: str, width: int = 32) -> str:
    """Return a text that matplotlib shows unchanged, truncated to ``width`` characters."""
    text = text.replace("$", r"\$")
    return text if len(text) <= width else f"{text[: width - 1]}…"


def error_bars(values: Sequence[Mapping[str, float]], key: str = "value") -> list[list[float]]:
    """Return how far below and above each value its interval reaches, in percent, as matplotlib draws it."""
    return [
        [100 * max(0.0, value[key] - value["low"]) for value in values],
        [100 * max(0.0, value["high"] - value[key]) for value in values],
    ]


def draw_bars(pyplot: Any, path: Path, bars: Mapping[str, Any], kind: str, data: Mapping[str, Any]) -> None:
    """Plot the accuracy of each group with its interval, and the accuracy over all items as a line."""
    shown = dict(list(bars.items())[:MOST_BARS])
    values = [100 * value["value"] for value in shown.values()]
    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.3 * len(shown)), layout="constrained")
    places = range(len(shown))
    axes.barh(
        places, values, xerr=error_bars([*shown.values()]), color="tab:blue", alpha=0.8, ecolor="black", capsize=2
    )
    axes.set_yticks(places, [f"{plain_text(name)} ({value['n']})" for name, value in shown.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy in %, with 95 % interval")
    axes.set_title(plain_text(f"{data['benchmark']}: by {kind}", 80))
    overall = data["accuracy"]["all"]["value"]
    if overall is not None:
        axes.axvline(100 * overall, color="black", linestyle="--", linewidth=1)
    finish(pyplot, figure, path)


def draw_confusion(pyplot: Any, path: Path, confusion: Mapping[str, Any]) -> None:
    """Plot the confusion matrix. The colors show fractions of a row."""
    counts = np.array(confusion["counts"], dtype=float)  # (labels, labels + 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(counts)
    figure, axes = pyplot.subplots(figsize=(side + 0.5, side), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(counts.shape[1]), [plain_text(name) for name in confusion["columns"]], rotation=90)
    axes.set_yticks(
        range(counts.shape[0]),
        [f"{plain_text(name)} ({int(row.sum())})" for name, row in zip(confusion["labels"], counts, strict=True)],
    )
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, int(count), ha="center", va="center", color=color, fontsize=8)
    axes.set_xlabel("prediction")
    axes.set_ylabel("answer")
    finish(pyplot, figure, path)


def draw_durations(pyplot: Any, path: Path, outcomes: Sequence[Outcome]) -> None:
    """Plot the accuracy in bins of the video's duration with about the same number of items."""
    pairs = [(o.duration, o.value) for o in outcomes if o.duration is not None and o.value is not None]
    if len({duration for duration, _ in pairs}) < 2:
        return
    durations, values = (np.array(column) for column in zip(*pairs, strict=True))
    edges = np.unique(np.quantile(durations, np.linspace(0, 1, BINS + 1)))
    bins = np.clip(np.searchsorted(edges, durations, side="right") - 1, 0, len(edges) - 2)
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for number in np.unique(bins):
        inside = values[bins == number]
        low, high = interval(inside.tolist())
        middle, mean = float(np.median(durations[bins == number])), float(inside.mean())
        error = error_bars([{"value": mean, "low": low, "high": high}])
        axes.errorbar([middle], [100 * mean], yerr=error, fmt="o", color="tab:blue", capsize=3)
        axes.annotate(f"n={len(inside)}", (middle, 100 * mean), textcoords="offset points", xytext=(6, 4), fontsize=8)
    axes.set_xscale("log")
    axes.set_ylim(0, 100)
    axes.set_xlabel("duration in seconds")
    axes.set_ylabel("accuracy in %")
    finish(pyplot, figure, path)
