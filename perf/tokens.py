"""Draw kept share against accuracy for every reducer without weights, on clips with little and with much motion.

    python perf/tokens.py --out runs/tokens --plot docs/images/tokens.png

The model is a checkpoint with connector=mlp that was trained without any reducer (`examples/patches`), so all reducers
are training-free. The clips are H.264 files of the shapes world. In those with little motion, one or two shapes stand
still, but may appear, disappear or change color. In those with much motion, there are three or four shapes, and most of
them move. The features of a clip are computed once, and every setting of a reducer answers the same questions. A reply
is right if greedy decoding would generate exactly the reference.

For every set of clips and every setting, it reports the video tokens, the kept share of all patches, the operations of
prefilling the first question (counted by torch, with the connector and the LLM, without the vision tower), their time,
and the accuracy with a 95 % interval. Operations and time are ratios to no reducer; both are timed alternately and the
fastest run counts, because other programs can only add time. Differences in accuracy are paired: an interval from a
bootstrap over clips, and McNemar's test. `blind` shows each question with the features of another clip.

Finished settings are kept in `results.jsonl` in the folder `--out`, so an interrupted run can be continued.

Prints a Markdown table per set of clips. The last line is one JSON object, all about little motion:
`drop_accuracy_kept` (accuracy with `drop` by accuracy without a reducer, at the highest threshold that drops at least
80 % of the patches; target: at least 0.98), `drop_kept_positions_accuracy_kept` (the same with `positions=kept`),
`drop_dropped` (the share that is dropped), `merge_over_meanpool` (accuracy of merging by accuracy of mean pooling, 64
tokens each; target: above 1) with `merge_p`, the same by number of tokens, `views_difference` (accuracy of `views`
with 58 tokens minus that with 80, the proportion of 2,648 to 3,680; target: not below 0) with `views_p`, and
`grounding_miou` of the default model from its report, or null without one.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BATCH = 8  # clips
TIMED = 6  # clips whose prefill is counted and timed
REPEATS = 3
NONE, BLIND = "none", "blind"
MERGED, POOLED = "merge 64", "mean 64"  # at equal tokens; LongVLM merges ten frames at a time, here all eight
MORE_VIEWS, FEWER_VIEWS = "views 80", "views 58"
# Proportions of the systems for 8 frames of 8 x 8 patches: a fifth of the frames in half of the grid, all in 1 x 2.
SETTINGS: dict[str, dict[str, Any]] = {
    **{f"drop {t}": {"name": "drop", "threshold": t} for t in (0.99, 0.98, 0.95, 0.9, 0.8, 0.5)},
    **{f"drop {t} kept": {"name": "drop", "threshold": t, "positions": "kept"} for t in (0.99, 0.95, 0.8)},
    **{f"prune {keep}": {"name": "prune", "keep": keep} for keep in (32, 16, 8, 4)},
    **{f"sample {tokens}": {"name": "sample", "tokens": tokens} for tokens in (256, 128, 64)},
    **{
        f"merge {tokens}": {"name": "merge", "segments": 1, "tokens": tokens, "overview": 0}
        for tokens in (256, 128, 64, 32)
    },
    **{
        f"merge {8 * tokens} by frame": {"name": "merge", "segments": 8, "tokens": tokens, "overview": 0}
        for tokens in (32, 16, 8, 4)
    },
    **{
        f"mean {8 * rows * columns}": {"name": "views", "frames": [0], "grids": [f"{rows}x{columns}"]}
        for rows, columns in ((4, 8), (4, 4), (2, 4), (2, 2))
    },
    MORE_VIEWS: {"name": "views", "frames": [2, 0], "grids": ["4x8", "1x2"]},
    FEWER_VIEWS: {"name": "views", "frames": [2, 0], "grids": ["3x7", "1x2"]},
}
QUICK = ("drop 0.95", "drop 0.95 kept", MERGED, POOLED, MORE_VIEWS, FEWER_VIEWS)


@dataclass(frozen=True, slots=True)
class AskedClip:
    """A clip as all settings see it: its questions and replies, and its features."""

    samples: tuple[Any, ...]  # of tinyvid.Sample, whose video is a placeholder with as many frames
    video: Any  # VideoInput with features (T, P, Dv)


def main() -> None:
    """Measure all settings that are not measured yet, and print and plot the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few clips and settings, to check that the script runs")
    parser.add_argument("--ckpt", type=Path, default=ROOT / "examples" / "patches", help="checkpoint without reducer")
    parser.add_argument("--clips", type=int, default=100, help="clips per set (default: 100)")
    parser.add_argument("--out", type=Path, help="folder for results.jsonl (default: a temporary one)")
    parser.add_argument("--plot", type=Path, help="path of the plot")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.clips = 4
    import torch

    sys.path.append(str(ROOT))  # for recipes.shapes
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tokens-") as scratch:
        out = arguments.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        rows = measure(arguments, out / "results.jsonl", Path(scratch))
    for name in ("low", "high"):
        print(f"\nclips with {'little' if name == 'low' else 'much'} motion\n\n{as_table(rows[name])}")
    if arguments.plot:
        draw(rows, arguments.plot)
    print(json.dumps(summary(rows["low"])))


