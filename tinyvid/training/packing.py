"""Pack rows about the same videos into one item, for ``recipe.pack``."""

from pathlib import Path
from typing import Any

from tinyvid.errors import DataError, TinyvidError, raised_as
from tinyvid.types import Sample


class PackedRows:
    """A data set of packed rows: rows about the same clips of the same videos form one item.

    Items are in order of first appearance. Every row is read once, without opening its videos. A row is not packed if
    it cannot be read, has no video, a video given as an array, or videos within its text.
    """

    def __init__(self, rows: Any, most: int) -> None:
        self.rows = rows
        self.items: list[list[int]] = []
        open_items: dict[object, list[int]] = {}
        for index in range(len(rows)):
            key = _videos(rows, index)
            item = open_items.get(key, [])
            if key is None or not item or len(item) == most:
                item = []
                self.items.append(item)
                open_items[key] = item
            item.append(index)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> list[Sample]:
        """Return the samples of an item."""
        return [self.rows[row] for row in self.items[index]]

    def where(self, index: int) -> str:
        """Return the location of the first row, and the number of rows packed with it."""
        first, *others = self.items[index]
        return self.rows.where(first) + (f" (packed with {len(others)} more)" if others else "")

    @property
    def num_rows(self) -> int:
        """Number of rows of all items."""
        return len(self.rows)

    def places(self, index: int) -> list[str]:
        """Return the location of each row of an item."""
        return [self.rows.where(row) for row in self.items[index]]

    def size(self, index: int) -> int:
        """Return the approximate length of an item's text, without reading its rows."""
        return sum(self.rows.size(row) for row in self.items[index])


def _videos(rows: Any, index: int) -> object:
    """Return a key of the videos of a row, or ``None`` if the row cannot be packed."""
    try:
        with raised_as(DataError, rows.where(index), "correct or remove the row"):
            row = rows[index]
        videos = row.videos
    except TinyvidError:  # raised again when the row is used
        return None
    if any(message.places for message in row.messages):  # only what precedes the last video is shared
        return None
    if not videos or not all(isinstance(video.source, str | Path) for video in videos):
        return None
    return tuple((str(v.source), v.start, v.end, v.fps, str(v.subtitles)) for v in videos)
