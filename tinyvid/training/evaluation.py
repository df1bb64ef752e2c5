"""Evaluate a model during training: on a benchmark, on the letters of multiple-choice rows, and with a look report."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import TrainingArguments

from tinyvid.assistant import Assistant
from tinyvid.checkpoints.native import Loaded
from tinyvid.errors import ConfigError, VideoError
from tinyvid.evaluation.items import Benchmark
from tinyvid.evaluation.judging.judge import Judge
from tinyvid.evaluation.running.looking import LookOptions, check_look, look_at
from tinyvid.evaluation.running.runner import EvaluationOptions, evaluate
from tinyvid.generation.decode import Decoding, replies
from tinyvid.interrupts import Interrupts
from tinyvid.training.data import TrainingData, nothing
from tinyvid.types import Sample

logger = logging.getLogger(__name__)

FOLDER = "benchmarks"  # in the run's folder; contains one folder per benchmark and step
LOOK, BEFORE = "look", "before"  # the report in the run's folder, and in it the run of the model before the first step


class TrainingBenchmark:
    """Run a benchmark at every evaluation of a training run.

    Args:
        benchmark: The benchmark.
        run_dir: Folder of the training run.
        options: Options of the evaluation; set ``limit`` to keep it short.
        judge: Judge of open answers.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        run_dir: Path,
        *,
        options: EvaluationOptions,
        judge: Judge | None = None,
    ) -> None:
        self.benchmark = benchmark
        self.folder = run_dir / FOLDER
        self.options = options
        self.judge = judge

    @property
    def metric(self) -> str:
        """Name of the accuracy metric, without ``eval_``."""
        return f"{self.benchmark.name}_accuracy"

    def __call__(self, loaded: Loaded, step: int) -> dict[str, float]:
        """Return the metrics of the model, ``eval_<benchmark>_accuracy`` first. All processes must call this.

        An earlier evaluation of the same step, from a killed run, is deleted.

        Raises:
            ConfigError: The weights are sharded, so a process cannot generate on its own.
        """
        folder = self.folder / f"{self.benchmark.name}-{step}"
        state = PartialState()
        if state.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        state.wait_for_everyone()
        with _evaluating(loaded.model):
            report = evaluate(
                Assistant(loaded), self.benchmark, run_dir=folder, options=self.options, judge=self.judge,
                settings={"step": step},
            )  # fmt: skip
        return {f"eval_{name.replace(' ', '_')}": value for name, value in report.metrics().items()}


class TrainingLook:
    """Write a look report at the end of a training run, with the model before the first step as the earlier run.

    Args:
        benchmark: The benchmark.
        run_dir: Folder of the training run.
        options: Options of each run of the benchmark.

    Raises:
        ConfigError: The benchmark has no videos, or not enough.
        DataError: Videos are missing.
    """

    def __init__(self, benchmark: Benchmark, run_dir: Path, *, options: EvaluationOptions) -> None:
        check_look(benchmark, LookOptions(), options)
        self.benchmark = benchmark
        self.folder = run_dir / LOOK
        self.options = options

    def before(self, loaded: Loaded) -> None:
        """Ask the model before the first step; a second call continues. All processes must call this."""
        settings = {"step": 0}
        with _evaluating(loaded.model), Interrupts(at_once=True):
            evaluate(
                Assistant(loaded), self.benchmark, run_dir=self.folder / BEFORE, options=self.options, settings=settings
            )

    def __call__(self, loaded: Loaded, ckpt: Path) -> list[str]:
        """Write the report of a trained model, and return its findings. All processes must call this."""
        before = self.folder / BEFORE
        look = LookOptions(before=str(before) if before.exists() else None)
        with _evaluating(loaded.model):
            data = look_at(
                Assistant(loaded),
                self.benchmark,
                run_dir=self.folder,
                look=look,
                options=self.options,
                settings={"ckpt": str(ckpt)},
            )
        return list(data["findings"])


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put a model into eval mode for a while.

    Raises:
        ConfigError: The weights are sharded, so a process cannot generate on its own.
    """
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        raise ConfigError(
            "a benchmark during training needs unsharded weights in every process; use DDP instead of FSDP"
        )
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def count_letters(
    model: Any, rows: TrainingData, usable: Sequence[int], *, args: TrainingArguments, synced: bool
) -> Tensor:
    """Return how many multiple-choice rows this process answers correctly, and how many it asks."""
    choices = [index for index in usable if _is_choice(rows.rows[index])]
    counts = torch.zeros(2, dtype=torch.float64)
    for first in range(0, len(choices), args.world_size):
        place = first + args.process_index
        # With sharded weights all processes must generate, so a process without a row repeats the first one.
        sample = rows.rows[choices[place if place < len(choices) else 0]]
        right = _letter_is_right(model, rows, sample, device=args.device, synced=synced)
        if place < len(choices):
            counts += torch.tensor([right, 1])
    return counts


def _letter_is_right(model: Any, rows: TrainingData, sample: Sample, *, device: torch.device, synced: bool) -> bool:
    """Generate the reply to a multiple-choice row, and return whether it is the correct letter alone."""
    processor = rows.processor
    try:
        example = processor(replace(sample, messages=sample.messages[:-1]))
    except VideoError as error:  # it was readable a moment ago
        if rows.policy.on_error == "raise":
            raise
        logger.warning("A row of eval_path counts as wrong: %s", error)
        example = nothing(processor.pad_id)  # all processes must generate
    batch = processor.collate([example], padding_side="left").to(device)
    (reply,) = replies(model, processor, batch, Decoding(max_new_tokens=4), synced_gpus=synced)
    return reply.strip(" .()") == sample.messages[-1].text


def _is_choice(sample: Sample) -> bool:
    return "options" in sample.meta and sample.messages[-1].role == "assistant"
