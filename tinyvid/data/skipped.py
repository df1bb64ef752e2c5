"""The record of skipped rows, ``skipped.jsonl``: what was skipped and why. A second run can start from it."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tinyvid.errors import DataError, TinyvidError, VideoError, printable, raised_as
from tinyvid.files import refuse_special
from tinyvid.outputs import cut_torn_line, write_text
from tinyvid.types import Video

SKIPPED = "skipped.jsonl"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that a run skipped, or an item of a benchmark that was not asked.

    Attributes:
        row: Location of the row, or id of the item.
        file: The video that cannot be read; ``None`` if the row itself is at fault.
        error: Type of the error.
        reason: Its message.
        reader: Name of the video reader.
    """

    row: str
    file: str | None
    error: str
    reason: str
    reader: str

    @property
    def key(self) -> str:
        """The location of the row, independent of the working directory if its file has an absolute path."""
        return os.path.abspath(self.row)


def read_skipped(path: Path) -> dict[str, Skipped]:
    """Return the rows of a record by their location. A last line that a kill truncated is ignored.

    Raises:
        DataError: The file cannot be read, or one of its lines is malformed.
    """
    refuse_special(path, DataError)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give the {SKIPPED} of a run") from error
    rows = {}
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        with raised_as(DataError, f"{path}:{number} is not a skipped row", "remove the line"):
            row = Skipped(**json.loads(line))
            if not all(isinstance(value or "", str) for value in asdict(row).values()):
                raise TypeError("its values must be text")
        rows[row.row] = row
    return rows


def append_skipped(path: Path, rows: Iterable[Skipped]) -> None:
    """Append rows to a record. A last line that a kill truncated is removed first."""
    cut_torn_line(path)
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines(rows))


def write_skipped(path: Path, rows: Sequence[Skipped]) -> None:
    """Replace a record atomically; without rows, remove it."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    write_text(path, _lines(rows))


def summarize_skipped(rows: Sequence[Skipped], total: int, path: Path, *, what: str = "rows") -> str:
    """Return a sentence with the number of skipped rows, by type of error, and the path of their record."""
    if not rows:
        return f"No {what} were skipped."
    kinds = ", ".join(f"{count:,} {error}" for error, count in Counter(row.error for row in rows).most_common())
    return f"{len(rows):,} of {total:,} {what} were skipped ({kinds}); {path} lists them. The first: {rows[0].reason}"


def file_of(videos: Sequence[Video], error: TinyvidError) -> str | None:
    """Return the source of the video that an error is about, or ``None`` if it is not about a video."""
    sources = sources_of(videos)
    if not isinstance(error, VideoError) or not sources:
        return None
    return max((source for source in sources if printable(source) in str(error)), key=len, default=sources[0])


def sources_of(videos: Sequence[Video]) -> list[str]:
    """Return the paths of videos, without those that are arrays."""
    return [str(video.source) for video in videos if isinstance(video.source, str | Path)]


def _lines(rows: Iterable[Skipped]) -> str:
    return "".join(f"{json.dumps(asdict(row))}\n" for row in rows)
