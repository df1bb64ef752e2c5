"""Compare items per second of tinyvid's runner and of a simple loop, on the same videos, questions and model.

Like TinyLLaVA-Video's evaluation, the loop decodes the video, runs the vision tower and generates, for one question
at a time. Unlike the original, which decodes whole clips, it reads frames as sparsely as tinyvid, so the comparison
covers only the order of the work. The runner decodes a video and runs the tower once for all of its questions,
decodes in advance in threads, generates in batches, and writes rows and a report; its time includes all of this.

Both answer the same multiple-choice questions, three for each generated clip (640x360, 10 s), with a small random
model on the CPU. Its sizes are chosen so that decoding takes about three quarters of the loop's time, as when a GPU
runs tower and LLM; the last line states the actual fractions. Runs alternate, and the fastest of each counts,
because other programs on the machine can only add time.

The last line is one JSON object: `speedup` (items per second of the runner / those of the loop; target: at least 3),
`loop_items_per_second`, `runner_items_per_second`, `same_replies` (fraction of identical replies; batches may round
differently), and the fractions of the loop's time spent on `decode`, `tower` and `generate`.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from _small import connector_for, language_model, processor_for, write_clips

SIZES = {
    "clips": 8,
    "video": (640, 360, 10),
    "frames": 16,
    "llm": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 1024},
    "tower": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4},
    "queries": 64,
}
QUICK = SIZES | {"clips": 2, "video": (160, 128, 1), "frames": 8}
TOKENS = 8  # of a reply
QUESTIONS = (
    ("Which way does the camera pan?", ["To the left", "To the right", "In a circle", "It stands still"]),
    ("What is seen?", ["A texture", "A dog", "A street", "A face"]),
    ("How long is the clip?", ["A second", "Ten seconds", "A minute", "An hour"]),
)


def main() -> None:
    """Run both alternately, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use two tiny clips, to check that the script runs")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--questions", type=int, default=3, choices=(1, 2, 3), help="questions per video (default: 3)")
    parser.add_argument("--workers", type=int, default=1, help="decoding threads of the runner (default: 1)")
    parser.add_argument("--batch-size", type=int, default=6, help="batch size of the runner (default: 6)")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    sizes = QUICK if arguments.quick else SIZES
    with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
        measure(Path(folder), sizes, arguments)


def measure(folder: Path, sizes: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Measure both methods and print the results."""
    from tinyvid import build_benchmark

    write_rows(folder, sizes, arguments.questions)
    benchmark = build_benchmark({"name": "custom", "root": str(folder)})
    assistant = small_assistant(sizes)
    best: dict[str, float] = {}
    stages: dict[str, float] = {}
    replies: dict[str, list[str | None]] = {}
    for turn in range(arguments.repeats + 1):  # the first turn warms up
        seconds, replies["loop"], spent = loop(assistant, benchmark)
        if turn and seconds < best.get("loop", float("inf")):
            best["loop"], stages = seconds, spent
        seconds, replies["runner"] = run(assistant, benchmark, folder / f"run_{turn}", arguments)
        if turn:
            best["runner"] = min(seconds, best.get("runner", seconds))
    items = len(benchmark)
    print(f"CPU, one thread of torch; best of {arguments.repeats}; load average {os.getloadavg()[0]:.1f}")
    print(
        f"{items} items about {sizes['clips']} clips of {sizes['video'][0]}x{sizes['video'][1]}, {TOKENS} tokens each"
    )
    print(f"{'method':<10}{'time':>10}{'items/s':>10}")
    for way in ("loop", "runner"):
        print(f"{way:<10}{best[way]:>8.2f} s{items / best[way]:>10.2f}")
    total = sum(stages.values())
    print("loop: " + ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in stages.items()))
    same = sum(a == b for a, b in zip(replies["loop"], replies["runner"], strict=True)) / items
    print(
        json.dumps(
            {
                "speedup": round(best["loop"] / best["runner"], 3),
                "loop_items_per_second": round(items / best["loop"], 3),
                "runner_items_per_second": round(items / best["runner"], 3),
                "same_replies": same,
                **{name: round(seconds / total, 3) for name, seconds in stages.items()},
            }
        )
    )


def write_rows(folder: Path, sizes: dict[str, Any], questions: int) -> None:
    """Write the clips and the questions about them."""
    rows = [
        {
            "id": f"{path.stem}-{number}",
            "video": path.name,
            "conversations": [{"from": "human", "value": question}],
            "options": options,
            "answer_index": number,
        }
        for path in write_clips(folder, "clip", sizes["clips"], sizes["video"])
        for number, (question, options) in enumerate(QUESTIONS[:questions])
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def small_assistant(sizes: dict[str, Any]) -> Any:
    """Return a small random model with its Processor."""
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from tinyvid import Assistant, VideoLLM
    from tinyvid.checkpoints.native import Loaded
    from tinyvid.models.vision_towers.siglip import SiglipTower, default_image_spec

    torch.manual_seed(0)
    heads = sizes["tower"]["hidden_size"] // 64
    config = SiglipVisionConfig(**sizes["tower"], num_attention_heads=heads, image_size=112, patch_size=14)
    tower = SiglipTower(SiglipVisionModel(config), default_image_spec(config))
    llm = language_model(sizes["llm"])
    shape = tower.features
    connector = connector_for(llm, dim=shape.dim, num_patches=shape.num_patches, queries=sizes["queries"], depth=1)
    processor = processor_for(tower.image, connector, num_frames=sizes["frames"])
    processor.template.system = ""  # with one token per byte, prompts are long enough without it
    groups = {"sampler": {"num_frames": sizes["frames"]}, "template": {"name": "qwen2_base"}}
    tower.requires_grad_(False)
    return Assistant(Loaded(VideoLLM(llm, tower, connector).eval(), processor, groups, frozenset()))


def loop(assistant: Any, benchmark: Any) -> tuple[float, list[str | None], dict[str, float]]:
    """Answer one question at a time; return the seconds, the replies, and the seconds by stage."""
    import torch

    from tinyvid.generation.decode import Decoding, replies

    stages = {"decode": 0.0, "tower": 0.0, "generate": 0.0}
    answers: list[str | None] = []
    began = time.perf_counter()
    for index in range(len(benchmark)):
        times = [time.perf_counter()]
        example = assistant.processor(benchmark[index].sample, reserve=TOKENS)
        times.append(time.perf_counter())
        batch = assistant.processor.collate([example], padding_side="left")
        with torch.inference_mode():
            batch = assistant.model.fill_features(batch)
        times.append(time.perf_counter())
        answers += replies(assistant.model, assistant.processor, batch, Decoding(TOKENS))
        times.append(time.perf_counter())
        for number, name in enumerate(stages):
            stages[name] += times[number + 1] - times[number]
    return time.perf_counter() - began, answers, stages


def run(assistant: Any, benchmark: Any, folder: Path, arguments: argparse.Namespace) -> tuple[float, list[str | None]]:
    """Run the benchmark with tinyvid's runner; return the seconds and the replies."""
    from tinyvid import EvaluationOptions, evaluate, read_outcomes
    from tinyvid.evaluation.reporting.predictions import ROWS

    options = EvaluationOptions(batch_size=arguments.batch_size, workers=arguments.workers, max_new_tokens=TOKENS)
    began = time.perf_counter()
    evaluate(assistant, benchmark, run_dir=folder, options=options)
    seconds = time.perf_counter() - began
    return seconds, [outcome.reply for outcome in read_outcomes(folder / ROWS)]


if __name__ == "__main__":
    main()
