"""Make the tables and figures of docs/shapes.md from benchmark runs.

    python -m recipes.shapes.figures runs/shapes --out docs/images

Prints accuracy by family for the runs ``iid``, ``black`` and ``other``, then one line per run. Draws
``shapes_families.png``, and ``shapes_clips.png`` with frames, questions and replies: question i of clip i for the first
clips of ``iid``, then the first wrong reply of several families.
"""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from tinyvid import VIDEO_READERS, Outcome, Report, Video, read_outcomes
from tinyvid.evaluation.reporting.predictions import ROWS
from tinyvid.video.open_video import open_video
from tinyvid.worlds.shapes import DEFAULT_FAMILIES

BLIND = {"black": "black", "other": "another clip"}
CLIPS, WRONG, FRAMES = 8, 4, 6  # rows with the first clips, rows with wrong replies, and columns of shapes_clips.png
COLORS = ("tab:blue", "black", "tab:gray")


def percent(row: dict[str, Any]) -> str:
    """Format an accuracy with its confidence interval."""
    return f"{100 * row['value']:.1f} ({100 * row['low']:.1f} - {100 * row['high']:.1f})"


def family_table(reports: dict[str, Report]) -> str:
    """Return a Markdown table of accuracy by average, family and format, for the clip and for blind runs."""
    lines = [
        f"| | right, % | {' | '.join(f'{name}, %' for name in BLIND.values())} | questions |",
        "|---|---|---|---|---|",
    ]
    groups = {run: report.data["groups"] for run, report in reports.items()}
    names = {"part": ("questions", "captions"), "family": DEFAULT_FAMILIES, "format": ("open", "choice", "yesno")}
    titles = {"questions": "**all but captions**", "captions": "**captions and event lists**"}
    for kind, members in names.items():
        for name in members:
            seen = groups["iid"][kind][name]
            blind = " | ".join(f"{100 * groups[run][kind][name]['value']:.1f}" for run in BLIND)
            lines.append(f"| {titles.get(name, name)} | {percent(seen)} | {blind} | {seen['n']:,} |")
    return "\n".join(lines)


def set_table(folder: Path) -> str:
    """Return a Markdown table with one row per run."""
    lines = ["| run | right, % | captions, % | clips | questions |", "|---|---|---|---|---|"]
    for file in sorted(folder.glob("*/report.json"), key=lambda path: path.stat().st_mtime):
        report = Report.load(file.parent).data
        if file.parent.name in BLIND:
            continue
        parts = report["groups"]["part"]
        clips = report["settings"]["options"]["clips"]
        rows = " | ".join(percent(parts[part]) for part in ("questions", "captions"))
        lines.append(f"| {file.parent.name} | {rows} | {clips} | {parts['questions']['n']:,} |")
    return "\n".join(lines)


def draw_families(reports: dict[str, Report], path: Path) -> None:
    """Plot a bar with an interval for each family and run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.5), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(reports)
    for number, (run, report) in enumerate(reports.items()):
        rows = [report.data["groups"]["family"][family] for family in DEFAULT_FAMILIES]
        values = [100 * row["value"] for row in rows]
        errors = [  # rounding errors may put a bound on the wrong side of the value
            [100 * max(0.0, row["value"] - row["low"]) for row in rows],
            [100 * max(0.0, row["high"] - row["value"]) for row in rows],
        ]
        places = [place + (number - 1) * height for place in range(len(rows))]
        label = BLIND.get(run, "the clip")
        axes.barh(places, values, height, xerr=errors, color=COLORS[number], alpha=0.8, ecolor="tab:red", label=label)
    axes.set_yticks(range(len(DEFAULT_FAMILIES)), DEFAULT_FAMILIES)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="right replies, %, with 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(title="shown", loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_clips(run: Path, path: Path) -> None:
    """Draw frames of clips with a question, the reply and, if it is wrong, the correct one."""
    from matplotlib.figure import Figure

    chosen = chosen_outcomes(read_outcomes(run / ROWS))
    figure = Figure(figsize=(11, 1.3 * len(chosen)), layout="constrained")
    reader = VIDEO_READERS.build({"name": "pyav"})
    panels = figure.subplots(len(chosen), FRAMES + 1, width_ratios=[1.0] * FRAMES + [3.2])
    for row, outcome in zip(panels, chosen, strict=True):
        clip = open_video(Video(outcome.video), reader)
        frames = [round(place * (clip.meta.num_frames - 1) / (FRAMES - 1)) for place in range(FRAMES)]
        for axes, frame in zip(row, clip.read(frames).frames, strict=False):
            axes.imshow(frame)
        for axes in row:
            axes.axis("off")
        question = questions_of(Path(outcome.video).parents[2])[outcome.id.partition("/")[2]]
        told = f"{question}\n> {outcome.reply}" + ("" if outcome.value else f"\n(right: {outcome.answer})")
        color = "black" if outcome.value else "tab:red"
        row[-1].text(0, 0.5, wrapped(told), va="center", fontsize=8, color=color)
    figure.savefig(path, dpi=90, metadata={"Software": None})


def chosen_outcomes(outcomes: list[Outcome]) -> list[Outcome]:
    """Return one outcome for each of the first clips, then the first wrong outcome of several families."""
    by_clip: dict[str, list[Outcome]] = {}
    wrong: dict[str, Outcome] = {}
    for outcome in outcomes:
        by_clip.setdefault(outcome.video, []).append(outcome)
        if not outcome.value:
            wrong.setdefault(outcome.groups["family"], outcome)
    first = [members[number % len(members)] for number, members in enumerate(list(by_clip.values())[:CLIPS])]
    return first + list(wrong.values())[:WRONG]


def questions_of(folder: Path) -> dict[str, str]:
    """Return the questions of a set by row id."""
    rows = map(json.loads, (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["conversations"][0]["value"] for row in rows}


def wrapped(text: str, width: int = 52) -> str:
    """Wrap a text at ``width`` characters."""
    return "\n".join("\n".join(textwrap.wrap(line, width)) for line in text.splitlines())


def main() -> None:
    """Print the tables and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder with one subfolder per run")
    parser.add_argument("--out", type=Path, help="folder for the figures (default: print only the tables)")
    args = parser.parse_args()
    reports = {name: Report.load(args.runs / name) for name in ("iid", *BLIND)}
    print(family_table(reports), set_table(args.runs), sep="\n\n")
    if args.out:
        draw_families(reports, args.out / "shapes_families.png")
        draw_clips(args.runs / "iid", args.out / "shapes_clips.png")


if __name__ == "__main__":
    main()
