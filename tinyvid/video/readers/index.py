"""The frame index of a video file: the number of frames, their times, and where decoding can start.

One pass over the packets of the file, without decoding, gives every frame its number (in presentation order) and its
time. This way, all readers treat variable frame rates, missing rates and frame counts, edit lists and truncated files
the same. Indexes are cached per file, so ``probe`` and ``read`` share one pass.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.errors import VideoError, raised_as
from tinyvid.files import refuse_special
from tinyvid.registry import PositiveInt
from tinyvid.types import Frames, VideoMeta
from tinyvid.video.file_warnings import warn_once
from tinyvid.video.readers.clock import joined, parts_of, rate_of
from tinyvid.video.readers.damage import warn_of_damage
from tinyvid.video.readers.integrity import find_damage
from tinyvid.video.readers.limits import check_picture, check_read
from tinyvid.video.readers.orientation import orientation_of
from tinyvid.video.readers.packets import (
    Packets,
    collect,
    declared_end,
    declared_length,
    explain,
    open_container,
    refuse_more_frames_than_bytes,
    refuse_playlist,
    video_stream,
)

ADVICE = "the file is damaged or not supported; encode or download it again"
REMEMBERED = 32  # indexes in the cache; an hour of video takes about 2 MB
RATES = (1 / 3600, 10_000)  # plausible frames per second, if only the header gives the times
HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers of transfer characteristics


@dataclass(frozen=True, slots=True, eq=False)
class FrameIndex:
    """The frames of a file, numbered in presentation order.

    Attributes:
        meta: The properties of the video.
        times: float64 (N,), time of each frame, in seconds after the first one.
        pts: int64 (N,), timestamp of each frame in the time base of the stream; the frame number if not ``timed``
            and without ``restarts``.
        keys: int64 (K,), numbers of the key frames, where decoding can start.
        stream: Index of the video stream in the file.
        only_stream: Whether the file has no other video stream, not even a cover picture.
        rotation: Quarter turns, counterclockwise, that make the picture upright. See ``upright``.
        mirrored: Whether left and right are swapped after the rotation.
        timed: Whether a timestamp identifies a frame. Raw streams have none, nor do AVI and WMV with B-frames, and
            those of joined files repeat. The frames of such files are found by counting.
        restarts: Numbers of the frames at which the clock jumps back. If there are any, only frames with the next
            timestamp of ``pts`` are counted, because the decoder may return other frames where the parts meet.
        container: FFmpeg's name of the container.
        codec: FFmpeg's name of the codec.
        clean_keys: Whether no frame that is decoded after a key frame is shown before it.
    """

    meta: VideoMeta
    times: np.ndarray
    pts: np.ndarray
    keys: np.ndarray
    stream: int
    only_stream: bool
    rotation: int
    mirrored: bool
    timed: bool
    restarts: tuple[int, ...]
    container: str
    codec: str
    clean_keys: bool

    def key_of(self, number: int) -> int:
        """Return the position in ``keys`` of the last key frame at or before frame ``number``."""
        return max(int(np.searchsorted(self.keys, number, side="right")) - 1, 0)

    @property
    def is_turned(self) -> bool:
        """Whether the file says that its frames must be turned or mirrored; not all libraries do this."""
        return bool(self.rotation or self.mirrored)

    def upright(self, picture: np.ndarray, *, path: Path, number: int) -> np.ndarray:
        """Return a frame as it must be shown.

        Args:
            picture: The frame as it is stored, (h, w, 3).
            path: The file, for messages.
            number: Number of the frame, for messages.

        Returns:
            The frame, (H, W, 3) with the height and width of ``meta``.

        Raises:
            VideoError: The frame does not have the size of the first one.
        """
        shown = np.rot90(picture, self.rotation)
        height, width = shown.shape[:2]
        if (width, height) != (self.meta.width, self.meta.height):
            raise VideoError(
                f"{path}: the picture changes its size: {self.meta.width}x{self.meta.height} pixels at the start, "
                f"{width}x{height} at {self.times[number]:.2f} s (frame {number}); this is not supported: encode the "
                "file again with one size"
            )
        return shown[:, ::-1] if self.mirrored else shown


def index_of(path: Path) -> FrameIndex:
    """Return the frame index of a video file.

    Raises:
        VideoError: The file does not exist, is not a video, contains no frames, or is truncated.
    """
    refuse_special(path, VideoError)
    if not os.path.exists(path):  # unlike Path.exists, it returns False for a name that is too long
        raise VideoError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise VideoError(f"{path}: is not a file; give a video file")
    status = path.stat()
    if status.st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes); copy or download it again")
    with raised_as(VideoError, str(path), ADVICE):
        return _scan(os.path.abspath(path), status.st_mtime_ns, status.st_size)


def check_indices(path: Path, indices: Iterable[int], index: FrameIndex) -> list[int]:
    """Return ``indices`` as plain integers.

    Raises:
        VideoError: ``indices`` is empty or decreases, or an index lies outside the file.
    """
    numbers = [int(i) for i in indices]
    if not numbers:
        raise VideoError(f"{path}: no frame indices given; give at least one")
    if any(a > b for a, b in pairwise(numbers)):
        raise VideoError(f"{path}: frame indices must not decrease, got {numbers}")
    if numbers[0] < 0 or numbers[-1] >= index.meta.num_frames:
        raise VideoError(
            f"{path}: frames {numbers[0]} to {numbers[-1]} do not all exist; choose frames from 0 to "
            f"{index.meta.num_frames - 1}"
        )
    return numbers


class IndexedReader:
    """Base class of readers: everything except decoding comes from the frame index."""

    name: str  # the decoding library

    def __init__(self, *, threads: PositiveInt = 2) -> None:
        self.threads = threads

    def probe(self, path: Path) -> VideoMeta:
        """Return the properties of a video file. See ``protocols.VideoReader.probe``."""
        return index_of(Path(path)).meta

    def times(self, path: Path) -> np.ndarray:
        """Return the time of each frame, float64 (N,), in seconds after the first frame."""
        return index_of(Path(path)).times

    def read(self, path: Path, indices: Sequence[int]) -> Frames:
        """Decode the requested frames. See ``protocols.VideoReader.read``."""
        path = Path(path)
        index = index_of(path)
        numbers = check_indices(path, indices, index)
        check_read(path, len(numbers), index.meta)
        unique, places = np.unique(numbers, return_inverse=True)
        with raised_as(VideoError, str(path), ADVICE):
            frames = self.decode(path, unique.tolist(), index)
        height, width = index.meta.height, index.meta.width
        if frames.shape != (len(unique), height, width, 3):
            raise VideoError(
                f"{path}: {self.name} returned frames of shape {frames.shape} in place of {len(unique)} frames of "
                f"{width}x{height} pixels; choose video_reader=pyav"
            )
        times = index.times[numbers].astype(np.float32)
        return Frames(frames if len(unique) == len(numbers) else frames[places], times)

    def decode(self, path: Path, numbers: list[int], index: FrameIndex) -> np.ndarray:
        """Return frames by increasing number, uint8 (T, H, W, 3).

        Raises:
            VideoError: A frame cannot be decoded.
        """
        raise NotImplementedError


@lru_cache(maxsize=REMEMBERED)
def _scan(name: str, modified: int, size: int) -> FrameIndex:
    """Read all packets of a file. ``modified`` and ``size`` distinguish a rewritten file from the cached one."""
    import av  # imported on use: `import tinyvid` needs no decoder

    del modified, size
    try:
        refuse_playlist(name)
        refuse_more_frames_than_bytes(name)
        with open_container(name) as container:
            stream = video_stream(name, container)
            check_picture(name, stream.codec_context.width, stream.codec_context.height)
            places = find_damage(name, container.format.name, stream.id)
            packets = collect(name, container, stream)
            index = _tabulate(name, container, stream, packets)
            length = declared_length(container, stream)
            warn_of_damage(name, places, packets, index.pts, float(stream.time_base), length)
            return index
    except (OSError, av.error.FFmpegError, UnicodeDecodeError) as error:
        raise VideoError(explain(name, error)) from error


def _tabulate(name: str, container: Any, stream: Any, packets: Packets) -> FrameIndex:
    """Sort the packets into presentation order and build the frame index."""
    rate = stream.average_rate or stream.guessed_rate
    step = packets.last_duration * float(stream.time_base)
    parts = parts_of(name, container, stream, packets)
    keys, clean = np.zeros(1, dtype=np.int64), False
    if parts is None:
        pts = np.arange(packets.hidden.count(False), dtype=np.int64)
        if not rate or not RATES[0] <= rate <= RATES[1]:
            stated = f"{float(rate):g} frames per second" if rate else "no frame rate"
            raise VideoError(f"{name}: has no timestamps and declares {stated}; remux it into MP4 or MKV")
        fps, varies = float(rate), False
        times = pts / fps
        end = len(pts) / fps
    else:
        pts = np.concatenate(parts)
        times = joined(name, parts, step=step, rate=rate, time_base=stream.time_base)
        fps, varies = rate_of(times, step, rate)
        end = float(pts[-1]) * float(stream.time_base) + max(step, 1 / fps)
        if len(parts) == 1:
            keys, clean = _keys(pts, packets)
    declared = declared_end(container, stream)
    if declared is not None and end < declared - max(1.0, 0.02 * (declared - end + len(pts) / fps)):
        raise VideoError(
            f"{name}: is truncated: its header declares {declared:.2f} s, but its last frame ends at {end:.2f} s; "
            "download it again"
        )
    restarts = tuple(np.cumsum([len(part) for part in parts or []])[:-1].tolist())
    for number in restarts:
        what = f"its clock jumps back at frame {number}, as in joined files"
        warn_once(name, f"{what}; the times continue from {times[number]:.2f} s")
    total = max(stream.frames, packets.seen)
    if len(pts) < total / 2:
        warn_once(name, f"shows {len(pts)} of {total} frames; an edit list hides the others, or its header is damaged")
    if packets.picture.color_trc in HDR:
        kind = HDR[packets.picture.color_trc]
        warn_once(name, f"is HDR video ({kind}), which is not tone-mapped: its colors are too dark; convert it to SDR")
    rotation, mirrored = orientation_of(name, packets.picture)
    width, height = packets.picture.width, packets.picture.height
    if rotation % 2:
        width, height = height, width
    meta = VideoMeta(
        num_frames=len(pts),
        fps=fps,
        duration=len(pts) / fps,
        width=width,
        height=height,
        times=times if varies else None,
    )
    return FrameIndex(
        meta=meta,
        times=times,
        pts=pts,
        keys=keys,
        stream=stream.index,
        only_stream=len(container.streams.video) == 1,
        rotation=rotation,
        mirrored=mirrored,
        timed=parts is not None and not restarts,
        restarts=restarts,
        container=container.format.name,
        codec=stream.codec_context.name,
        clean_keys=clean,
    )


def _keys(pts: np.ndarray, packets: Packets) -> tuple[np.ndarray, bool]:
    """Return the numbers of the key frames, and whether no frame that is decoded after one is shown before it."""
    is_key = np.frombuffer(packets.keys, dtype=bool)
    keys = np.searchsorted(pts, np.frombuffer(packets.pts, dtype=np.int64)[is_key])
    clean = packets.idr and len(pts) == packets.seen and np.array_equal(keys, np.flatnonzero(is_key))
    return np.unique(keys[keys < len(pts)]), clean
