"""Check the rows of a data set before a run, and measure their lengths. No model is needed.

The Processor of the training run lays out each row, but without a length limit, so rows that are too long are also
measured. A failed check does not stop the checks that do not depend on it.
"""

import copy
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tinyvid.data.parsing import NO_REPLY, RowError, learns
from tinyvid.errors import DataError, TinyvidError
from tinyvid.files import expanded
from tinyvid.processing.layout import Layout
from tinyvid.processing.processor import Processor
from tinyvid.protocols import Dataset
from tinyvid.text.moments import MomentError, has_markers, without_markers
from tinyvid.types import IGNORE_INDEX, Message, Sample, Video
from tinyvid.video.images import IMAGES
from tinyvid.video.open_video import Clip, open_video

Decode = Literal["none", "first", "all"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a row.

    Attributes:
        where: The row, as ``file:line``.
        kind: One of ``RowError.faults``, ``missing``, ``unreadable``, ``undecodable``, ``control_token``, ``moments``,
            ``no_reply``, ``too_long`` or, from other data sets, ``row``.
        message: What is wrong, and how to correct it.
    """

    where: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class RowReport:
    """The result of checking one row.

    Attributes:
        index: Index of the row in the data set.
        where: The row, as ``file:line``.
        medium: ``video``, ``image``, ``text only`` or ``several``; empty if the row is not a sample.
        text: Number of text tokens; ``None`` if the row could not be laid out.
        video: Number of video tokens.
        labels: Number of tokens with a label.
        faults: Faults of the row.
    """

    index: int
    where: str
    medium: str = ""
    text: int | None = None
    video: int = 0
    labels: int = 0
    faults: tuple[Fault, ...] = ()


class RowChecks:
    """Reports on the rows of a data set, one per index, computed on access.

    Args:
        rows: The data set.
        processor: The Processor of the training run.
        decode: ``none``, ``first`` (the first and the last selected frame of each clip, once per process) or ``all``
            (every frame that training would decode).
    """

    def __init__(self, rows: Dataset, processor: Processor, *, decode: Decode = "first") -> None:
        self.rows = rows
        self.processor = processor
        self.decode = decode
        self._unlimited = copy.copy(processor)
        self._unlimited.max_length = sys.maxsize
        self._decoded: dict[tuple[Any, ...], str | None] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> RowReport:
        """Return the report on a row. Faults are reported, not raised."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        where = self.rows.where(index)
        try:
            sample = self.rows[index]
        except RowError as error:
            return RowReport(index, where, faults=tuple(Fault(where, *fault) for fault in error.faults))
        except DataError as error:
            return RowReport(index, where, faults=(Fault(where, "row", _without(error, where)),))
        found: list[tuple[str, str]] = []
        layout = self._lay_out(sample, found)
        report = RowReport(index, where, _medium(sample))
        if layout is not None:
            video, labels = layout.num_video, int((layout.labels != IGNORE_INDEX).sum())
            report = replace(report, text=layout.length - video, video=video, labels=labels)
            found += self._length(layout, video)
            found += self._frames(layout)
        faults = tuple(Fault(where, kind, message.removeprefix(f"sample '{sample.id}': ")) for kind, message in found)
        return replace(report, faults=faults)

    def plan(self, index: int) -> Layout:
        """Lay out a row without a length limit. Errors are those of ``Processor.plan``."""
        return self._unlimited.plan(self.rows[index])

    def _lay_out(self, sample: Sample, found: list[tuple[str, str]]) -> Layout | None:
        """Add the faults of texts and files to ``found``, and lay out the rest; ``None`` if a file cannot be opened."""
        messages = [self._checked(number, message, found) for number, message in enumerate(sample.messages)]
        if not learns(messages):
            found.append(("no_reply", NO_REPLY))
        broken = [fault for video in sample.videos if (fault := self._open(video))]
        found += broken
        try:
            if not broken:
                return self._plan(replace(sample, messages=messages), found)
            text_only = [replace(message, videos=None) for message in map(_without_markers, messages)]
            self._unlimited.plan(Sample(text_only, id=sample.id))
        except TinyvidError as error:
            found.append(("turns", str(error)))
        return None

    def _plan(self, sample: Sample, found: list[tuple[str, str]]) -> Layout:
        """Lay out a sample; add a marker outside its clip to ``found``, and lay out the text without markers."""
        try:
            return self._unlimited.plan(sample)
        except MomentError as error:
            found.append(("moments", str(error)))
            return self._unlimited.plan(replace(sample, messages=[*map(_without_markers, sample.messages)]))

    def _checked(self, number: int, message: Message, found: list[tuple[str, str]]) -> Message:
        """Add the control tokens and malformed markers of a text to ``found``, and return the message without them."""
        try:
            has_markers(message.text)
        except MomentError as error:
            found.append(("moments", f"message {number} ({message.role}): {error}"))
            message = _without_markers(message)
        text = message.text
        for token, place in self.processor.find_control_tokens(message.text):
            at = f"message {number} ({message.role}) contains the control token {token!r} at character {place}"
            found.append(("control_token", f"{at}; remove it"))
            text = (text if token in text else self.processor.fold(text)).replace(token, "")
        return message if text == message.text else replace(message, text=text, places=())

    def _open(self, video: Video) -> tuple[str, str] | None:
        if isinstance(video.source, str | Path) and not os.path.exists(expanded(video.source)):
            return "missing", f"there is no file or folder {str(video.source)!r}; correct the path or data.media_root"
        try:
            open_video(video, self.processor.reader)
        except TinyvidError as error:
            return "unreadable", str(error)
        return None

    def _length(self, layout: Layout, video: int) -> list[tuple[str, str]]:
        try:
            self.processor.check_length(layout.length, video)
        except DataError as error:
            return [("too_long", str(error))]
        return []

    def _frames(self, layout: Layout) -> list[tuple[str, str]]:
        if self.decode == "none":
            return []
        chosen = zip(layout.clips, layout.indices, strict=True)
        messages = [self._try(clip, indices) for clip, indices in chosen]
        return [("undecodable", message) for message in messages if message]

    def _try(self, clip: Clip, indices: tuple[int, ...]) -> str | None:
        """Decode frames unless they were decoded before, and return the error message, if any."""
        wanted = list(indices) if self.decode == "all" else sorted({indices[0], indices[-1]})
        key = (clip.name, *(clip.first + number for number in wanted))
        if key not in self._decoded:
            try:
                clip.read(wanted)
                self._decoded[key] = None
            except TinyvidError as error:
                self._decoded[key] = str(error)
        return self._decoded[key]


def _without_markers(message: Message) -> Message:
    return replace(message, text=without_markers(message.text), places=())


def _medium(sample: Sample) -> str:
    videos = sample.videos
    if len(videos) != 1:
        return "several" if videos else "text only"
    return "image" if Path(str(videos[0].source)).suffix.lower() in IMAGES else "video"


def _without(error: Exception, where: str) -> str:
    return str(error).removeprefix(f"{where}: ")


def as_row(item: Fault | RowReport) -> Mapping[str, Any]:
    """Return a fault, or the lengths of a row, as a dictionary for a JSON line."""
    if isinstance(item, Fault):
        return {"where": item.where, "kind": item.kind, "message": item.message}
    return {"where": item.where, "medium": item.medium, "text": item.text, "video": item.video, "labels": item.labels}