def measure(arguments: argparse.Namespace, results: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    """Return the row of each setting by set of clips; measure those that ``results`` does not contain."""
    from tinyvid import Assistant

    load = partial(Assistant.from_pretrained, arguments.ckpt, device="cpu", dtype="float32")
    settings = {NONE: None, BLIND: None, **{k: v for k, v in SETTINGS.items() if not arguments.quick or k in QUICK}}
    card = json.loads((arguments.ckpt / "report.json").read_text(encoding="utf-8"))
    about = {"clips": arguments.clips, "weights": card["sha256"]}
    found: dict[str, dict[str, Any]] = {"low": {}, "high": {}}
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        row = json.loads(line)
        if {key: row[key] for key in about} == about and settings.get(row["setting"], row) == row["reducer"]:
            found[row["set"]][row["setting"]] = row
    for name, rows in found.items():
        waiting = [setting for setting in settings if setting not in rows]
        if not waiting:
            continue
        plain = load()
        clips = list(read_clips(plain, name, arguments.clips, card["size"], scratch))
        for setting in waiting:
            reducer = settings[setting]
            assistant = plain if reducer is None else load(reducer=reducer)
            row = measure_setting(assistant, plain, clips, blind=setting == BLIND)
            rows[setting] = {"set": name, "setting": setting, "reducer": reducer, **about, **row}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[setting]) + "\n")
            print(f"{name} {setting}: kept {row['kept']:.1%}, accuracy {mean(row['rights']):.1%}", flush=True)
    return {name: {setting: rows[setting] for setting in settings} for name, rows in found.items()}


# --- clips --------------------------------------------------------------------------------------------------------


def plans(name: str, count: int, asked: dict[str, Any]) -> Iterator[Any]:
    """Yield the clips of a set; those with little motion contain only shapes that stand still."""
    from tinyvid.worlds.shapes import SetOptions, plan_clip

    still = name == "low"
    kinds = [
        SetOptions(
            seed=31, split="iid", questions=6, families=list(asked["families"]), formats=list(asked["formats"]),
            num_shapes=shapes, require_motion="still" if still else None,
        )
        for shapes in ((1, 2) if still else (3, 4))
    ]  # fmt: skip
    for options in kinds:
        index = made = 0
        while made < count // len(kinds):
            plan = plan_clip(options, index)
            index += 1
            if not still or all(shape.motion == "still" for shape in plan.scene.shapes):
                made += 1
                yield plan


def read_clips(assistant: Any, name: str, count: int, asked: dict[str, Any], scratch: Path) -> Iterator[AskedClip]:
    """Write the clips of a set as files, and read them with the Processor and the vision tower."""
    import numpy as np
    import torch

    from tinyvid import Message, Sample, Video
    from tinyvid.worlds.shapes import encode

    for plan in plans(name, count, asked):
        path = scratch / "clip.mp4"
        path.write_bytes(encode(plan))
        with torch.inference_mode():
            (video,) = assistant.processor(Sample([Message("user", "?")], video=str(path))).videos
            video = replace(video, pixels=None, features=assistant.model.encode(video.pixels))
        blank = Video(np.zeros((len(video.features), 1, 1, 3), dtype=np.uint8), fps=1.0)
        samples = [Sample([Message("user", q.text), Message("assistant", q.reply)], blank) for q in plan.questions]
        yield AskedClip(tuple(samples), video)


