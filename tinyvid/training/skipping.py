"""The skipped rows of a run: counted, recorded, and passed over for the rest of the run."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from accelerate.utils import broadcast_object_list

from tinyvid.data.skipped import SKIPPED, Skipped, append_skipped, read_skipped, summarize_skipped
from tinyvid.errors import DataError
from tinyvid.training.data import TrainingData


class SkippedRows:
    """The rows that a run has skipped so far, including before a resume.

    A skipped row is passed over from then on, so an interrupted run skips the same rows as an uninterrupted one, even
    if a file fails only sometimes. All processes must create the object, and add the same rows.

    Args:
        run_dir: Folder of the run.
        data: The training rows and, if there are any, the evaluation rows. They receive the record.

    Raises:
        DataError: The record is damaged, or ``data.skip_listed`` lists no row of the data.
    """

    def __init__(self, run_dir: Path, data: Sequence[TrainingData]) -> None:
        self.file = run_dir / SKIPPED
        self.policy = data[0].policy
        self.training = data[0]
        self.listed = data[0].listed
        self.total = sum(rows.num_rows for rows in data)
        if self.listed and not any(key in self.listed for rows in data for key in rows.row_keys()):
            raise DataError(
                f"data.skip_listed={self.policy.skip_listed} lists {len(self.listed):,} rows, but none of them is in "
                "the data of this run; give the record of a run on the same files"
            )
        record = [read_skipped(self.file) if self.file.exists() else {}]
        broadcast_object_list(record)  # the first process may already have appended to the file
        self.rows: dict[str, Skipped] = record[0]
        for rows in data:
            rows.skipped = self.rows

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, place: str) -> bool:
        return place in self.rows

    def add(self, rows: Iterable[Skipped], *, write: bool) -> None:
        """Add rows, each once, and append them to the record if ``write``.

        Raises:
            DataError: More rows are skipped than ``data.max_skip`` allows, or all training rows.
        """
        new = {row.row: row for row in rows if row.row not in self.rows}
        if not new:
            return
        self.rows |= new
        if write:
            append_skipped(self.file, new.values())
        keys = {row.key for row in self.rows.values()}
        count = len(keys - self.listed.keys())
        last = f"{self.file} lists them. The last one: {[*new.values()][-1].reason}"
        if count > self.policy.max_skip * self.total:
            raise DataError(
                f"{count} of {self.total} rows cannot be used, which is more than data.max_skip="
                f"{self.policy.max_skip:g} allows; {last}"
            )
        if len(keys) >= self.training.num_rows and keys.issuperset(self.training.row_keys()):
            raise DataError(f"none of the {self.training.num_rows} training rows can be used; {last}")

    def summary(self) -> str:
        """Return a sentence with the number of skipped rows, by type of error."""
        return summarize_skipped([*self.rows.values()], self.total, self.file)
