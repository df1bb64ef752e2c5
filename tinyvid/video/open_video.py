"""One face for everything that frames can come from: a video file, an image, a folder of images, an array.

``open_video`` returns ``Clip``, which a sampler can measure before a frame is decoded, and which then decodes only
what the sampler chose. ``start`` and ``end`` are applied here, by the true time of each frame. Decoding video files is
the reader's part.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tinyvid.errors import VideoError
from tinyvid.protocols import VideoReader
from tinyvid.types import Frames, Video, VideoMeta

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
PIECE_BYTES = 64 << 20  # of decoded frames that are in memory at once where a video is read piece by piece
SMALL = 32  # side of the frames that a sampler looks at, in pixels
ARRAY_FPS = 1.0  # frames per second of an array, or a single image, that states none


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A video from its start to its end bound, measured and not yet decoded.

    Attributes:
        name: What it is, for messages.
        meta: What a sampler knows of the clip.
        start: Where the clip begins, in seconds of the source.
        first: Where the clip begins, as a frame number of the source.
        load: Decodes frames by their number in the source.
        clock: Returns when each frame of the source is shown, in seconds.
    """

    name: str
    meta: VideoMeta
    start: float
    first: int
    load: Callable[[list[int]], Frames]
    clock: Callable[[], np.ndarray]

    @property
    def end(self) -> float:
        """Where the clip ends, in seconds of the source."""
        return self.start + self.meta.duration

    def read(self, indices: Sequence[int]) -> Frames:
        """Decode frames of the clip.

        Args:
            indices: Non-decreasing, in [0, meta.num_frames); they count from the first frame of the clip.

        Returns:
            The frames, with times in seconds from the beginning of the source.

        Raises:
            VideoError: An index lies outside the clip, or a frame cannot be decoded.
        """
        numbers = [int(i) for i in indices]
        if not numbers or min(numbers) < 0 or max(numbers) >= self.meta.num_frames:
            raise VideoError(f"{self.name}: frames {numbers} were asked for, it has 0 to {self.meta.num_frames - 1}")
        return self.load(self.numbers(numbers))

    def pieces(self, indices: Sequence[int], *, most: int | None = None) -> Iterator[Frames]:
        """Decode frames of the clip piece by piece, so that memory does not grow with their number.

        Args:
            indices: As for ``read``.
            most: Most frames of a piece; as many as ``PIECE_BYTES`` hold, but 16 at least, if not given.
        """
        size = max(16, PIECE_BYTES // (3 * self.meta.height * self.meta.width))
        size = min(size, most or size)
        for begin in range(0, len(indices), size):
            yield self.read(indices[begin : begin + size])

    def look(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Decode small copies of frames, one after the other: uint8 (32, 32, 3), the aspect ratio ignored."""
        for piece in self.pieces(indices):
            for frame in piece.frames:
                yield np.asarray(Image.fromarray(frame).resize((SMALL, SMALL), Image.Resampling.BOX))

    def times(self, indices: Sequence[int]) -> list[float]:
        """Return when frames of the clip are shown, in seconds from the beginning of the source."""
        return [float(second) for second in self.clock()[self.numbers(indices)]]

    def numbers(self, indices: Sequence[int]) -> list[int]:
        """Return frames of the clip as frame numbers of the source."""
        return [self.first + int(index) for index in indices]


def open_video(video: Video, reader: VideoReader) -> Clip:
    """Measure a video without decoding it.

    The clip from ``video.start`` to ``video.end`` begins with the frame nearest to ``start`` and ends with the frame
    nearest to ``end``. An ``end`` beyond the end of the source means the end of the source, as benchmarks use it.

    Args:
        video: What to open. A folder needs ``fps``; an array without it counts as one frame per second.
        reader: Reads video files.

    Raises:
        VideoError: The source is missing, broken, empty or of another kind, or the clip lies outside it.
    """
    source = _array(video) if isinstance(video.source, np.ndarray) else _path(video, reader)
    if video.start is None and video.end is None:
        return Clip(str(video), source.meta, 0.0, 0, source.load, source.times)
    start, end = _bounds(video, source.meta.duration)
    times = source.times()
    first, last = _nearest(times, start), _nearest(times, end)
    count, seconds = last - first + 1, float(times[last] - times[first])
    fps = source.meta.fps
    if abs(seconds * fps - (count - 1)) > 0.5 and seconds > 0:  # at a variable rate the clip has its own average
        fps = (count - 1) / seconds
    meta = VideoMeta(count, fps, end - start, source.meta.width, source.meta.height)
    return Clip(str(video), meta, start, first, source.load, source.times)


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """All of a video: its description, when its frames are shown (seconds), and how to decode some."""

    meta: VideoMeta
    times: Callable[[], np.ndarray]
    load: Callable[[list[int]], Frames]


def _bounds(video: Video, duration: float) -> tuple[float, float]:
    """Return start and end in seconds, within the source."""
    start = 0.0 if video.start is None else float(video.start)
    end = duration if video.end is None else float(video.end)
    if not math.isfinite(start) or math.isnan(end):
        raise VideoError(f"{video}: start={video.start} and end={video.end} must be numbers of seconds")
    if start < 0:
        raise VideoError(f"{video}: start={start:g} is negative; it counts seconds from the beginning of the video")
    if start >= duration:
        raise VideoError(f"{video}: start={start:g} s lies after the end of the video, which lasts {duration:.3f} s")
    if end <= start:
        raise VideoError(f"{video}: end={end:g} s must come after start={start:g} s")
    return start, min(end, duration)


def _nearest(times: np.ndarray, second: float) -> int:
    """Return the frame shown nearest to ``second``; of two as near the even one, as ``round(second * fps)`` does."""
    after = min(int(np.searchsorted(times, second)), len(times) - 1)
    before = max(after - 1, 0)
    late, early = abs(times[after] - second), abs(second - times[before])
    if math.isclose(late, early, abs_tol=1e-9):
        return before if before % 2 == 0 else after
    return after if late < early else before


def _path(video: Video, reader: VideoReader) -> _Source:
    """Tell files, images and folders apart."""
    if not isinstance(video.source, str | Path):
        raise VideoError(
            f"a video must be a path or a uint8 numpy array (T, H, W, 3), got {type(video.source).__name__}"
        )
    if not str(video.source):
        raise VideoError("the path of a video is empty; name a file or a folder, or leave the video out")
    path = Path(video.source).expanduser()
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that is too long
        return _folder(path, video.fps)
    if not os.path.exists(path):
        raise VideoError(f"{path}: no such file or folder; check the path")
    if video.fps is not None:
        raise VideoError(f"{path}: fps={video.fps:g} was given; only folders and arrays need it, a file has its own")
    if path.suffix.lower() in IMAGES:
        return _pictures([path], ARRAY_FPS)
    return _Source(reader.probe(path), lambda: reader.times(path), lambda numbers: reader.read(path, numbers))


def _array(video: Video) -> _Source:
    """Wrap frames that are already in memory."""
    frames = video.source
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise VideoError(f"{video}: an array must be uint8 (T, H, W, 3), got {getattr(frames, 'dtype', None)}")
    if 0 in frames.shape:
        raise VideoError(f"{video}: the array holds no pixels; give at least one frame")
    fps = _checked_fps(str(video), ARRAY_FPS if video.fps is None else video.fps)
    meta = VideoMeta(len(frames), fps, len(frames) / fps, frames.shape[2], frames.shape[1])
    times = np.arange(len(frames)) / fps
    return _Source(meta, lambda: times, lambda numbers: Frames(frames[numbers], times[numbers].astype(np.float32)))


def _folder(folder: Path, fps: float | None) -> _Source:
    """Take the images of a folder, in natural order of their names (2 before 10), as the frames of a video."""
    files = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=_natural)
    strange = [p.name for p in files if not p.is_file() or p.suffix.lower() not in IMAGES]
    if strange:
        raise VideoError(
            f"{folder}: {strange[0]!r} is no image ({len(strange)} of {len(files)} entries are not); a folder of "
            f"frames may hold only {', '.join(sorted(IMAGES))} files"
        )
    if not files:
        raise VideoError(f"{folder}: the folder holds no images; put the frames of one video in it")
    if fps is None:
        raise VideoError(f"{folder}: a folder of frames states no rate; give fps (frames per second) with it")
    return _pictures(files, _checked_fps(str(folder), fps))


def _pictures(files: list[Path], fps: float) -> _Source:
    """Treat image files as frames. Sizes are compared when frames are decoded."""
    height, width, _ = _read_image(files[0]).shape
    times = np.arange(len(files)) / fps

    def load(numbers: list[int]) -> Frames:
        frames = {number: _read_image(files[number]) for number in sorted(set(numbers))}
        for number, frame in frames.items():
            if frame.shape[:2] != (height, width):
                raise VideoError(
                    f"{files[number]}: is {frame.shape[1]}x{frame.shape[0]} pixels, the first frame {files[0].name} is "
                    f"{width}x{height}; all frames of a video have one size"
                )
        return Frames(np.stack([frames[number] for number in numbers]), times[numbers].astype(np.float32))

    return _Source(VideoMeta(len(files), fps, len(files) / fps, width, height), lambda: times, load)


def _read_image(path: Path) -> np.ndarray:
    """Return an image as uint8 (H, W, 3), turned as its EXIF data asks."""
    try:
        with Image.open(path) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit and image.width * image.height > limit:
                raise VideoError(
                    f"{path}: {image.width}x{image.height} pixels are more than the {limit} allowed; scale it"
                )
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise VideoError(f"{path}: is an animation; convert it to a video file")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path}: cannot be read as an image ({error}); it is damaged or of another kind") from error


def _checked_fps(name: str, fps: float) -> float:
    if not (math.isfinite(fps) and fps > 0):
        raise VideoError(f"{name}: fps={fps:g} must be a positive number of frames per second")
    return float(fps)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort key under which ``frame2`` comes before ``frame10``."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