def batches(assistant: Any, clips: Sequence[AskedClip], *, size: int = BATCH, blind: bool = False) -> Iterator[Any]:
    """Yield packed batches of the questions about the clips."""
    shown = [*clips[1:], clips[0]] if blind else clips
    examples = []
    for clip, other in zip(clips, shown, strict=True):
        layout = assistant.processor.plan_pack(clip.samples)
        examples.append(replace(layout.without_videos("clip"), videos=(other.video,)))
    for first in range(0, len(examples), size):
        yield assistant.processor.collate(examples[first : first + size])


# --- measurement --------------------------------------------------------------------------------------------------


def measure_setting(assistant: Any, plain: Any, clips: Sequence[AskedClip], *, blind: bool) -> dict[str, Any]:
    """Return tokens, kept share, operations, time, and which replies are right, of a model with a reducer."""
    import torch

    from recipes.shapes.questions import right_replies

    rights: list[list[bool]] = []  # by clip
    tokens = 0
    with torch.inference_mode():
        for batch in batches(assistant, clips, blind=blind):
            replies = iter(right_replies(assistant.model(batch).logits, batch))
            rights += [[next(replies) for _ in range(int(blocks.max()))] for blocks in batch.blocks]
            tokens += int(assistant.model.fill(batch)[1].video_mask.sum())
        spent, usual = prefill(assistant, plain, clips[:TIMED])
    patches = sum(clip.video.features.shape[:2].numel() for clip in clips)
    return {
        "tokens": tokens / len(clips),
        "kept": tokens / patches,
        "operations": spent[0] / usual[0],
        "time": spent[1] / usual[1],
        "gflop": spent[0] / 1e9,
        "rights": rights,
    }


def prefill(assistant: Any, plain: Any, clips: Sequence[AskedClip]) -> list[tuple[float, float]]:
    """Return operations and seconds of prefilling the first question about each clip, with and without the reducer."""
    from torch.utils.flop_counter import FlopCounterMode

    found: list[list[float]] = [[0, float("inf")], [0, float("inf")]]
    ways = (assistant, plain)
    ready = [list(batches(way, [replace(c, samples=c.samples[:1]) for c in clips], size=1)) for way in ways]
    for turn in range(REPEATS + 1):
        for way, of_way, best in zip(ways, ready, found, strict=True):
            if turn == 0:
                with FlopCounterMode(display=False) as counter:
                    for batch in of_way:
                        way.model(batch)
                best[0] = counter.get_total_flops()
                continue
            began = time.perf_counter()
            for batch in of_way:
                way.model(batch)
            best[1] = min(best[1], time.perf_counter() - began)
    return [(operations, seconds) for operations, seconds in found]


# --- results ------------------------------------------------------------------------------------------------------


def mean(rights: Sequence[Sequence[bool]]) -> float:
    """Return the share of right replies."""
    return sum(map(sum, rights)) / sum(map(len, rights))


def difference(first: dict[str, Any], second: dict[str, Any]) -> tuple[float, float, float, float]:
    """Return the accuracy of the first row minus that of the second, its 95 % interval, and McNemar's p."""
    from tinyvid.evaluation.scoring.averages import bootstrap, mcnemar

    pairs = [
        (number, a, b)
        for number, (ours, theirs) in enumerate(zip(first["rights"], second["rights"], strict=True))
        for a, b in zip(ours, theirs, strict=True)
    ]
    low, high = bootstrap([float(a) - float(b) for _, a, b in pairs], [str(number) for number, *_ in pairs])
    p = mcnemar(sum(a and not b for _, a, b in pairs), sum(b and not a for _, a, b in pairs))
    return mean(first["rights"]) - mean(second["rights"]), low, high, p


