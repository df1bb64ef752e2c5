"""Teach a finished model of the recipe new families of questions or traces, and keep the others.

    python -m recipes.shapes.continued --out runs/grounding                # the default model learns grounding
    python -m recipes.shapes.continued --families grounding dense_caption --clips 8000 --steps 4000 --out DIR
    python -m recipes.shapes.continued --out runs/per_cent --time "{:02d}%" --time-steps 100
    python -m recipes.shapes.continued --families --traces cited --steps 400 --out runs/cited   # replies cite frames

Trains the mixer and the LLM on packed questions of all families about new clips. The vision tower and the rest of the
connector stay frozen, so their tokens are stored once. At every check, ``curve.jsonl`` gets the accuracy of the old
families on held-out clips and, with the family ``grounding``, the IoU of generated spans, and ``state.pt`` everything
that is needed to continue: run the same command again after an interruption. The result is a half-precision checkpoint
in ``model``, and its accuracies in ``report.json``.
"""

import argparse
import json
import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from recipes.shapes import attention
from recipes.shapes.clips import draw_clip, load_clips, make_clips
from recipes.shapes.fitting import CLIP, Engine, Metrics, optimizers, rate
from recipes.shapes.measure import SPAN_TOKENS, SPANS, span_iou, span_summary
from recipes.shapes.plots import read
from recipes.shapes.progress import progress
from recipes.shapes.questions import SECONDS, Share, lay_out
from recipes.shapes.release import add_options, check_options, digest, ship, write_report
from recipes.shapes.sizes import SIZES, WEIGHTS, Size
from recipes.shapes.stages import shares
from recipes.shapes.student import (
    CONNECTOR_RATE,
    Student,
    accuracy,
    answer_loss,
    forward_with,
    known_tokens,
    mix,
    resample,
)
from recipes.shapes.vision import to_pixels
from tinyvid import Assistant
from tinyvid.checkpoints.hub import DEFAULT_MODEL
from tinyvid.evaluation.scoring.spans import read_spans
from tinyvid.generation.decode import Decoding, replies
from tinyvid.interrupts import interruptible
from tinyvid.processing.batch import Example, VideoInput
from tinyvid.worlds.shapes import EXTRA_FAMILIES, SceneQuestion, ask
from tinyvid.worlds.shapes.traces import TRACE_STYLES

logger = logging.getLogger("tinyvid.shapes")
CHUNK = 16  # clips per call of the vision tower
TOGETHER = 32  # spans generated at once
REPORTED = (
    "families",
    "traces",
    "time",
    "time_steps",
    "share",
    "clips",
    "steps",
    "batch_size",
    "lr",
    "seed",
)  # in a report


@dataclass(frozen=True)
class Continued:
    """What is trained, and where.

    Attributes:
        out: Folder of the run.
        size: Size of the recipe with the families, clips, steps and batch size of this run.
        seed: Random seed of clips and questions.
        workers: Processes that generate clips and questions.
        replicas: Shares of a batch, one per core.
    """

    out: Path
    size: Size
    seed: int
    workers: int
    replicas: int


@torch.inference_mode()
def store_tokens(assistant: Assistant, frames: np.ndarray, path: Path) -> None:
    """Store the connector's tokens of all clips before its mixer, (clips, K, D) in float16."""
    model, partial = assistant.model, path.with_suffix(".partial")
    connector: Any = model.connector
    shape = (len(frames), connector.tokens.budget.fixed, model.llm.config.hidden_size)
    out = open_memmap(partial, mode="w+", dtype="float16", shape=shape)
    with progress("tokens", len(frames)) as tick:
        for first in range(0, len(frames), CHUNK):
            shown = np.array(frames[first : first + CHUNK])  # (B, T, S, S, 3)
            features = model.vision_tower(to_pixels(shown.reshape(-1, *shown.shape[2:]), model.device))
            tokens = resample(connector, features.unflatten(0, shown.shape[:2]))
            out[first : first + CHUNK] = tokens.half().numpy()
            tick(len(shown))
    out.flush()
    partial.rename(path)


def held_out_spans(run: Continued) -> list[tuple[int, float, SceneQuestion]]:
    """Return questions about spans of the held-out clips: number of the clip, duration and question."""
    found = []
    for clip in range(run.size.clips, run.size.clips + run.size.held_out):
        scene, file = draw_clip(run.seed, clip)
        rng = np.random.default_rng([run.seed, 7, clip])
        duration = SECONDS[clip % len(SECONDS)]
        asked = ask(scene, rng, num=SPANS, families=["grounding"], moments=file.moments, duration=duration)
        found += [(clip, duration, question) for question in asked]
    return found


