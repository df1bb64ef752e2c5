"""Plot learning curves."""

import json
from pathlib import Path
from typing import Any

STAGES = {"vision": ("loss", "shape"), "connector": ("tokens",), "mixer": ("tokens",), "answers": ("loss",)}


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file; none if it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def plot_losses(out: Path) -> None:
    """Plot the metrics of all stages to ``loss.png``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axis, (stage, names) in zip(figure.subplots(1, len(STAGES)), STAGES.items(), strict=True):
        rows = read(out / f"{stage}.jsonl")
        for name in names:
            axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name, linewidth=1)
        axis.set(title=stage, xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(out / "loss.png", dpi=110)


def plot_accuracy(out: Path) -> None:
    """Plot the accuracy on held-out clips by family to ``accuracy.png``."""
    from matplotlib.figure import Figure

    rows = read(out / "accuracy.jsonl")
    figure = Figure(figsize=(9, 6), layout="constrained")
    axis = figure.subplots()
    for number, name in enumerate(name for name in rows[-1] if name != "step" and "/" not in name):
        style = {"linewidth": 3, "color": "black"} if name == "overall" else {"linestyle": ("-", "--", ":")[number % 3]}
        axis.plot([row["step"] for row in rows], [100 * row[name] for row in rows], label=name, **style)
    axis.set(xlabel="step", ylabel="accuracy on held-out questions, %", ylim=(0, 101))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, ncols=2)
    figure.savefig(out / "accuracy.png", dpi=110)
