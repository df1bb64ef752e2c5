"""Extend transformers' Trainer with tinyvid's batches, learning rates, evaluation and checkpoints.

The Trainer provides accumulation, clipping, schedules, multiple processes and mixed precision. The loss of a step is
the mean over the label tokens of all its batches and processes, so it does not depend on how a step is split.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from tinyvid.checkpoints.native import Loaded
from tinyvid.data.skipped import Skipped
from tinyvid.errors import DataError, TinyvidError
from tinyvid.interrupts import Interrupted, Interrupts, shield_worker
from tinyvid.processing.batch import Batch
from tinyvid.training import runs
from tinyvid.training.data import EMPTY, EpochOrder, TrainingData
from tinyvid.training.evaluation import TrainingBenchmark, count_letters
from tinyvid.training.log import RunLog
from tinyvid.training.options import TrainOptions
from tinyvid.training.saving import SavingTrainer, stored_parts
from tinyvid.training.sharding import check_launch, prepare
from tinyvid.training.skipping import SkippedRows
from tinyvid.training.trainable import PartOptions, parameter_groups

logger = logging.getLogger(__name__)


class VideoTrainer(SavingTrainer):
    """Train a model on rows.

    Args:
        loaded: The model, prepared by ``trainable.apply``, with its configuration.
        options: The recipe.
        parts: Training options of each part.
        run_dir: Folder of checkpoints and metrics.
        dtype: Dtype of the computation.
        train: Training rows, with the objective.
        evaluate_on: Evaluation rows.
        benchmark: Benchmark to run at each evaluation.

    Attributes:
        interrupts: After a signal, the step is finished and saved, and ``train`` raises ``Interrupted``.
    """

    def __init__(
        self,
        loaded: Loaded,
        options: TrainOptions,
        parts: Mapping[str, PartOptions],
        *,
        run_dir: Path,
        dtype: torch.dtype,
        train: TrainingData,
        evaluate_on: TrainingData | None = None,
        benchmark: TrainingBenchmark | None = None,
    ) -> None:
        self.loaded = replace(loaded, stored=stored_parts(loaded, parts))
        self.options = options
        self.parts = parts
        self.run_dir = run_dir
        self.objective = train.objective
        self.benchmark = benchmark
        self.interrupts = Interrupts()
        self._kept: list[float] = []  # shares of patches since the last log
        best = "loss" if evaluate_on is not None else None if benchmark is None else benchmark.metric
        super().__init__(
            model=loaded.model,
            args=options.arguments(run_dir, dtype=dtype, device=loaded.model.device.type, best=best),
            data_collator=train.collate,
            train_dataset=train,
            eval_dataset=[] if best and evaluate_on is None else evaluate_on,  # the Trainer rejects None
            callbacks=[RunLog(run_dir), OnResume(self)],
        )
        self.skipped = SkippedRows(run_dir, [train] if evaluate_on is None else [train, evaluate_on])
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the number of tokens of the whole step
        self._loss_shifts_labels = True
        self.loss_is_scaled_for_ga = True
        check_launch(self.accelerator, loaded.model, options.optimizer)
        prepare(self.accelerator, loaded.model)

    # --- data -----------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        order = EpochOrder(
            len(rows),
            batch_size=self.options.batch_size * self.options.accumulate * self.args.world_size,
            multiple=self.options.batch_size * self.args.world_size,
            seed=self.options.seed,
            size=rows.rows.size if self.options.group_by_length else None,
        )
        self._order = order
        return order

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        loader = super()._get_dataloader(*args, **kwargs)
        loader.worker_init_fn = partial(shield_worker, start=loader.worker_init_fn)
        return loader

    def _get_eval_sampler(self, eval_dataset: Any) -> list[int]:
        """Return every row once. Empty entries pad the last batch of all processes."""
        places = self.options.batch_size * self.args.world_size
        return [*range(len(eval_dataset)), *[EMPTY] * (-len(eval_dataset) % places)]

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        # The run was killed after its last step.
        self.control.should_training_stop |= self.state.global_step >= self.state.max_steps
        if self.control.should_training_stop:
            return
        self._order.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the batches of a step and their number of label tokens, and record skipped rows."""
        try:
            batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        except TinyvidError as error:
            raise type(error)(_first_cause(error)) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"{str(error).splitlines()[0]}; if a file crashes the decoder, set video_reader.isolate=true"
            ) from error
        self._record_skipped([row for batch in batches for row in batch.pop("skipped")])
        return batches, count

    def _record_skipped(self, rows: list[Skipped]) -> None:
        """Record the rows that any process skipped, each once.

        Raises:
            DataError: More rows are skipped than ``data.max_skip`` allows.
        """
        rows = gather_object(rows) if self.args.world_size > 1 else rows
        self.skipped.add(rows, write=self.args.should_save)

    # --- loss and steps -------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the contribution of a batch to the mean loss over the tokens of a step.

        Raises:
            DataError: The loss is not finite. The message lists the samples.
        """
        batch = self._ready(inputs["batch"])
        output = self.objective(model, batch)
        self._kept += [share for share in self.loaded.model.kept or () if share is not None]
        if not torch.isfinite(output.loss):
            raise DataError(
                f"the loss is {output.loss.item()} at step {self.state.global_step + 1}, on the samples "
                f"{list(batch.ids)}; lower recipe.lr, or use dtype=bfloat16 instead of float16"
            )
        share = output.num_targets / max(int(num_items_in_batch or output.num_targets), 1)
        # Processes average their gradients, but the token count is already the sum over all processes.
        loss = output.loss * max(share, float(output.num_targets == 0)) * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def _ready(self, batch: Batch) -> Batch:
        """Move a batch to the device, and cache the tower features that are not cached yet."""
        batch = batch.to(self.args.device)
        cache = self.loaded.processor.features
        return batch if cache is None else self.loaded.model.fill_features(batch, cache)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimizer, with the learning rate of each part and without weight decay of vectors."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = parameter_groups(
                self.loaded.model, self.parts, lr=self.options.lr, weight_decay=self.options.weight_decay
            )
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log metrics of a step, with the video tokens as a mean share of the patches, if there is a reducer."""
        if "loss" in logs and self._kept:
            logs["kept"] = sum(self._kept) / len(self._kept)
            self._kept.clear()
        super().log(logs, start_time)

    # --- evaluation -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    @torch.random.fork_rng(devices=[])  # a resumed run does not repeat the evaluation
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the loss per token, the accuracy on multiple-choice rows, and the metrics of the benchmark."""
        rows = eval_dataset if eval_dataset is not None else self.eval_dataset
        with self.interrupts.raised_within(self.args.world_size == 1):  # a resumed run evaluates again
            metrics = self._measure(rows) if rows else {}
            if self.benchmark is not None:
                metrics |= self.benchmark(self.loaded, self.state.global_step)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measure(self, rows: TrainingData) -> dict[str, float]:
        """Return the loss per token and, if there are multiple-choice rows, the accuracy."""
        model = self.loaded.model.eval()
        totals = torch.zeros(4, dtype=torch.float64)  # loss sum, tokens, correct letters, letters
        skipped = []
        for inputs in self.get_eval_dataloader(rows):
            skipped += inputs["skipped"]
            output = rows.objective(model, self._ready(inputs["batch"]))
            if output.num_targets:
                totals[0] += float(output.loss) * output.num_targets
                totals[1] += output.num_targets
        self._record_skipped(skipped)
        usable = [index for index in range(len(rows)) if rows.rows.where(index) not in self.skipped]
        totals[2:] = count_letters(model, rows, usable, args=self.args, synced=self.is_fsdp_enabled)
        totals = self.accelerator.reduce(totals.to(self.args.device, torch.float32)).cpu()
        metrics = {"eval_loss": float(totals[0] / totals[1]) if totals[1] else math.nan}
        if totals[3]:
            metrics["eval_accuracy"] = float(totals[2] / totals[3])
        return metrics

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save what is due, or save and stop after a signal.

        Raises:
            Interrupted: A signal has arrived; this step has a checkpoint.
        """
        number = self._agreed_signal()
        if not number:
            try:
                super()._maybe_log_save_evaluate(*args, **kwargs)
                return
            except Interrupted as interrupted:
                number = interrupted.number
        self.control.should_evaluate, self.control.should_save = False, True
        super()._maybe_log_save_evaluate(*args, **kwargs)
        raise Interrupted(number)

    def _agreed_signal(self) -> int:
        """Return the signal that any process has received, or 0, so that all stop after the same step."""
        if self.args.world_size == 1:
            return self.interrupts.received
        received = torch.tensor([self.interrupts.received], device=self.args.device)
        return int(self.accelerator.gather(received).max())

    def evaluate_if_due(self) -> None:
        """Evaluate if the run was stopped between its last checkpoint and the evaluation that was due."""
        if runs.evaluation_is_due(self.state, self.args):
            self._determine_best_metric(self.evaluate(), None)
        self._stop_early()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        if self.options.early_stopping is not None:
            self.control.should_save |= is_best  # its weights become the result
        self._stop_early()
        return is_best

    def _stop_early(self) -> None:
        """Stop if as many evaluations as the recipe allows were no better than the best one."""
        if self.options.early_stopping is None:
            return
        best, metric = self.state.best_global_step or 0, f"eval_{self.args.metric_for_best_model}"
        worse = sum(metric in record and record["step"] > best for record in self.state.log_history)
        if worse >= self.options.early_stopping:
            self.control.should_training_stop = True
            logger.info("Training stops, because %d evaluations were not better than at step %d.", worse, best)


class OnResume(TrainerCallback):
    """Run the evaluation that was due when the run stopped."""

    def __init__(self, trainer: VideoTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate before the first step."""
        self.trainer.evaluate_if_due()


def _first_cause(error: Exception) -> str:
    """Return the message of an error that a DataLoader worker wrapped in a traceback."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rstrip().rpartition(f"{type(error).__module__}.{type(error).__name__}: ")[2] or text