@torch.inference_mode()
def span_ious(assistant: Assistant, asked: list[tuple[int, float, SceneQuestion]], tokens: np.ndarray) -> list[float]:
    """Return the IoU of the generated reply to each question about a span; 0 if the reply has no span."""
    model, processor = assistant.model, assistant.processor
    found = []
    for first in range(0, len(asked), TOGETHER):
        some = asked[first : first + TOGETHER]
        prompts = [_prompt(lay_out(processor, [q], "span", duration=duration)) for _, duration, q in some]
        known = torch.from_numpy(tokens[[clip for clip, _, _ in some]]).to(model.device).float()
        batch = processor.collate(prompts, padding_side="left").to(model.device)
        with known_tokens(model, mix(model.connector, known)):
            written = replies(model, processor, batch, Decoding(max_new_tokens=SPAN_TOKENS))
        for (_, duration, question), reply in zip(some, written, strict=True):
            clip = VideoInput(start=0.0, end=duration, times=())
            found.append(span_iou(processor.read_moments(reply, clip), read_spans(question.reply)[0]))
    return found


def _prompt(example: Example) -> Example:
    """Return an example with one question without its reply."""
    length = int((example.labels >= 0).nonzero()[0])
    cut = {name: getattr(example, name)[:length] for name in ("input_ids", "labels", "video_mask")}
    return replace(example, **cut, blocks=None)


def check(run: Continued, assistant: Assistant, engine: Engine, known: Sequence[Share], tokens: np.ndarray) -> Metrics:
    """Return the accuracy of the old families, and the IoU and recall of spans, on held-out clips.

    With traces, a reply is correct only if its trace is, too. Spans are asked for only with the family ``grounding``.
    """
    old = {name: round(value, 4) for name, value in accuracy(engine, known, tokens).items()}
    if "grounding" not in run.size.families:
        return old
    return span_summary(span_ious(assistant, held_out_spans(run), tokens)) | old


def train(run: Continued, assistant: Assistant, tokens: np.ndarray) -> None:
    """Train mixer and LLM from the last check on; append to ``curve.jsonl`` and write ``state.pt`` at every check."""
    attention.install()
    student = Student(assistant.model, assistant.processor.tokenizer)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith(("model.connector.mixer.", "model.llm.")))
    engine = Engine(student, bf16=False, replicas=run.replicas)
    used = optimizers(engine.parameters, weight_decay=0.05, slow={"connector": CONNECTOR_RATE}, shares=run.replicas)
    done, seconds = _restore(run.out / "state.pt", student, used)
    held_out = shares(
        replace(run.size, families=WEIGHTS), assistant, seed=run.seed, replicas=run.replicas, held_out=True
    )
    known = [held_out[number] for number in range(len(held_out))]
    waiting = shares(run.size, assistant, seed=run.seed, replicas=run.replicas, held_out=False).loader(
        run.workers, first=done * run.replicas
    )
    steps, tokenizer = run.size.answer_steps, assistant.processor.tokenizer
    mark, end = tokenizer(" Answer:", add_special_tokens=False).input_ids, tokenizer.eos_token_id

    def compute(student: Student, share: Share) -> tuple[Tensor, Metrics]:
        features = torch.from_numpy(tokens[share.clips]).float()
        output = forward_with(student.model, share.batch, mix(student.model.connector, features))
        loss = answer_loss(output, mark=mark, end=end)
        return loss, {"loss": loss.item()}

    def record() -> None:
        row = {"step": done, "seconds": round(seconds), "loss": round(float(np.mean(losses)), 4) if losses else None}
        row |= check(run, assistant, engine, known, tokens)
        logger.info("%s", " ".join(f"{name}={value}" for name, value in row.items() if "/" not in name))
        _append(run.out / "curve.jsonl", row)
        _keep(run.out / "state.pt", student, used, done, seconds)

    losses: list[float] = []
    if not done:
        record()
    with progress("answers", steps - done) as tick:
        while done < steps:
            began = time.process_time()
            for group in (group for optimizer in used for group in optimizer.param_groups):
                group["lr"] = group["scale"] * run.size.lr * rate(done, steps)
            metrics = engine.gradients(compute, [next(waiting) for _ in engine.replicas])
            nn.utils.clip_grad_norm_([p for _, p in engine.parameters if p.grad is not None], CLIP)
            list(engine.pool.map(lambda optimizer: optimizer.step(), used))
            done, seconds = done + 1, seconds + time.process_time() - began
            losses.append(metrics["loss"])
            tick(1, f"loss={metrics['loss']:.3f}")
            if done % run.size.check_every == 0 or done == steps:
                record()
                losses.clear()


def _restore(path: Path, student: Student, used: Sequence[Any]) -> tuple[int, float]:
    """Load weights and optimizers if they were stored; return the number of steps and seconds of CPU time so far."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    student.load_state_dict(state["weights"], strict=False)
    for optimizer, stored in zip(used, state["optimizers"], strict=True):
        optimizer.load_state_dict(stored)
    return state["step"], state["seconds"]


def _keep(path: Path, student: Student, used: Sequence[Any], step: int, seconds: float) -> None:
    weights = {name: p.detach() for name, p in student.named_parameters() if p.requires_grad}
    optimizers = [optimizer.state_dict() for optimizer in used]
    partial = path.with_suffix(".partial")
    torch.save({"weights": weights, "optimizers": optimizers, "step": step, "seconds": seconds}, partial)
    partial.rename(path)


def _append(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a JSON Lines file, instead of one of the same step."""
    rows = [old for old in read(path) if old["step"] != row["step"]]
    path.write_text("".join(f"{json.dumps(each)}\n" for each in [*rows, row]), encoding="utf-8")


