"""The stages of the recipe; each writes its result to the run's folder and is skipped if the result exists."""

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.shapes import attention, parts, vision
from recipes.shapes.clips import draw_clip, load_clips, make_clips
from recipes.shapes.fitting import Engine
from recipes.shapes.plots import plot_accuracy, plot_losses
from recipes.shapes.progress import progress
from recipes.shapes.questions import Share, Shares, corpus
from recipes.shapes.sizes import SIZES, Size
from recipes.shapes.student import Student, Trainer, accuracy, mix, resample
from tinyvid import Assistant, compose
from tinyvid.registry import VISION_TOWERS

logger = logging.getLogger("tinyvid.shapes")
CHUNK = 64  # clips per call of the connector
HELD_OUT_SHARE = 8  # clips per share when measuring accuracy


@dataclass(frozen=True)
class RecipeRun:
    """A run of the recipe.

    Attributes:
        out: Folder of the run.
        size: Model size and training length.
        seed: Random seed.
        device: ``cpu`` or ``cuda``.
        bf16: Multiply matrices in bfloat16.
        workers: Processes that generate clips and questions.
    """

    out: Path
    size: Size
    seed: int
    device: str
    bf16: bool
    workers: int

    def engine(self, module: torch.nn.Module) -> Engine:
        """Return an engine for a module, with two replicas on the CPU."""
        module.train()
        return Engine(module, bf16=self.bf16, replicas=self.replicas)

    @property
    def replicas(self) -> int:
        """Number of shares of a batch: one per core of two, or one on a GPU."""
        return 2 if self.device == "cpu" else 1

    @cached_property
    def clips(self) -> dict[str, np.ndarray]:
        """The arrays of the stage ``clips``."""
        return load_clips(self.out / "clips")

    @cached_property
    def features(self) -> np.ndarray:
        """The features of all clips."""
        return np.load(self.out / "features.npy", mmap_mode="r")

    @cached_property
    def tokens(self) -> np.ndarray:
        """The connector's tokens of all clips before its mixer."""
        return np.load(self.out / "tokens.npy", mmap_mode="r")

    def log(self, stage: str) -> Callable[[int, dict[str, float]], None]:
        """Return a callback that records the metrics of every tenth step of a stage."""
        file = (self.out / f"{stage}.jsonl").open("w", encoding="utf-8")

        def record(step: int, metrics: dict[str, float]) -> None:
            if step % 10 == 0 or step == 1:
                file.write(json.dumps({"step": step, **{k: round(v, 4) for k, v in metrics.items()}}) + "\n")
                file.flush()

        return record

    def assistant(self) -> Assistant:
        """Return the model with the initial LLM, the trained vision tower and a new connector."""
        options = {key: value for key, value in self.size.connector.items() if key != "name"}
        overrides = [
            *parts.GROUPS,
            f"llm.path={self.out / 'llm'}",
            f"vision_tower.path={self.out / 'vision_tower'}",
            *[f"connector.{key}={value}" for key, value in options.items()],
        ]
        torch.manual_seed(self.seed)
        assistant = Assistant.from_config(compose(overrides), device=self.device, dtype="float32")
        parts.initialize(assistant.model.get_submodule("connector"))
        assistant.model.get_submodule("vision_tower").requires_grad_(False)
        return assistant

    def student(self, stage: str | None = None) -> tuple[Assistant, Student]:
        """Return a student, with the weights that ``stage`` wrote if given."""
        assistant = self.assistant()
        student = Student(assistant.model, assistant.processor.tokenizer).to(self.device)
        if stage is not None:
            student.load_state_dict(load_file(self.out / f"{stage}.safetensors"), strict=False)
        return assistant, student

    def keep(self, student: nn.Module, stage: str) -> None:
        """Write all weights of a student except the vision tower; on failure, nothing is written."""
        partial = self.out / f"{stage}.partial"
        frozen = "model.vision_tower."
        kept = {k: p.detach().cpu() for k, p in student.named_parameters() if not k.startswith(frozen)}
        save_file(kept, partial)
        partial.rename(self.out / f"{stage}.safetensors")


def clips(run: RecipeRun) -> None:
    """Write the clips as video files, and store the frames that the Processor reads from them."""
    partial = run.out / "clips.partial"
    size = run.size
    count = size.clips + size.held_out
    make_clips(partial, seed=run.seed, count=count, hold_out=size.hold_out, processes=max(run.workers, 1))
    partial.rename(run.out / "clips")


def llm(run: RecipeRun) -> None:
    """Write an LLM with random weights and its tokenizer."""
    partial = run.out / "llm.partial"
    parts.make_llm(partial, run.size, corpus(run.seed, run.size.families), seed=run.seed)
    partial.rename(run.out / "llm")


def vision_tower(run: RecipeRun) -> None:
    """Train the vision tower to classify the content of each patch."""
    start = run.out / "vision_tower.start"
    parts.make_tower(start, run.size, seed=run.seed)
    options = {"name": "siglip", "path": str(start), "layer": -1}
    tower = VISION_TOWERS.build(options, dtype=torch.float32).to(run.device)
    vision.train_tower(
        tower, run.clips, run.engine, count=run.size.clips, steps=run.size.vision_steps, seed=run.seed,
        after=run.log("vision"),
    )  # fmt: skip
    partial = run.out / "vision_tower.partial"
    tower.save(partial)
    partial.rename(run.out / "vision_tower")


