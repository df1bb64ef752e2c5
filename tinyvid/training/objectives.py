"""What a run learns: how a row becomes an example, and the loss of a batch of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tinyvid.errors import DataError
from tinyvid.processing.batch import Batch, Example, Output
from tinyvid.processing.processor import Processor
from tinyvid.types import IGNORE_INDEX, Sample

Row = Sample | list[Sample]  # several samples are packed into one example


@dataclass(frozen=True, slots=True, eq=False)
class BatchLoss:
    """The loss of a batch: a mean over its targets, for which the trainer weighs it.

    Attributes:
        loss: A scalar; of no targets, a zero with a gradient.
        num_targets: Label positions of the batch, as the trainer counts them.
    """

    loss: Tensor
    num_targets: int


class Objective(Protocol):
    """What a run learns; ``TrainingData`` carries it, to the DataLoader's workers too."""

    def example(self, processor: Processor, row: Row) -> Example:
        """Return a row as an example to learn.

        Raises:
            DataError: The row is malformed, too long, or has nothing to learn.
            VideoError: Its media cannot be read.
        """

    def __call__(self, model: Callable[[Batch], Output], batch: Batch) -> BatchLoss:
        """Return the loss of a batch on the model's device."""


class NextTokenObjective:
    """Learn to predict the tokens of the replies: supervised fine-tuning."""

    def example(self, processor: Processor, row: Row) -> Example:
        """Return a conversation with labels on its replies; several about the same videos share these."""
        samples = row if isinstance(row, list) else [row]
        example = processor.pack(samples) if len(samples) > 1 else processor(samples[0])
        if not (example.labels[1:] != IGNORE_INDEX).any():
            raise DataError("the row has no reply to learn; it must end with the assistant's turn")
        return example

    def __call__(self, model: Callable[[Batch], Output], batch: Batch) -> BatchLoss:
        """Return the mean cross-entropy over the label positions."""
        output = model(batch)
        # Processes that train together wait for all gradients: without a target, the loss is a zero that has them.
        loss = output.logits.sum() if output.loss is None else output.loss
        return BatchLoss(loss, output.num_targets)
