"""Rows about the same videos as one item: what ``recipe.pack`` trains on."""

from pathlib import Path
from typing import Any

from tinyvid.errors import TinyvidError
from tinyvid.types import Sample


class PackedRows:
    """Bring rows about the same clips of the same videos together, up to ``most`` of them, in the order of the first.

    Every row is read once, without opening its videos. A row that cannot be read, shows no video, or an array, is an
    item of its own.
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
        """Return the place of the first row, and how many are packed with it."""
        first, *others = self.items[index]
        return self.rows.where(first) + (f" (packed with {len(others)} more)" if others else "")

    def size(self, index: int) -> int:
        """Return a measure of the text of an item that costs no reading."""
        return sum(self.rows.size(row) for row in self.items[index])


def _videos(rows: Any, index: int) -> object:
    """Return what tells the videos of a row from others, or ``None`` where nothing does."""
    try:
        videos = rows[index].videos
    except TinyvidError:  # said when the row is used
        return None
    if not videos or not all(isinstance(video.source, str | Path) for video in videos):
        return None
    return tuple((str(v.source), v.start, v.end, v.fps, str(v.subtitles)) for v in videos)