def main() -> None:
    """Run what is not finished."""
    default = SIZES["default"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--ckpt", type=Path, help="model of the recipe (default: the default model)")
    parser.add_argument("--families", nargs="*", choices=EXTRA_FAMILIES, default=["grounding"],
                        help="new families; nothing for none (default: grounding)")  # fmt: skip
    parser.add_argument("--traces", choices=TRACE_STYLES, help="trace before replies that times decide (default: none)")
    parser.add_argument("--time", help="how times are written, as template.time (default: that of the model)")
    parser.add_argument("--time-steps", type=int, help="steps that a clip is divided into, as template.time_steps")
    parser.add_argument("--share", type=float, default=0.3, help="fraction of questions of new families (default: 0.3)")
    parser.add_argument("--clips", type=int, default=4000, help="number of training clips (default: 4000)")
    parser.add_argument("--held-out", type=int, default=160, help="number of held-out clips (default: 160)")
    parser.add_argument("--steps", type=int, default=2000, help="training steps (default: 2000)")
    parser.add_argument("--batch-size", type=int, default=default.batch_size, help="clips per step (default: 16)")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (default: 0.001)")
    parser.add_argument("--check-every", type=int, default=200, help="steps between two checks (default: 200)")
    parser.add_argument("--seed", type=int, default=1000, help="random seed; the recipe itself uses 0 (default: 1000)")
    parser.add_argument("--workers", type=int, default=2, help="processes that generate clips and questions")
    parser.add_argument("--cores", type=int, default=2, help="replicas of the model, one per core (default: 2)")
    add_options(parser)
    args = parser.parse_args()
    check_options(parser, args)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    new = sum(WEIGHTS.values()) * args.share / (1 - args.share) / max(len(args.families), 1)
    size = replace(
        default, clips=args.clips, held_out=args.held_out, answer_steps=args.steps, open_steps=0, lr=args.lr,
        batch_size=args.batch_size, check_every=args.check_every, families=WEIGHTS | dict.fromkeys(args.families, new),
        traces=args.traces,
    )  # fmt: skip
    run = Continued(args.out, size, args.seed, args.workers, args.cores)
    with interruptible("Finished stages and checks are kept; run the same command again to continue."):
        continue_training(run, args.ckpt, {"time": args.time, "time_steps": args.time_steps} if args.time else {})
        if not (args.out / "report.json").exists():
            made = how_made(run, args.ckpt or DEFAULT_MODEL, {name: getattr(args, name) for name in REPORTED})
            write_report(args.out, made, size, threads=args.cores)
        if args.ship:
            ship(args.out, args.ship, args.real_videos)


def how_made(run: Continued, ckpt: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``report.json`` says about the training: its command, and the model that it started from."""
    found = [folder / "report.json" for folder in (ckpt, ckpt.parent) if (folder / "report.json").is_file()]
    before = json.loads(found[0].read_text(encoding="utf-8")) if found else {}
    words = [
        word
        for name, value in options.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", *_words(value))
    ]
    return {
        "command": f"python -m recipes.shapes.continued {shlex.join(words)}",
        "start": {"sha256": digest(ckpt)} | {name: before[name] for name in ("command", "seconds") if name in before},
        "seed": run.seed,
        "size": asdict(run.size),
        "precision": "float32",
        "machine": f"{platform.machine()}, {run.replicas} threads, cpu",
        "cpu_seconds": read(run.out / "curve.jsonl")[-1]["seconds"],
    }


def _words(value: Any) -> list[str]:
    return [str(each) for each in (value if isinstance(value, list) else [value])]


def continue_training(run: Continued, ckpt: Path | None, times: Mapping[str, Any]) -> None:
    """Generate the clips, store their tokens, train, and write the model; each unless it exists.

    Args:
        run: What to train, and where.
        ckpt: The model; ``None`` for the default model.
        times: Options of the template to change.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(run.replicas)
    torch.manual_seed(run.seed)
    assistant = Assistant.from_pretrained(ckpt, device="cpu", dtype="float32")
    if times:
        template = {**assistant.config["template"], **times}
        assistant = Assistant.from_pretrained(ckpt, device="cpu", dtype="float32", template=template)
    if not (run.out / "clips").exists():
        count, partial = run.size.clips + run.size.held_out, run.out / "clips.partial"
        make_clips(partial, seed=run.seed, count=count, processes=max(run.workers, 1))
        partial.rename(run.out / "clips")
    if not (run.out / "tokens.npy").exists():
        store_tokens(assistant, load_clips(run.out / "clips")["frames"], run.out / "tokens.npy")
    if not (run.out / "model").exists():
        train(run, assistant, np.load(run.out / "tokens.npy", mmap_mode="r"))
        assistant.model.half()
        assistant.save_pretrained(run.out / "model")


if __name__ == "__main__":
    main()
