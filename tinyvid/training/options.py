"""The recipe: the training options of ``conf/recipe``, checked before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from tinyvid.models.video_llm import PARTS
from tinyvid.registry import PositiveFloat, PositiveInt, check_options
from tinyvid.training.trainable import TEXT_DECODER, PartOptions

OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Training options.

    Attributes:
        lr: Learning rate of parts without their own.
        schedule: How the learning rate decays after the warm-up.
        warmup: Fraction of all steps during which the learning rate increases.
        epochs: Passes over the data.
        max_steps: Optimizer steps after which to stop, regardless of ``epochs``; ``null`` for no limit.
        batch_size: Samples per batch and process.
        accumulate: Batches per optimizer step. The loss is averaged over the tokens of all of them.
        weight_decay: Weight decay of matrices; vectors have none.
        clip: Largest gradient norm; 0 for no clipping.
        optimizer: AdamW in float32, in 8 bits, or in 8 bits with paging to host memory.
        gradient_checkpointing: Recompute the LLM's activations in the backward pass instead of storing them.
        compile: Compile the blocks of the LLM with torch.compile.
        group_by_length: Group samples of similar length into batches.
        pack: Most rows about the same videos to pack into one sample, which shares their video tokens. The loss equals
            that of separate rows. 1 for no packing.
        workers: Decoding processes per training process.
        log_every: Steps between logs.
        eval_every: Steps between evaluations; ``null`` for one per epoch.
        early_stopping: Evaluations without a better result after which to stop, with the best weights as the result;
            ``null`` to train to the end. Without evaluation rows, the accuracy on the benchmark decides, not the loss.
        save_every: Steps between checkpoints; ``null`` for one per epoch.
        keep: Number of checkpoints to keep, in addition to the best one.
        report_to: ``tensorboard``, ``wandb``.
        seed: Seed of new weights, dropout and the order of the data.
    """

    lr: PositiveFloat = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.03
    epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 1
    accumulate: PositiveInt = 16
    weight_decay: float = 0.0
    clip: float = 1.0
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    gradient_checkpointing: bool = True
    compile: bool = False
    group_by_length: bool = True
    pack: PositiveInt = 1
    workers: int = 2
    log_every: PositiveInt = 10
    eval_every: PositiveInt | None = None
    early_stopping: PositiveInt | None = None
    save_every: PositiveInt | None = None
    keep: PositiveInt = 2
    report_to: list[str] = ()  # type: ignore[assignment]
    seed: int = 0

    def arguments(self, run_dir: Path, *, dtype: torch.dtype, device: str, best: str | None) -> TrainingArguments:
        """Return the recipe as ``TrainingArguments`` of transformers."""
        every = "steps" if self.eval_every else "epoch"
        arguments = TrainingArguments(
            output_dir=str(run_dir),
            per_device_train_batch_size=self.batch_size,
            per_device_eval_batch_size=self.batch_size,
            gradient_accumulation_steps=self.accumulate,
            num_train_epochs=self.epochs,
            max_steps=self.max_steps or -1,
            learning_rate=self.lr,
            lr_scheduler_type=self.schedule if self.schedule != "constant" else "constant_with_warmup",
            warmup_steps=self.warmup,
            weight_decay=self.weight_decay,
            max_grad_norm=self.clip,
            optim=OPTIMIZERS[self.optimizer],
            bf16=dtype == torch.bfloat16,
            fp16=dtype == torch.float16,
            use_cpu=device == "cpu",
            logging_steps=self.log_every,
            logging_nan_inf_filter=False,
            eval_strategy=every if best else "no",
            eval_steps=self.eval_every,
            save_strategy="steps" if self.save_every else "epoch",
            save_steps=self.save_every or 500,
            metric_for_best_model=best,
            greater_is_better=None if best is None else best != "loss",
            seed=self.seed,
            dataloader_num_workers=self.workers,
            dataloader_pin_memory=device != "cpu",
            remove_unused_columns=False,
            report_to=list(self.report_to) or "none",
        )
        if arguments.n_gpu > 1:  # one GPU per process; the Trainer would split batches over all GPUs
            arguments._n_gpu = 1
        return arguments


@dataclass(frozen=True, slots=True)
class DataPolicy:
    """What to do about a row that cannot be used.

    Attributes:
        on_error: ``raise`` stops the run and reports the row; ``skip`` skips and records it.
        max_skip: Largest fraction of rows that may be skipped before the run stops; listed rows do not count.
        skip_listed: The ``skipped.jsonl`` of an earlier run. Its rows are passed over without opening their videos.
    """

    on_error: Literal["raise", "skip"] = "raise"
    max_skip: float = 0.01
    skip_listed: str | None = None


def read_recipe(config: Mapping[str, Any]) -> tuple[TrainOptions, dict[str, PartOptions]]:
    """Check a recipe, and return the training options and the options of each part.

    Raises:
        ConfigError: An option is unknown, missing, mistyped or out of range.
    """
    names = (*PARTS, TEXT_DECODER)
    options = {key: value for key, value in config.items() if key not in names}
    parts = {
        part: PartOptions(**check_options(PartOptions, config.get(part) or {}, key=f"recipe.{part}")) for part in names
    }
    return TrainOptions(**check_options(TrainOptions, options, key="recipe")), parts
