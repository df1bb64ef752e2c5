"""Rows of a run on disk: one row per item, written immediately.

A killed run resumes from ``predictions.jsonl`` alone. Each process appends to a separate file. The first process merges
the files at the beginning and at the end of a run.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tinyvid.evaluation.items import Outcome
from tinyvid.outputs import write_text

ROWS = "predictions.jsonl"


class Predictions:
    """The rows of a run folder."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.file = folder / (ROWS if rank == 0 else f"predictions.{rank}.jsonl")

    def read(self) -> dict[str, Outcome]:
        """Return the rows of all processes by id. Lines truncated by a kill are skipped."""
        rows: dict[str, Outcome] = {}
        for file in self._files():
            for outcome in read_outcomes(file):
                rows.setdefault(outcome.id, outcome)
        return rows

    def append(self, outcomes: Iterable[Outcome]) -> None:
        """Append rows in one write."""
        text = "".join(f"{_line(outcome)}\n" for outcome in outcomes)
        with self.file.open("ab") as file:
            file.write(text.encode())

    def rewrite(self, outcomes: Iterable[Outcome]) -> None:
        """Replace the rows of all processes atomically. Only the first process may call this."""
        write_text(self.folder / ROWS, "".join(f"{_line(outcome)}\n" for outcome in outcomes))
        for file in self._files()[1:]:
            file.unlink()

    def _files(self) -> list[Path]:
        others = sorted(self.folder.glob("predictions.*.jsonl"))
        return [self.folder / ROWS, *others]


def read_outcomes(file: Path) -> list[Outcome]:
    """Return the rows of a file. Truncated and malformed lines are skipped."""
    outcomes = []
    for line in file.read_bytes().split(b"\n") if file.is_file() else []:
        try:
            outcomes.append(Outcome(**json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            continue
    return outcomes


def _line(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome), ensure_ascii=True)  # replies can contain any character