def features(run: RecipeRun) -> None:
    """Store the features of all clips from the trained vision tower."""
    options = {"name": "siglip", "path": str(run.out / "vision_tower"), "layer": -1}
    tower = VISION_TOWERS.build(options, dtype=torch.float32).to(run.device).eval()
    vision.keep_features(tower, run.clips, run.out / "features.npy", threads=run.replicas)


def connector(run: RecipeRun) -> None:
    """Train the connector so that video tokens describe the shapes of their frame."""
    _, student = run.student()
    trainer = Trainer(run.clips, run.features, run.engine(student), run.seed)
    trainer.describe(
        lambda part, features: mix(part, resample(part, features)),
        name="connector",
        count=run.size.clips,
        batch_size=run.size.batch_size,
        steps=run.size.connector_steps,
        lr=3e-3,
        after=run.log("connector"),
    )
    run.keep(student, "connector")


def tokens(run: RecipeRun) -> None:
    """Store the trained connector's tokens of all clips before its mixer; later stages freeze that part."""
    _, student = run.student("connector")
    part = student.model.connector
    partial = run.out / "tokens.partial"
    shape = (len(run.features), part.tokens.budget.fixed, run.size.llm["hidden_size"])
    out = open_memmap(partial, mode="w+", dtype="float16", shape=shape)

    @torch.no_grad()  # grad mode is per thread
    def keep(first: int) -> int:
        features = torch.from_numpy(np.array(run.features[first : first + CHUNK])).to(run.device).float()
        out[first : first + CHUNK] = resample(part, features).half().cpu().numpy()
        return len(features)

    with ThreadPoolExecutor(run.replicas) as pool, progress("tokens", len(out)) as tick:
        for done in pool.map(keep, range(0, len(out), CHUNK)):
            tick(done)
    out.flush()
    partial.rename(run.out / "tokens.npy")


def mixer(run: RecipeRun) -> None:
    """Train only the mixer, which is cheap, on motions and on the times and order of events."""
    _, student = run.student("connector")
    trainer = Trainer(run.clips, run.tokens, run.engine(student), run.seed + 1)
    trainer.describe(
        mix,
        name="mixer",
        count=run.size.clips,
        batch_size=2 * run.size.batch_size,
        steps=run.size.mixer_steps,
        lr=2e-3,
        after=run.log("mixer"),
    )
    run.keep(student, "mixer")


def shares(size: Size, assistant: Assistant, *, seed: int, replicas: int, held_out: bool) -> Shares:
    """Return packed questions about the training clips, or about the held-out ones."""
    per_share = HELD_OUT_SHARE if held_out else size.batch_size // replicas
    return Shares(
        assistant.processor,
        world=seed,
        first=size.clips if held_out else 0,
        count=size.held_out if held_out else size.clips,
        together=per_share,
        size=size,
        seed=seed + (1 if held_out else 0),
        length=size.held_out // HELD_OUT_SHARE if held_out else size.answer_steps * replicas,
        only_open=0 if held_out else size.open_steps * replicas,
        keep_questions=held_out,
    )


def measured(
    run: RecipeRun, assistant: Assistant, engine: Engine, known: np.ndarray, make: Callable[[Any, Tensor], Tensor]
) -> Callable[[int, dict[str, float]], None]:
    """Return a callback of the stage ``answers`` that records metrics and accuracy; arguments as for ``accuracy``."""
    held_out = shares(run.size, assistant, seed=run.seed, replicas=run.replicas, held_out=True)
    asked: list[Share] = [held_out[number] for number in range(len(held_out))]
    record, file = run.log("answers"), (run.out / "accuracy.jsonl").open("w", encoding="utf-8")

    def after(step: int, metrics: dict[str, float]) -> None:
        record(step, metrics)
        if step % run.size.check_every and step != run.size.answer_steps:
            return
        found = accuracy(engine, asked, known, make)
        file.write(json.dumps({"step": step, **found}) + "\n")
        file.flush()
        families = " ".join(f"{name}={value:.3f}" for name, value in found.items())
        logger.info("Accuracy on held-out clips at step %d: %s", step, families)
        run.keep(engine.module, "answers.latest")
        plot_losses(run.out)
        plot_accuracy(run.out)

    return after


def answers(run: RecipeRun) -> None:
    """Train the mixer and the LLM to answer questions."""
    attention.install()
    assistant, student = run.student("mixer")
    for name, parameter in student.model.get_submodule("connector").named_parameters():
        parameter.requires_grad_(name.startswith("mixer."))
    trainer = Trainer(run.clips, run.tokens, run.engine(student), run.seed)
    after = measured(run, assistant, trainer.engine, run.tokens, mix)
    loader = shares(run.size, assistant, seed=run.seed, replicas=run.replicas, held_out=False).loader(run.workers)
    trainer.answer(loader, steps=run.size.answer_steps, lr=run.size.lr, after=after)
    run.keep(student, "answers")


# The stages in order, with the result of each.
STAGES: dict[str, tuple[Callable[[RecipeRun], None], str]] = {
    "clips": (clips, "clips"),
    "llm": (llm, "llm"),
    "vision": (vision_tower, "vision_tower"),
    "features": (features, "features.npy"),
    "connector": (connector, "connector.safetensors"),
    "tokens": (tokens, "tokens.npy"),
    "mixer": (mixer, "mixer.safetensors"),
    "answers": (answers, "answers.safetensors"),
}
__all__ = ["SIZES", "STAGES", "Any", "RecipeRun", "draw_clip"]
