"""Objectives: how a row becomes an example, and the loss of a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tinyvid.data.parsing import NO_REPLY, learns
from tinyvid.errors import DataError
from tinyvid.processing.batch import Batch, Example, Output
from tinyvid.processing.processor import Processor
from tinyvid.types import Sample

Row = Sample | list[Sample]  # several samples are packed into one example


@dataclass(frozen=True, slots=True, eq=False)
class BatchLoss:
    """The loss of a batch: a mean over its targets, which the trainer weights by their number.

    Attributes:
        loss: A scalar; without targets, a zero that has gradients.
        num_targets: Number of label positions of the batch.
    """

    loss: Tensor
    num_targets: int


class Objective(Protocol):
    """What a run learns. It must be picklable, because DataLoader workers use it."""

    def example(self, processor: Processor, row: Row) -> Example:
        """Return the example of a row.

        Raises:
            DataError: The row is malformed, too long, or has no targets.
            VideoError: Its media cannot be read.
        """

    def __call__(self, model: Callable[[Batch], Output], batch: Batch) -> BatchLoss:
        """Return the loss of a batch on the model's device."""


class NextTokenObjective:
    """Predict the tokens of the replies (supervised fine-tuning)."""

    def example(self, processor: Processor, row: Row) -> Example:
        """Return a conversation with labels on its replies. Packed conversations share their videos."""
        samples = row if isinstance(row, list) else [row]
        if not all(learns(sample.messages) for sample in samples):
            raise DataError(NO_REPLY)
        return processor.pack(samples) if len(samples) > 1 else processor(samples[0])

    def __call__(self, model: Callable[[Batch], Output], batch: Batch) -> BatchLoss:
        """Return the mean cross-entropy over the label positions."""
        output = model(batch)
        # DDP waits for all gradients, so without targets the loss is a zero that depends on every weight.
        loss = output.logits.sum() if output.loss is None else output.loss
        return BatchLoss(loss, output.num_targets)
