"""What is wrong with a row, and how long it is: the checks of a data set before a run. No model is needed.

A row is laid out by the Processor that training uses, without its length limit, so that too long rows are measured
like the others; each check goes on where another one failed, as far as it can.
"""

import copy
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tinyvid.data.parsing import RowError
from tinyvid.errors import DataError, TinyvidError
from tinyvid.processing.layout import Layout
from tinyvid.processing.processor import Processor
from tinyvid.protocols import Dataset
from tinyvid.types import IGNORE_INDEX, Message, Sample, Video
from tinyvid.video.open_video import IMAGES, Clip, open_video

Decode = Literal["none", "first", "all"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a row.

    Attributes:
        where: The row, as ``file:line``.
        kind: ``json``, ``turns``, ``media``, ``markers``, ``options``, ``missing``, ``unreadable``, ``undecodable``,
            ``control_token``, ``no_reply``, ``too_long`` or, from other data sets, ``row``.
        message: What it is, and what to do.
    """

    where: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class RowReport:
    """What a check found in one row.

    Attributes:
        index: Of the row in the data set.
        where: The row, as ``file:line``.
        medium: ``video``, ``image``, ``text only`` or ``several``; empty for a row that is no sample.
        text: Text tokens, ``None`` where the row could not be laid out.
        video: Video tokens.
        labels: Tokens that are learned.
        faults: What is wrong.
    """

    index: int
    where: str
    medium: str = ""
    text: int | None = None
    video: int = 0
    labels: int = 0
    faults: tuple[Fault, ...] = ()


class RowChecks:
    """The reports on the rows of a data set, one per index, made when it is asked for.

    Args:
        rows: The data set.
        processor: As training uses it.
        decode: ``none``, ``first`` (the first and last chosen frame of each clip of each file, once per process) or
            ``all`` (what training would decode).
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
        """Return the report on a row; whatever is wrong with it is in the report."""
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
        """Lay a row out without a limit of length, to look at it. Errors as of ``Processor.plan``."""
        return self._unlimited.plan(self.rows[index])

    def _lay_out(self, sample: Sample, found: list[tuple[str, str]]) -> Layout | None:
        """Note the faults of texts and files, and lay out what is left; ``None`` unless all files are there."""
        messages = [self._checked(number, message, found) for number, message in enumerate(sample.messages)]
        if not any(message.role == "assistant" and message.text.strip() for message in messages):
            found.append(("no_reply", "there is nothing to learn: no assistant's turn with a text"))
        broken = [fault for video in sample.videos if (fault := self._open(video))]
        found += broken
        try:
            if not broken:
                return self._unlimited.plan(replace(sample, messages=messages))
            self._unlimited.plan(Sample([replace(message, videos=None) for message in messages], id=sample.id))
        except TinyvidError as error:
            found.append(("turns", str(error)))
        return None

    def _checked(self, number: int, message: Message, found: list[tuple[str, str]]) -> Message:
        """Note the control tokens of a text, and return the message without them."""
        text = message.text
        for token, place in self.processor.find_control_tokens(message.text):
            at = f"message {number} ({message.role}) contains the control token {token!r} at character {place}"
            found.append(("control_token", f"{at}; remove it"))
            text = (text if token in text else self.processor.fold(text)).replace(token, "")
        return replace(message, text=text)

    def _open(self, video: Video) -> tuple[str, str] | None:
        if isinstance(video.source, str | Path) and not os.path.exists(video.source):
            return "missing", f"there is no file or folder {str(video.source)!r}"
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
        """Decode frames, unless they were decoded before; return what went wrong."""
        wanted = list(indices) if self.decode == "all" else sorted({indices[0], indices[-1]})
        key = (clip.name, *(clip.first + number for number in wanted))
        if key not in self._decoded:
            try:
                clip.read(wanted)
                self._decoded[key] = None
            except TinyvidError as error:
                self._decoded[key] = str(error)
        return self._decoded[key]


def _medium(sample: Sample) -> str:
    videos = sample.videos
    if len(videos) != 1:
        return "several" if videos else "text only"
    return "image" if Path(str(videos[0].source)).suffix.lower() in IMAGES else "video"


def _without(error: Exception, where: str) -> str:
    return str(error).removeprefix(f"{where}: ")


def as_row(item: Fault | RowReport) -> Mapping[str, Any]:
    """Return a fault, or the lengths of a row, as plain data for a JSON line."""
    if isinstance(item, Fault):
        return {"where": item.where, "kind": item.kind, "message": item.message}
    return {"where": item.where, "medium": item.medium, "text": item.text, "video": item.video, "labels": item.labels}
