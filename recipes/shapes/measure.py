"""Measure the accuracy of a checkpoint on new clips: video files, read by tinyvid's Processor.

    python -m recipes.shapes.measure --ckpt runs/shapes/model --clips 500
    python -m recipes.shapes.measure --clips 100 --sizes 320x240 --fps 30 --seconds 2 --codec vp9   # the default model

A reply is correct if greedy decoding would generate exactly the reference. All questions about a clip are packed after
its video and nothing is generated, which is fast. The numbers in docs/shapes.md come from
``python eval.py benchmark=shapes``, which generates every reply, keeps the set and can continue an interrupted run.
``tests/eval/test_shapes.py`` checks that both give the same result.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recipes.shapes.progress import progress
from recipes.shapes.questions import right_replies
from tinyvid import Assistant, Message, Sample, Video
from tinyvid.evaluation.scoring.averages import wilson
from tinyvid.evaluation.scoring.spans import Span, iou, read_spans
from tinyvid.processing.batch import Example
from tinyvid.worlds.shapes import ClipPlan, SceneQuestion, SetOptions, encode, plan_clip

TEST = SetOptions(split="iid", seed=1)
TOGETHER = 8  # clips per batch
SPANS = 2  # questions about spans of time per clip
SPAN_TOKENS = 32  # maximum length of a reply with a span
Numbers = dict[str, dict[str, float]]


def measure(
    assistant: Assistant, options: SetOptions, *, clips: int, codec: str = "h264", blind: bool = False
) -> Numbers:
    """Return accuracy and number of questions, overall (captions apart), by family and by format.

    Args:
        assistant: The model to measure.
        options: Options for the clips.
        clips: Number of clips.
        codec: Codec of the files.
        blind: Replace the frames of every clip with those of another one.
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


def measure_spans(assistant: Assistant, options: SetOptions, *, clips: int) -> dict[str, float]:
    """Return the mean IoU of generated spans of time, and the shares with an IoU of at least 0.5 and 0.7.

    Args:
        assistant: The model to measure.
        options: Options for the clips. Each clip is asked ``SPANS`` questions of the family ``grounding``.
        clips: Number of clips.
    """
    options = replace(options, families=["grounding"], formats=None, questions=SPANS)
    ious: list[float] = []
    with tempfile.TemporaryDirectory() as scratch, progress("spans", clips) as tick:
        for batch in _batches(plan_clip(options, index) for index in range(clips)):
            samples = []
            for plan in batch:
                path = Path(scratch) / f"{plan.index}.mp4"
                path.write_bytes(encode(plan))
                samples += [Sample([Message("user", q.text)], video=Video(str(path))) for q in plan.questions]
            gold = [read_spans(question.reply)[0] for plan in batch for question in plan.questions]
            ious += map(span_iou, assistant.answer(samples, max_new_tokens=SPAN_TOKENS), gold)
            tick(len(batch))
    return span_summary(ious)


def span_iou(reply: str, gold: Span) -> float:
    """Return the IoU of the first span in a reply with the right one; 0 without a span."""
    spans = read_spans(reply)
    return iou(spans[0], gold) if spans else 0.0


def span_summary(ious: Sequence[float]) -> dict[str, float]:
    """Return the mean IoU, the shares with an IoU of at least 0.5 and 0.7, and the number of questions."""
    values = np.array(ious)
    found = {"miou": values.mean(), "r50": (values >= 0.5).mean(), "r70": (values >= 0.7).mean(), "spans": len(values)}
    return {name: round(float(value), 4) for name, value in found.items()}


def example_of(assistant: Assistant, plan: ClipPlan, folder: Path, codec: str) -> Example:
    """Write a clip to a file, and return the example that the Processor makes of it and its questions."""
    path = folder / f"{plan.index}.{'webm' if codec == 'vp9' else 'mp4'}"
    path.write_bytes(encode(plan, codec=codec))
    video = Video(str(path))
    samples = [Sample([Message("user", q.text), Message("assistant", q.reply)], video=video) for q in plan.questions]
    example = assistant.processor.pack(samples)
    path.unlink()
    return example


def summary(rights: Sequence[bool]) -> dict[str, float]:
    """Return the accuracy, its 95 % interval and the number of questions."""
    low, high = wilson(sum(rights), len(rights))
    return {
        "accuracy": round(sum(rights) / len(rights), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "questions": len(rights),
    }


def table(numbers: Numbers) -> str:
    """Format the numbers as a Markdown table."""
    lines = ["| | accuracy, % | 95 % interval | questions |", "|---|---|---|---|"]
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
    """Measure the checkpoint given on the command line, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, help="checkpoint (default: the default model)")
    parser.add_argument("--clips", type=int, default=500, help="number of clips (default: 500)")
    parser.add_argument("--seed", type=int, default=TEST.seed, help="seed of the clips (default: 1)")
    parser.add_argument("--split", default=TEST.split, help="iid, or unseen for held-out pairs (default: iid)")
    parser.add_argument("--sizes", nargs="+", default=TEST.sizes, help="sizes such as 320x240")
    parser.add_argument("--fps", nargs="+", type=float, default=TEST.fps, help="frames per second")
    parser.add_argument("--seconds", nargs="+", type=float, default=TEST.seconds, help="durations in seconds")
    parser.add_argument("--codec", default="h264", help="h264, mpeg4 or vp9 (default: h264)")
    parser.add_argument("--blind", action="store_true", help="replace the frames of every clip with those of another")
    parser.add_argument("--json", type=Path, help="also write the numbers to this JSON file")
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
