"""Rows to batches, in an order that depends on the seed and the epoch alone.

A row that cannot be used stops the run, or is left out and reported: it is never replaced by another. The order is
filled up with empty places to whole steps of all processes, so that none of them waits for the others at the end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from tinyvid.errors import DataError, TinyvidError
from tinyvid.processing.batch import Example
from tinyvid.processing.processor import Processor
from tinyvid.training.objectives import NextTokenObjective, Objective
from tinyvid.training.options import DataPolicy
from tinyvid.types import IGNORE_INDEX

EMPTY = -1  # index of a place that holds no row
NEXT_TOKEN = NextTokenObjective()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that was left out: its place and the reason."""

    where: str
    reason: str


class TrainingData(Dataset[Any]):
    """Rows as examples to learn.

    Args:
        rows: A data set of ``tinyvid.data.datasets``, or ``PackedRows`` of one.
        processor: Lays samples out and decodes.
        policy: What happens to a row that cannot be used.
        objective: What is learned from a row.

    Raises:
        DataError: There are no rows.
    """

    def __init__(
        self, rows: Any, processor: Processor, policy: DataPolicy, *, objective: Objective = NEXT_TOKEN
    ) -> None:
        if len(rows) == 0:
            raise DataError("the data set holds no rows")
        self.rows = rows
        self.processor = processor
        self.policy = policy
        self.objective = objective

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example | Skipped | None:
        """Return an example, a note that the row is left out, or ``None`` for an empty place.

        Raises:
            DataError: The row is malformed, too long, or has no reply to learn.
            VideoError: Its media cannot be read.
        """
        if index == EMPTY:
            return None
        try:
            return self.objective.example(self.processor, self.rows[index])
        except TinyvidError as error:
            where = self.rows.where(index)
            reason = str(error) if str(error).startswith(where) else f"{where}: {error}"
            if self.policy.on_error == "raise":
                raise type(error)(reason) from error
            return Skipped(where, reason)

    def collate(self, items: Sequence[Example | Skipped | None]) -> dict[str, Any]:
        """Pad what is usable to one batch; a batch of nothing is a row without a target.

        Returns:
            ``batch``, its ``labels`` for the Trainer's token count, and what was ``skipped``.
        """
        examples = [item for item in items if isinstance(item, Example)] or [_nothing(self.processor.pad_id)]
        batch = self.processor.collate(examples)
        return {
            "batch": batch,
            "labels": batch.labels,
            "skipped": [item for item in items if isinstance(item, Skipped)],
        }


class EpochOrder(Sampler[int]):
    """The order of the rows in an epoch, shuffled by seed and epoch.

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows that are padded to one length together.
        multiple: The order is filled up with empty places to a multiple of this.
        seed: With the epoch, decides the order.
        size: Length of a row, to put similar ones together; ``None`` for a plain shuffle.
    """

    def __init__(
        self, num_rows: int, *, batch_size: int, multiple: int, seed: int, size: Callable[[int], int] | None
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.multiple = multiple
        self.seed = seed
        self.sizes = None if size is None else [size(index) for index in range(num_rows)]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_rows // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self.sizes is None:
            order = torch.randperm(self.num_rows, generator=generator).tolist()
        else:
            order = get_length_grouped_indices(self.sizes, self.batch_size, generator=generator)
        yield from order
        yield from [EMPTY] * (len(self) - self.num_rows)


def _nothing(pad_id: int) -> Example:
    ids = torch.full((2,), pad_id)
    return Example(
        input_ids=ids,
        labels=torch.full_like(ids, IGNORE_INDEX),
        video_mask=torch.zeros_like(ids, dtype=torch.bool),
    )
