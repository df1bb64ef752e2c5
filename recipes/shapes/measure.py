"""How often a checkpoint is right about clips that no training saw: real files, through tinyvid's Processor.

    python -m recipes.shapes.measure --ckpt runs/shapes/model --clips 500
    python -m recipes.shapes.measure --clips 100 --sizes 320x240 --fps 30 --seconds 2 --codec vp9   # the shipped model

A reply counts if greedy decoding would write exactly the right one. All questions of a clip are packed behind its video
and nothing is generated, which is fast; the recipe measures so while it trains and when it releases. The numbers of
docs/shapes.md are those of ``python eval.py benchmark=shapes``, which generates every reply, keeps the set and goes on
after a kill. Both come to the same, which ``tests/eval/test_shapes.py`` holds.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from recipes.shapes.progress import progress
from recipes.shapes.questions import right_replies
from tinyvid import Assistant, Message, Sample, Video
from tinyvid.evaluation.scoring.averages import wilson
from tinyvid.processing.batch import Example
from tinyvid.worlds.shapes import ClipPlan, SceneQuestion, SetOptions, encode, plan_clip

TEST = SetOptions(split="iid", seed=1)
TOGETHER = 8  # clips of a batch
Numbers = dict[str, dict[str, float]]


def measure(
    assistant: Assistant, options: SetOptions, *, clips: int, codec: str = "h264", blind: bool = False
) -> Numbers:
    """Return accuracy and number of questions, overall (captions apart), by family and by format.

    Args:
        assistant: What is asked.
        options: What the clips are like.
        clips: How many.
        codec: Of the files.
        blind: Show every clip the frames of another one.
    """
    found: dict[str, list[bool]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode(), progress("measure", clips) as tick:
        plans = (plan_clip(options, index) for index in range(clips))
        for batch in _batches(plans):
            examples = [example_of(assistant, plan, Path(scratch), codec) for plan in batch]
            if blind:
                shown = [*examples[1:], examples[0]]
                examples = [replace(e, videos=other.videos) for e, other in zip(examples, shown, strict=True)]
            ready = assistant.processor.collate(examples).to(assistant.model.device)
            replies = right_replies(assistant.model(ready).logits, ready)
            asked: list[SceneQuestion] = [question for plan in batch for question in plan.questions]
            for question, right in zip(asked, replies, strict=True):
                for name in ("overall" if question.format != "caption" else "captions", question.family,
                             f"format/{question.format}"):  # fmt: skip
                    found[name].append(right)
            tick(len(batch))
    return {name: summary(rights) for name, rights in sorted(found.items())}


def example_of(assistant: Assistant, plan: ClipPlan, folder: Path, codec: str) -> Example:
    """Write a clip, and return it with all its questions as the Processor reads it."""
    path = folder / f"{plan.index}.{'webm' if codec == 'vp9' else 'mp4'}"
    path.write_bytes(encode(plan, codec=codec))
    video = Video(str(path))
    samples = [Sample([Message("user", q.text), Message("assistant", q.reply)], video=video) for q in plan.questions]
    example = assistant.processor.pack(samples)
    path.unlink()
    return example


def summary(rights: Sequence[bool]) -> dict[str, float]:
    """Return the share of right replies, its 95 % interval, and how many there were."""
    low, high = wilson(sum(rights), len(rights))
    return {
        "accuracy": round(sum(rights) / len(rights), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "questions": len(rights),
    }


def table(numbers: Numbers) -> str:
    """Return the numbers as a table in Markdown."""
    lines = ["| | right, % | 95 % interval | questions |", "|---|---|---|---|"]
    for name, row in numbers.items():
        interval = f"{100 * row['low']:.1f} - {100 * row['high']:.1f}"
        lines.append(f"| {name} | {100 * row['accuracy']:.1f} | {interval} | {row['questions']:.0f} |")
    return "\n".join(lines)


def _batches(plans: Iterator[ClipPlan]) -> Iterator[list[ClipPlan]]:
    batch: list[ClipPlan] = []
    for plan in plans:
        batch.append(plan)
        if len(batch) == TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def main() -> None:
    """Measure as the command line says, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, help="checkpoint; without it the model that comes with tinyvid")
    parser.add_argument("--clips", type=int, default=500, help="how many (500)")
    parser.add_argument("--seed", type=int, default=TEST.seed, help="of the clips (1)")
    parser.add_argument("--split", default=TEST.split, help="iid, or unseen: clips with a pair kept back (iid)")
    parser.add_argument("--sizes", nargs="+", default=TEST.sizes, help="such as 320x240")
    parser.add_argument("--fps", nargs="+", type=float, default=TEST.fps, help="frames per second")
    parser.add_argument("--seconds", nargs="+", type=float, default=TEST.seconds, help="lengths")
    parser.add_argument("--codec", default="h264", help="h264, mpeg4 or vp9 (h264)")
    parser.add_argument("--blind", action="store_true", help="show every clip the frames of another one")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    options = replace(
        TEST, seed=args.seed, split=args.split, sizes=args.sizes, fps=args.fps, seconds=args.seconds
    )  # fmt: skip
    assistant = Assistant.from_pretrained(args.ckpt)
    numbers = measure(assistant, options, clips=args.clips, codec=args.codec, blind=args.blind)
    print(table(numbers))
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
