"""Release the result: a native checkpoint with half-precision weights, and a report of its accuracy on video files."""

import argparse
import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from recipes.shapes.measure import TEST, Numbers, measure, measure_spans
from recipes.shapes.plots import read
from recipes.shapes.real_videos import ask_real_videos, paragraph
from recipes.shapes.sizes import TIMED, Size
from recipes.shapes.stages import RecipeRun
from tinyvid import Assistant
from tinyvid.checkpoints.native import Loaded, save
from tinyvid.worlds.shapes import ClipPlan, SetOptions, encode, plan_clip

logger = logging.getLogger("tinyvid.shapes")
WEIGHTS = ("connector.safetensors", "llm/model.safetensors", "vision_tower/model.safetensors")
SHIPPED = ("tinyvid.yaml", "report.json", "question.txt")  # files that identify a shipped model
LIBRARIES = ("tinyvid", "torch", "transformers", "tokenizers", "av", "numpy")
DEMO = SetOptions(split="iid", seed=2, num_shapes=3, min_events=2, sizes=["128x128"], fps=[12.0], seconds=[4.0],
                  families=["order_between"], formats=["open"], questions=1)  # fmt: skip
DEMO_CLIP = 0


def release(run: RecipeRun, *, command: str) -> None:
    """Write ``model``, measure the written model, and write ``report.json``."""
    folder = run.out / "model"
    if not folder.exists():
        assistant, student = run.student("answers")
        model = student.model.cpu().half()
        save(Loaded(model, assistant.processor, assistant.config, frozenset({"llm", "vision_tower"})), folder)
    made = {
        "command": command,
        "seed": run.seed,
        "size": asdict(run.size),
        "precision": "bfloat16" if run.bf16 else "float32",
        "machine": f"{platform.machine()}, {run.replicas} threads, {run.device}",
        "seconds": {row["stage"]: row["seconds"] for row in read(run.out / "seconds.jsonl")},
    }
    write_report(run.out, made, run.size, threads=run.replicas)


def write_report(out: Path, made: dict[str, Any], size: Size, *, threads: int) -> None:
    """Measure the checkpoint ``model`` in a folder on new clips, and write ``report.json`` next to it.

    Args:
        out: Folder of the run.
        made: How the model was made.
        size: Size of the recipe; says what is measured.
        threads: Threads of the measurement.
    """
    torch.set_num_threads(threads)
    folder = out / "model"
    families, formats = [name for name in size.families if name not in TIMED], list(size.formats)
    asked = replace(TEST, hold_out=size.hold_out, questions=size.questions, families=families, formats=formats)
    written = Assistant.from_pretrained(folder, device="cpu", dtype="float32")
    report: dict[str, Any] = made | {
        "versions": {name: version(name) for name in LIBRARIES},
        "parameters": sum(p.numel() for p in written.model.parameters()),
        "sha256": digest(folder),
        "test": measure(written, asked, clips=size.test),
        "test_of_another_clip": measure(written, asked, clips=size.test, blind=True),
    }
    if "grounding" in size.families:
        report["test_of_spans"] = measure_spans(written, replace(TEST, hold_out=size.hold_out), clips=size.test)
    if size.hold_out:
        report["test_of_unseen_pairs"] = measure(written, replace(asked, split="unseen"), clips=size.test)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    right, blind = (report[name]["overall"]["accuracy"] for name in ("test", "test_of_another_clip"))
    logger.info("Wrote %s: accuracy %.3f, or %.3f when shown another clip", folder, right, blind)


def digest(folder: Path) -> str:
    """Return the SHA-256 of the weights of a checkpoint, in the order of ``WEIGHTS``."""
    found = hashlib.sha256()
    for name in WEIGHTS:
        found.update((folder / name).read_bytes())
    return found.hexdigest()


