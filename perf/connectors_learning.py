"""Compare the runs of a sweep over connectors: accuracy by question family during training, as a table and a plot.

    python recipes/train.py -m 'experiment=glob(connectors/*,exclude=connectors/budget)' recipe.seed=0,1
    python perf/connectors_learning.py runs/connectors --out docs/images/connectors.png

The runs come from `experiment=connectors/...`. They share the clips, steps, order and number of video tokens, and the
default model's tower and LLM; each has a new connector. At every evaluation, every run asks the same questions of the
benchmark `shapes`. This program only reads their reports and does not train. Runs that differ only in their seed are
repeats: the table shows their mean, followed by the minimum and the maximum.

Prints a Markdown table with the results of each connector's last evaluation: the percentage of exact replies for
each family, the number of parameters, and the seconds per step. The last line is one JSON object with, for each
connector, its `accuracy` by family, `parameters` in millions, `seconds_per_step`, `steps` and `seeds`.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from safetensors import safe_open

Curve = list[tuple[int, dict[str, float]]]  # of a run: step, and accuracy by family and overall


def read_run(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the connector of a finished run, and its curve, seed, size and speed."""
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    options = settings["connector"]
    name = options["name"] + (" + mixer" if options.get("mixer_layers") else "")
    name += " + motion" if settings.get("motion") else ""
    curve: Curve = []
    for file in (folder / "benchmarks").glob("shapes-*/report.json"):
        report = json.loads(file.read_text(encoding="utf-8"))
        shares = {family: 100 * group["value"] for family, group in report["groups"]["family"].items()}
        curve.append((int(file.parent.name.rpartition("-")[2]), {**shares, "all": report["official"]["Overall"]}))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [1 / record["train_steps_per_second"] for record in records if "train_steps_per_second" in record]
    with safe_open(folder / "model" / "connector.safetensors", "pt") as weights:
        sizes = [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118 - no mapping
    return name, {
        "seed": settings["recipe"]["seed"],
        "curve": sorted(curve, key=lambda point: point[0]),
        "parameters": sum(map(math.prod, sizes)) / 1e6,
        "seconds_per_step": speeds[-1],
    }


def summarize(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the report of the last line: accuracy, size, speed, steps and seeds by connector."""
    report = {}
    for name, repeats in runs.items():
        last = [repeat["curve"][-1] for repeat in repeats]
        report[name] = {
            "accuracy": {family: [shares[family] for _, shares in last] for family in last[0][1]},
            "parameters": repeats[0]["parameters"],
            "seconds_per_step": mean(repeat["seconds_per_step"] for repeat in repeats),
            "steps": last[0][0],
            "seeds": [repeat["seed"] for repeat in repeats],
        }
    return report


def as_table(report: dict[str, Any]) -> str:
    """Return the report as a Markdown table, best connector first."""
    families = list(next(iter(report.values()))["accuracy"])
    lines = [f"| connector | {' | '.join(families)} | parameters | s / step |", "|---" * (len(families) + 3) + "|"]
    for name, row in sorted(report.items(), key=lambda item: -mean(item[1]["accuracy"]["all"])):
        cells = [_cell(row["accuracy"][family]) for family in families]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['parameters']:.2f} M | {row['seconds_per_step']:.2f} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    spread = f" ({min(values):.0f} - {max(values):.0f})" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Plot accuracy over steps: a panel per family, and a line per connector with the range of its seeds."""
    from matplotlib.figure import Figure

    families = list(next(iter(runs.values()))[0]["curve"][0][1])
    figure = Figure(figsize=(3.6 * len(families), 3.6), layout="constrained")
    for axes, family in zip(figure.subplots(1, len(families), sharey=True), families, strict=True):
        for number, (name, repeats) in enumerate(sorted(runs.items())):
            points: dict[int, list[float]] = defaultdict(list)
            for repeat in repeats:
                for step, shares in repeat["curve"]:
                    points[step].append(shares[family])
            steps = sorted(points)
            axes.plot(steps, [mean(points[step]) for step in steps], color=f"C{number}", marker="o", ms=3, label=name)
            low, high = ([bound(points[step]) for step in steps] for bound in (min, max))
            axes.fill_between(steps, low, high, color=f"C{number}", alpha=0.15)
        axes.set(title=family, xlabel="step", ylim=(0, 101))
        axes.grid(alpha=0.3)
        axes.label_outer()
    figure.axes[0].set_ylabel("accuracy, %")
    figure.axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Compare the runs in the folder of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the sweep, with one folder per run")
    parser.add_argument("--out", type=Path, help="path of the plot")
    args = parser.parse_args()
    folders = sorted(file.parents[1] for file in args.runs.glob("*/model/connector.safetensors"))
    if not folders:
        parser.error(f"{args.runs} contains no finished run of recipes/train.py; pass the folder of a sweep")
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for folder in folders:
        name, run = read_run(folder)
        runs[name].append(run)
    report = summarize(runs)
    print(as_table(report))
    if args.out:
        draw(runs, args.out)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
