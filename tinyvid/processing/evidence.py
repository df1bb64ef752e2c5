"""The frames that a reply cites, as a contact sheet."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tinyvid.errors import DataError
from tinyvid.outputs import write_bytes
from tinyvid.processing.batch import VideoInput
from tinyvid.processing.layout import timeline_of
from tinyvid.processing.processor import Processor
from tinyvid.text.moments import NOT_SHOWN, STYLE, Moments, nearest
from tinyvid.types import Sample

MAX_FRAMES = 64  # in a contact sheet
MAX_SIDE = 480  # pixels of a frame
MARGIN, CAPTION = 6, 16  # pixels
_FRAME = re.compile(r"<frame:(\d[\d.]*)>")
_TIMES = re.compile(r"<time:(\d[\d.]*)>(?:\s*(?:to|and|until|[-–—])\s*<time:(\d[\d.]*)>)?")


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The frames that a reply cites.

    Attributes:
        reply: The reply with markers in seconds of the file: ``<frame:12.5>``, or ``<frame:-1>`` for a frame that was
            not shown, and ``<time:12.5>``.
        times: Times of all frames that the model saw, in seconds of the file.
        cited: The cited frames, counted from 0, increasing. Of a reply with times and no frames, the first, middle and
            last shown frame of each span.
        frames: uint8 (N, H, W, 3), the cited frames; the first 64 if there are more. The longer side of larger frames
            is reduced to 480 pixels.
    """

    reply: str
    times: tuple[float, ...]
    cited: tuple[int, ...]
    frames: np.ndarray

    @property
    def num_not_shown(self) -> int:
        """How often the reply cites a number that is not the number of a shown frame."""
        return self.reply.count(NOT_SHOWN)

    def save(self, path: str | Path, *, columns: int = 4, side: int = 240) -> None:
        """Draw the cited frames with their numbers and times, and write them as PNG, which replaces an existing file.

        A row has ``columns`` frames, whose longer side has ``side`` pixels. After a kill, the file has its old or its
        new content.

        Raises:
            DataError: The file cannot be written.
        """
        height, width = (round(side * length / max(self.frames.shape[1:3])) for length in self.frames.shape[1:3])
        columns = min(columns, len(self.frames))
        cell = (max(width, 1) + MARGIN, max(height, 1) + CAPTION + MARGIN)
        rows = math.ceil(len(self.frames) / columns)
        sheet = Image.new("RGB", (columns * cell[0] + MARGIN, rows * cell[1] + MARGIN))
        pen = ImageDraw.Draw(sheet)
        for place, (number, frame) in enumerate(zip(self.cited, self.frames, strict=False)):
            row, column = divmod(place, columns)
            left, top = MARGIN + column * cell[0], MARGIN + row * cell[1]
            size = (cell[0] - MARGIN, cell[1] - MARGIN - CAPTION)
            sheet.paste(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), (left, top))
            pen.text((left, top + size[1] + 2), f"Frame {number + 1}   {self.times[number]:.1f} s", fill="white")
        content = io.BytesIO()
        sheet.save(content, format="PNG")
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(Path(path), content.getvalue())
        except OSError as error:
            raise DataError(f"the cited frames cannot be written to {str(path)!r}: {error}") from error


def evidence(processor: Processor, sample: Sample, reply: str, *, reserve: int) -> Evidence:
    """Return the frames that a reply cites.

    Args:
        processor: The Processor of the model that replied.
        sample: The sample that it replied to, with one video.
        reply: The reply, in the words of the model or in seconds.
        reserve: Number of tokens that were reserved for the reply; a sampler may depend on it.

    Raises:
        DataError: The sample does not have exactly one video, or the reply cites no shown frame and no time.
        VideoError: The video cannot be read.
    """
    if len(sample.videos) != 1:
        raise DataError(f"cited frames need a question about exactly one video, got {len(sample.videos)}")
    layout = processor.plan(sample, reserve=reserve)
    clip, indices = layout.clips[0], layout.indices[0]
    video = timeline_of(clip, layout.plans[0])
    marked = processor.read_moments(reply, video)
    if processor.template.moments.steps:  # ``ask`` returns steps as seconds of the file
        marked = Moments(STYLE).read(marked, VideoInput(0.0, clip.end, video.times))
    cited = frames_to_show(marked, video.times)
    if not cited:
        wrong = " (its frame numbers were not shown)" if NOT_SHOWN in marked else ""
        raise DataError(
            f"the reply cites no frame and no time{wrong}; ask when something happens, or use a model that was trained "
            "to cite frames (docs/grounding.md)"
        )
    pieces = clip.pieces([indices[number] for number in cited[:MAX_FRAMES]])
    frames = np.stack([_reduced(frame) for piece in pieces for frame in piece.frames])
    return Evidence(marked, video.times, tuple(cited), frames)


def _reduced(frame: np.ndarray) -> np.ndarray:
    image = Image.fromarray(frame)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return np.asarray(image)


def frames_to_show(reply: str, times: Sequence[float]) -> list[int]:
    """Return the shown frames that a reply with markers cites, as ``Evidence.cited`` describes.

    Example:
        >>> frames_to_show("From <time:1> to <time:3>.", [0.0, 1.0, 2.0, 3.0, 4.0])
        [1, 2, 3]
    """
    if frames := {nearest(times, float(second)) for second in _FRAME.findall(reply)}:
        return sorted(frames)
    found: set[int] = set()
    for start, end in _TIMES.findall(reply):
        low, high = sorted((float(start), float(end or start)))
        inside = [number for number, time in enumerate(times) if low <= time <= high]
        inside = inside or [nearest(times, (low + high) / 2)]
        found |= {inside[0], inside[len(inside) // 2], inside[-1]}
    return sorted(found)
