"""One interface for all sources of frames: a video file, an image, a folder of images, an array.

``open_video`` returns a ``Clip``. A sampler sees its properties before a frame is decoded, and the clip then decodes
only the frames that the sampler chose. ``start`` and ``end`` are applied here, using the actual time of each frame.
Video files are decoded by the video reader.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tinyvid.errors import VideoError, raised_as
from tinyvid.files import expanded, refuse_special
from tinyvid.protocols import VideoReader
from tinyvid.types import Frames, Video, VideoMeta
from tinyvid.video.images import ARRAY_FPS, IMAGES, Source, checked_fps, open_folder, open_image

PIECE_BYTES = 64 << 20  # maximum size of the decoded frames of a piece
SMALL = 32  # side of the frames that a sampler looks at, in pixels
ADVICE = "the file is damaged or not supported; leave it out, or encode it again"
_URL = re.compile(r"(^|/)([a-zA-Z][a-zA-Z0-9+.-]+:/|data:[a-z]+/)")  # one slash remains after it was joined to a folder


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A video from its start to its end bound, not decoded yet.

    Attributes:
        name: The source, for messages.
        meta: The properties of the clip.
        start: Start of the clip, in seconds of the source.
        first: First frame of the clip, as a frame number of the source.
        load: Decodes frames by their number in the source.
        clock: Returns the time of each frame of the source, in seconds.
    """

    name: str
    meta: VideoMeta
    start: float
    first: int
    load: Callable[[list[int]], Frames]
    clock: Callable[[], np.ndarray]

    @property
    def end(self) -> float:
        """End of the clip, in seconds of the source."""
        return self.start + self.meta.duration

    def read(self, indices: Sequence[int]) -> Frames:
        """Decode frames of the clip.

        Args:
            indices: In [0, meta.num_frames), in any order; they count from the first frame of the clip.

        Returns:
            The frames in this order, with times in seconds from the beginning of the source.

        Raises:
            VideoError: No index is given, an index lies outside the clip, or a frame cannot be decoded.
        """
        numbers = [int(i) for i in indices]
        if not numbers or min(numbers) < 0 or max(numbers) >= self.meta.num_frames:
            raise VideoError(
                f"{self.name}: frames {numbers} do not exist; choose frames from 0 to {self.meta.num_frames - 1}"
            )
        order = sorted(range(len(numbers)), key=numbers.__getitem__)  # readers decode forward
        with raised_as(VideoError, self.name, ADVICE):
            read = self.load(self.numbers([numbers[place] for place in order]))
            if order == [*range(len(numbers))]:
                return read
            back = np.argsort(order)
            return Frames(read.frames[back], read.times[back])

    def pieces(self, indices: Sequence[int], *, most: int | None = None) -> Iterator[Frames]:
        """Yield decoded frames of the clip piece by piece, so that memory does not grow with their number.

        Args:
            indices: As in ``read``.
            most: Maximum number of frames per piece; as many as fit in ``PIECE_BYTES``, but at least 16, by default.
        """
        size = max(16, PIECE_BYTES // (3 * self.meta.height * self.meta.width))
        size = min(size, most or size)
        for begin in range(0, len(indices), size):
            yield self.read(indices[begin : begin + size])

    def look(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield small copies of frames one by one, uint8 (32, 32, 3), ignoring the aspect ratio."""
        for piece in self.pieces(indices):
            for frame in piece.frames:
                yield np.asarray(Image.fromarray(frame).resize((SMALL, SMALL), Image.Resampling.BOX))

    def times(self, indices: Sequence[int]) -> list[float]:
        """Return the times of frames of the clip, in seconds from the beginning of the source."""
        with raised_as(VideoError, self.name, ADVICE):
            return [float(second) for second in self.clock()[self.numbers(indices)]]

    def numbers(self, indices: Sequence[int]) -> list[int]:
        """Convert frame indices of the clip to frame numbers of the source."""
        return [self.first + int(index) for index in indices]


def open_video(video: Video, reader: VideoReader) -> Clip:
    """Open a video as a clip without decoding it.

    The clip begins with the frame closest to ``video.start`` and ends with the frame closest to ``video.end``. As some
    benchmarks require, an ``end`` beyond the end of the source means the end of the source.

    Args:
        video: The video to open. A folder needs ``fps``; the default for an array is one frame per second.
        reader: Decodes video files.

    Raises:
        VideoError: The source is missing, broken, empty or unsupported, or the clip lies outside it.
    """
    with raised_as(VideoError, str(video), ADVICE):
        source = _array(video) if isinstance(video.source, np.ndarray) else _path(video, reader)
        if video.start is None and video.end is None:
            return Clip(str(video), source.meta, 0.0, 0, source.load, source.times)
        start, end = _bounds(video, source.meta.duration)
        times = source.times()
    first, last = _nearest(times, start), _nearest(times, end)
    count, seconds = last - first + 1, float(times[last] - times[first])
    fps = source.meta.fps
    if abs(seconds * fps - (count - 1)) > 0.5 and seconds > 0:  # a variable rate: the average of the clip
        fps = (count - 1) / seconds
    varying = None if source.meta.times is None else times[first : last + 1] - start
    meta = VideoMeta(count, fps, end - start, source.meta.width, source.meta.height, varying)
    return Clip(str(video), meta, start, first, source.load, source.times)


def _bounds(video: Video, duration: float) -> tuple[float, float]:
    """Return the start and end of a clip in seconds, limited to the source."""
    with raised_as(VideoError, str(video), "give start and end in seconds"):
        start = 0.0 if video.start is None else float(video.start)
        end = duration if video.end is None else float(video.end)
    if not math.isfinite(start) or math.isnan(end):
        raise VideoError(f"{video}: start={video.start} and end={video.end} must be numbers, in seconds")
    if start < 0:
        raise VideoError(f"{video}: start={start:g} is negative; give seconds from the beginning of the video")
    if start >= duration:
        raise VideoError(f"{video}: start={start:g} s is past the end of the video, at {duration:.3f} s; correct it")
    if end <= start:
        raise VideoError(f"{video}: end={end:g} s must come after start={start:g} s; correct one of them")
    return start, min(end, duration)


def _nearest(times: np.ndarray, second: float) -> int:
    """Return the frame closest to ``second``; a tie goes to the even one, as in ``round(second * fps)``."""
    after = min(int(np.searchsorted(times, second)), len(times) - 1)
    before = max(after - 1, 0)
    late, early = abs(times[after] - second), abs(second - times[before])
    if math.isclose(late, early, abs_tol=1e-9):
        return before if before % 2 == 0 else after
    return after if late < early else before


def _path(video: Video, reader: VideoReader) -> Source:
    """Open a path according to its type: folder, image or video file."""
    if not isinstance(video.source, str | Path):
        raise VideoError(
            f"a video must be a path or a uint8 numpy array (T, H, W, 3), got {type(video.source).__name__}"
        )
    if not str(video.source):
        raise VideoError("the path of a video is empty; give a file or a folder, or omit the video")
    path = expanded(video.source)
    refuse_special(path, VideoError)
    if os.path.isdir(path):  # unlike Path.is_dir, it returns False for a name that is too long
        return open_folder(path, video.fps)
    if not os.path.exists(path):
        if _URL.search(str(video.source)):
            raise VideoError(
                f"{video.source!s:.200}: is a URL, and only files are opened; download it and give its path"
            )
        raise VideoError(f"{path}: no such file or folder; check the path")
    if video.fps is not None:
        raise VideoError(f"{path}: fps={video.fps:g} applies only to folders and arrays; remove it for a file")
    if path.suffix.lower() in IMAGES:
        return open_image(path)
    return Source(reader.probe(path), lambda: reader.times(path), lambda numbers: reader.read(path, numbers))


def _array(video: Video) -> Source:
    """Open frames that are already in memory."""
    frames = video.source
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise VideoError(f"{video}: an array must be uint8 (T, H, W, 3), got {getattr(frames, 'dtype', None)}")
    if 0 in frames.shape:
        raise VideoError(f"{video}: the array is empty; give at least one frame")
    fps = checked_fps(str(video), ARRAY_FPS if video.fps is None else video.fps)
    meta = VideoMeta(len(frames), fps, len(frames) / fps, frames.shape[2], frames.shape[1])
    times = np.arange(len(frames)) / fps
    return Source(meta, lambda: times, lambda numbers: Frames(frames[numbers], times[numbers].astype(np.float32)))
