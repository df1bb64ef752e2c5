"""Turn rows into batches, in an order that depends only on the seed and the epoch.

A row that cannot be used stops the run, or is skipped and reported; it is never replaced by another row. The order is
padded with empty entries so that all processes have the same number of batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from tinyvid.data.parsing import NO_REPLY, learns
from tinyvid.errors import DataError, TinyvidError
from tinyvid.processing.batch import Example
from tinyvid.processing.processor import Processor
from tinyvid.training.objectives import NextTokenObjective, Objective
from tinyvid.training.options import DataPolicy
from tinyvid.types import IGNORE_INDEX

EMPTY = -1  # index of an empty entry
NEXT_TOKEN = NextTokenObjective()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A skipped row: its location and the reason."""

    where: str
    reason: str


class TrainingData(Dataset[Any]):
    """Training examples from the rows of a data set.

    Args:
        rows: A data set of ``tinyvid.data.datasets``, or ``PackedRows``.
        processor: Lays out and decodes samples.
        policy: What to do about a row that cannot be used.
        objective: Turns rows into examples.

    Raises:
        DataError: There are no rows.
    """

    def __init__(
        self, rows: Any, processor: Processor, policy: DataPolicy, *, objective: Objective = NEXT_TOKEN
    ) -> None:
        if len(rows) == 0:
            raise DataError("the data set contains no rows")
        self.rows = rows
        self.processor = processor
        self.policy = policy
        self.objective = objective

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example | Skipped | None:
        """Return an example, ``Skipped`` if the row is skipped, or ``None`` for an empty entry.

        Raises:
            DataError: The row is malformed, too long, or has no reply to learn.
            VideoError: Its media cannot be read.
        """
        if index == EMPTY:
            return None
        try:
            return self.objective.example(self.processor, self.rows[index])
        except TinyvidError as error:
            located = self._located(error, index)
            if self.policy.on_error == "raise":
                raise located from error
            return Skipped(self.rows.where(index), str(located))

    def check(self) -> None:
        """Lay out every row without decoding, so that a bad one stops the run before the first step.

        Rows that a policy skips are not checked: they are skipped where they are used.

        Raises:
            DataError: A row is malformed, too long, or has no reply to learn.
            VideoError: Its media cannot be read.
        """
        for index in range(len(self)) if self.policy.on_error == "raise" else ():
            try:
                sample = self.rows[index]
                if not learns(sample.messages):
                    raise DataError(NO_REPLY)
                self.processor.plan(sample)
            except TinyvidError as error:
                raise self._located(error, index) from error

    def _located(self, error: TinyvidError, index: int) -> TinyvidError:
        """Return an error of a row with the location of the row at the beginning of its message."""
        where = self.rows.where(index)
        return error if str(error).startswith(where) else type(error)(f"{where}: {error}")

    def collate(self, items: Sequence[Example | Skipped | None]) -> dict[str, Any]:
        """Collate the examples to one batch, or to a row without targets if there are none.

        Returns:
            ``batch``, its ``labels`` for the Trainer's token count, and the ``skipped`` rows.
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
        num_rows: Number of rows of the data set.
        batch_size: Number of rows that are grouped by length.
        multiple: The order is padded with empty entries to a multiple of this.
        seed: Seed of the shuffle, combined with the epoch.
        size: Returns the length of a row, to group rows of similar length; ``None`` for a plain shuffle.
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
        """Set the epoch that determines the order."""
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
