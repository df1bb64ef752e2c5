"""A benchmark as the evaluation of a training run: a share of its items, asked of the model as it is."""

import logging
import shutil
from pathlib import Path

from accelerate import PartialState

from tinyvid.assistant import Assistant
from tinyvid.checkpoints.native import Loaded
from tinyvid.errors import ConfigError
from tinyvid.evaluation.items import Benchmark
from tinyvid.evaluation.judging.judge import Judge
from tinyvid.evaluation.running.runner import EvaluationOptions, evaluate

logger = logging.getLogger(__name__)

FOLDER = "benchmarks"  # of a run, holds one folder per benchmark and step


class TrainingBenchmark:
    """Run a benchmark at every evaluation of a training run.

    Args:
        benchmark: The questions.
        run_dir: Folder of the training run.
        options: How it is run; set ``limit`` to keep an evaluation short.
        judge: Who judges open answers.
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
        """Name of the accuracy among the metrics, without ``eval_``."""
        return f"{self.benchmark.name}_accuracy"

    def __call__(self, loaded: Loaded, step: int) -> dict[str, float]:
        """Ask the model as it is, and return its metrics, ``eval_<benchmark>_accuracy`` first. Every process must call.

        An earlier evaluation of the same step, of a run that was killed since, is thrown away.

        Raises:
            ConfigError: The weights are cut into shards, so that no process can generate by itself.
        """
        model = loaded.model
        if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
            raise ConfigError(
                "a benchmark during training needs whole weights in every process; use DDP instead of FSDP"
            )
        folder = self.folder / f"{self.benchmark.name}-{step}"
        state = PartialState()
        if state.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        state.wait_for_everyone()
        training = model.training
        model.eval()
        try:
            report = evaluate(
                Assistant(loaded), self.benchmark, run_dir=folder, options=self.options, judge=self.judge,
                settings={"step": step},
            )  # fmt: skip
        finally:
            model.train(training)
        return {f"eval_{name.replace(' ', '_')}": value for name, value in report.metrics().items()}