def as_table(rows: dict[str, Any]) -> str:
    """Return the results on a set of clips as a Markdown table."""
    from tinyvid.evaluation.scoring.averages import wilson

    lines = [
        "| setting | tokens | kept, % | operations | time | accuracy, % | minus no reducer | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        count = sum(map(len, row["rights"]))
        low, high = wilson(sum(map(sum, row["rights"])), count)
        change, least, most, p = difference(row, rows[NONE])
        paired = "" if name == NONE else f"{100 * change:+.1f} ({100 * least:+.1f} to {100 * most:+.1f})"
        lines.append(
            f"| {name} | {row['tokens']:.0f} | {100 * row['kept']:.1f} | {row['operations']:.2f} | {row['time']:.2f} "
            f"| {100 * mean(row['rights']):.1f} ({100 * low:.1f} - {100 * high:.1f}) | {paired} "
            f"| {'' if name == NONE else f'{p:.2g}'} |"
        )
    return "\n".join(lines)


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """Return the report of the last line, from the rows about clips with little motion."""
    from tinyvid.checkpoints.hub import DEFAULT_MODEL

    usual = mean(rows[NONE]["rights"])
    enough = {name: row for name, row in rows.items() if name.startswith("drop ") and row["kept"] <= 0.2}
    thresholds = [name for name in enough if f"{name} kept" in enough]
    chosen = max(thresholds, key=lambda name: enough[name]["kept"], default="")
    closed, kept = (round(mean(enough[n]["rights"]) / usual, 4) if chosen else None for n in (chosen, f"{chosen} kept"))
    merged = difference(rows[MERGED], rows[POOLED])
    views = difference(rows[FEWER_VIEWS], rows[MORE_VIEWS])
    card = json.loads((DEFAULT_MODEL / "report.json").read_text(encoding="utf-8"))
    return {
        "drop_accuracy_kept": closed,
        "drop_kept_positions_accuracy_kept": kept,
        "drop_dropped": round(1 - enough[chosen]["kept"], 4) if chosen else None,
        "merge_over_meanpool": round(mean(rows[MERGED]["rights"]) / max(mean(rows[POOLED]["rights"]), 1e-9), 4),
        "merge_p": round(merged[-1], 4),
        "merge_over_meanpool_by_tokens": {
            row["tokens"]: round(
                mean(row["rights"]) / max(mean(rows[name.replace("merge", "mean")]["rights"]), 1e-9), 4
            )
            for name, row in rows.items()
            if name.replace("merge", "mean") in rows and name.startswith("merge")
        },
        "views_difference": round(views[0], 4),
        "views_p": round(views[-1], 4),
        "grounding_miou": card.get("test_of_spans", {}).get("miou"),
    }


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot accuracy over the kept share: a panel per set of clips, and a line per reducer."""
    from matplotlib.figure import Figure

    from tinyvid.evaluation.scoring.averages import wilson

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, 2, sharey=True), rows.items(), strict=True):
        lines: dict[str, list[dict[str, Any]]] = {}
        for setting, row in found.items():
            kind = setting.split()[0] + next((f" {end}" for end in ("kept", "by frame") if setting.endswith(end)), "")
            if setting not in (NONE, BLIND):
                lines.setdefault(kind, []).append(row)
        for number, (kind, of_kind) in enumerate(lines.items()):
            points = sorted(of_kind, key=lambda row: row["kept"])
            kept = [100 * row["kept"] for row in points]
            shares = [(sum(map(sum, row["rights"])), sum(map(len, row["rights"]))) for row in points]
            style, color = "o--" if " " in kind else "o-", f"C{number}"
            axes.plot(kept, [100 * right / count for right, count in shares], style, color=color, ms=4, label=kind)
            bounds = [wilson(*share) for share in shares]
            axes.fill_between(kept, *([100 * bound[i] for bound in bounds] for i in (0, 1)), color=color, alpha=0.1)
        for level, style in ((NONE, "-"), (BLIND, ":")):
            label = "no reducer" if level == NONE else "another clip"
            axes.axhline(100 * mean(found[level]["rights"]), color="black", ls=style, lw=1, label=label)
        motion = "little" if name == "low" else "much"
        axes.set(title=f"{motion} motion", xlabel="kept share of the patches, %", xscale="log")
        axes.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy, %")
    figure.axes[0].legend(fontsize=8, ncols=2, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