def replaceable(folder: Path) -> bool:
    """Return whether ``ship`` may write to a folder: it is new, empty or contains a shipped model."""
    return not folder.exists() or not any(folder.iterdir()) or all((folder / name).is_file() for name in SHIPPED)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a program that ships its model."""
    parser.add_argument("--ship", type=Path, help="copy the finished model, its card and a demo clip to this folder")
    parser.add_argument("--real-videos", type=Path, nargs="+", default=(),
                        help="with --ship: real videos; the card reports the replies about them")  # fmt: skip


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if the model could not be shipped as these options say."""
    if args.ship and not replaceable(args.ship):
        parser.error(
            f"--ship {args.ship} would replace a folder that is not a model of this recipe; choose another folder"
        )
    if args.real_videos and not args.ship:
        parser.error("--real-videos requires --ship, which writes the model card")
    if missing := [str(path) for path in args.real_videos if not path.is_file()]:
        parser.error(f"--real-videos: these files do not exist: {', '.join(missing)}")


def ship(out: Path, folder: Path, real_videos: Sequence[Path]) -> None:
    """Copy the finished model of a run to a folder, with its report, its card and a demo clip.

    Args:
        out: Folder of the run.
        folder: Folder to write or replace.
        real_videos: Real videos without shapes; the card reports the replies about them.
    """
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    if real_videos:
        report["real_videos"] = ask_real_videos(Assistant.from_pretrained(out / "model", device="cpu"), real_videos)
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(out / "model", folder)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plan = plan_clip(DEMO, DEMO_CLIP)
    (folder / "clip.mp4").write_bytes(encode(plan))
    (folder / "question.txt").write_text(plan.questions[0].text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(report, plan), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    logger.info("Wrote %s, %.1f MB", folder, size / 1e6)


def card(report: dict[str, Any], plan: ClipPlan) -> str:
    """Return the model card."""
    numbers: Numbers = report["test"]
    rows = "\n".join(
        f"| {name} | {100 * row['accuracy']:.1f} | {row['questions']:.0f} |" for name, row in numbers.items()
    )
    blind = 100 * report["test_of_another_clip"]["overall"]["accuracy"]
    (question,) = plan.questions
    commands = " and ".join(f"`{made['command']}`" for made in (report.get("start"), report) if made)
    spans = report.get("test_of_spans")
    return f"""---
library_name: tinyvid
pipeline_tag: video-text-to-text
---

# The default model of tinyvid

{report["parameters"] / 1e6:.1f} M parameters, trained from scratch by {commands}: a SigLIP-style tower, the
`group` connector with a temporal mixer, and a Qwen2.5-style LLM with a tokenizer of its own.

**It only knows clips of the shapes world**: one to four colored shapes that move, appear, disappear, change color, pass
each other and collide (docs/shapes.md). It also answers other questions, questions in other words, and questions about
real videos, but those answers mean nothing. It shows that the whole library works, and it makes connectors, samplers
and training recipes comparable. It is not useful for real videos.

```python
from tinyvid import Assistant

print(Assistant.from_pretrained().ask("clip.mp4", "{question.text}"))  # {question.reply}
```

A reply counts as right if it matches word for word. The test clips were not seen in training (H.264 files of mixed
sizes and frame rates). With the frames of another clip, {blind:.1f} % of the replies are right.
`overall` excludes captions.

| questions | accuracy, % | number |
|---|---|---|
{rows}

{span_paragraph(spans) if spans else ""}
{paragraph(report["real_videos"]) if "real_videos" in report else ""}
Seed {report["seed"]}, {", ".join(f"{name} {number}" for name, number in report["versions"].items())}; SHA-256 of the
weights `{report["sha256"]}`. Everything else about the run is in `report.json`.
"""


def span_paragraph(spans: dict[str, float]) -> str:
    """Return the marks of spans as a paragraph for the card."""
    return (
        f"Asked when something happens, it replies with a span of seconds. In {spans['spans']:.0f} questions about the "
        f"test clips, the mean IoU is {spans['miou']:.3f}, and {100 * spans['r70']:.1f} % of the spans have an IoU of "
        "at least 0.7.\n"
    )
