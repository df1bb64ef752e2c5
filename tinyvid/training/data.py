"""Turn rows into batches, in an order that depends only on the seed and the epoch.

A row that cannot be used stops the run, or is skipped and reported; it is never replaced by another row. The order is
padded with empty entries so that all processes have the same number of batches.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from tinyvid.data.parsing import NO_REPLY, learns
from tinyvid.data.skipped import Skipped, file_of, read_skipped, sources_of
from tinyvid.errors import DataError, TinyvidError, VideoError, raised_as
from tinyvid.files import expanded
from tinyvid.processing.batch import Example
from tinyvid.processing.processor import Processor
from tinyvid.training.objectives import NextTokenObjective, Objective, Row
from tinyvid.training.options import DataPolicy
from tinyvid.training.packing import PackedRows
from tinyvid.types import IGNORE_INDEX, Video

EMPTY = -1  # index of an empty entry
NEXT_TOKEN = NextTokenObjective()
ADVICE = "correct or remove the row, or set data.on_error=skip"


class TrainingData(Dataset[Any]):
    """Training examples from the rows of a data set.

    Args:
        rows: A data set of ``tinyvid.data.datasets``, or ``PackedRows``.
        processor: Lays out and decodes samples.
        policy: What to do about a row that cannot be used.
        objective: Turns rows into examples.

    Attributes:
        skipped: Rows that this run has skipped, by location; they are not opened again.
        listed: Rows that ``data.skip_listed`` lists, by ``Skipped.key``.

    Raises:
        DataError: There are no rows, or ``data.skip_listed`` cannot be read.
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
        self.skipped: Mapping[str, Skipped] = {}
        listed = {} if policy.skip_listed is None else read_skipped(expanded(policy.skip_listed))
        self.listed = {row.key: row for row in listed.values()}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_rows(self) -> int:
        """Number of rows, including those that are packed into one item."""
        return self.rows.num_rows if isinstance(self.rows, PackedRows) else len(self.rows)

    def row_keys(self) -> Iterator[str]:
        """Yield the ``Skipped.key`` of every row."""
        for index in range(len(self)):
            yield from map(os.path.abspath, self.places(index))

    def places(self, index: int) -> list[str]:
        """Return the location of a row, or of each of the rows that are packed into one item."""
        return self.rows.places(index) if isinstance(self.rows, PackedRows) else [self.rows.where(index)]

    def __getitem__(self, index: int) -> Example | list[Skipped] | None:
        """Return an example, the skipped rows instead of it, or ``None`` for an empty entry.

        Raises:
            DataError: The row is malformed, too long, or has no reply to learn.
            VideoError: Its media cannot be read.
        """
        if index == EMPTY:
            return None
        places = self.places(index)
        if all(place in self.skipped for place in places):
            return [self.skipped[place] for place in places]
        where, row = self.rows.where(index), None
        listed = [self.listed[key] for key in map(os.path.abspath, places) if key in self.listed]
        try:
            with raised_as(DataError, where, ADVICE):
                row = self.rows[index]
                known = next((entry for entry in listed if entry.file in sources_of(_videos(row))), None)
                if known is None:
                    return self._decodable(self.objective.example(self.processor, row))
        except TinyvidError as error:
            located = self._located(error, index)
            of_row = isinstance(error, DataError | VideoError)
            if not of_row or (self.policy.on_error == "raise" and not listed):
                raise located from error
            known = Skipped(where, file_of(_videos(row), error), type(error).__name__, str(located), self.reader)
        return [Skipped(place, known.file, known.error, known.reason, known.reader) for place in places]

    def check(self) -> None:
        """Lay out every row without decoding, so that a bad one stops the run before the first step.

        Rows that may be skipped are not checked: they are skipped where they are used.

        Raises:
            DataError: A row is malformed, too long, or has no reply to learn.
            VideoError: Its media cannot be read.
        """
        for index in range(len(self)) if self.policy.on_error == "raise" else ():
            where = self.rows.where(index)
            if os.path.abspath(where) in self.listed:
                continue
            try:
                with raised_as(DataError, where, ADVICE):
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

    @property
    def reader(self) -> str:
        """Name of the video reader."""
        return self.processor.reader.name

    def _decodable(self, example: Example) -> Example:
        """Decode lazy pixels once if rows may be skipped: a later error, in the model, would end the run."""
        if self.policy.on_error == "skip":
            for video in example.videos:
                if video.lazy is not None:
                    video.lazy.check()
        return example

    def collate(self, items: Sequence[Example | list[Skipped] | None]) -> dict[str, Any]:
        """Collate the examples to one batch, or to a row without targets if there are none.

        Returns:
            ``batch``, its ``labels`` for the Trainer's token count, and the ``skipped`` rows.
        """
        examples = [item for item in items if isinstance(item, Example)] or [nothing(self.processor.pad_id)]
        batch = self.processor.collate(examples)
        return {
            "batch": batch,
            "labels": batch.labels,
            "skipped": [row for item in items if isinstance(item, list) for row in item],
        }


def _videos(row: Row | None) -> Sequence[Video]:
    """Return the videos of a row, or of packed rows, which show the same ones."""
    samples = row if isinstance(row, list) else [row]
    return samples[0].videos if samples and samples[0] is not None else ()


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


def nothing(pad_id: int) -> Example:
    """Return an example of two tokens without targets."""
    ids = torch.full((2,), pad_id)
    return Example(
        input_ids=ids,
        labels=torch.full_like(ids, IGNORE_INDEX),
        video_mask=torch.zeros_like(ids, dtype=torch.bool),
    )
