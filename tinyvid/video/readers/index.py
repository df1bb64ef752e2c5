"""The frame table of a video file: the number of frames, their times, and where decoding can start.

One pass over the packets of the file, without decoding, gives every frame its number (in presentation order) and its
time. This way, all readers treat variable frame rates, missing rates and frame counts, edit lists and truncated files
the same. Tables are cached per file, so ``probe`` and ``read`` share one pass.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.errors import VideoError
from tinyvid.registry import PositiveInt
from tinyvid.types import Frames, VideoMeta
from tinyvid.video.readers.orientation import orientation_of

NOT_VIDEO = {"tty", "bin", "xbin", "adf", "idf", "concat", "hls", "dash"}  # text and playlists, which FFmpeg also opens
LOCAL_ONLY = {"protocol_whitelist": "file"}  # a disguised playlist must not access the network
PLAYLIST_BYTES = 8192  # at the start of a file, in which a playlist is recognized
REMEMBERED = 32  # tables in the cache; an hour of video takes about 2 MB
_IDR_SLICE = 5  # H.264 NAL unit type; decoding can start here without earlier frames


@dataclass(frozen=True, slots=True, eq=False)
class FrameIndex:
    """The frames of a file, numbered in presentation order.

    Attributes:
        meta: The properties of the video.
        times: float64 (N,), time of each frame, in seconds after the first one.
        pts: int64 (N,), timestamp of each frame in the time base of the stream; the frame number if not ``timed``.
        keys: int64 (K,), numbers of the key frames, where decoding can start.
        stream: Index of the video stream in the file.
        rotation: Quarter turns, counterclockwise, that make the picture upright. See ``upright``.
        mirrored: Whether left and right are swapped after the rotation.
        timed: Whether the file has timestamps. Raw streams do not, nor AVI with B-frames.
        container: FFmpeg's name of the container.
        codec: FFmpeg's name of the codec.
        clean_keys: Whether no frame that is decoded after a key frame is shown before it.
    """

    meta: VideoMeta
    times: np.ndarray
    pts: np.ndarray
    keys: np.ndarray
    stream: int
    rotation: int
    mirrored: bool
    timed: bool
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
    """Return the frame table of a video file.

    Raises:
        VideoError: The file does not exist, is not a video, contains no frames, or is truncated.
    """
    if not os.path.exists(path):  # unlike Path.exists, it returns False for a name that is too long
        raise VideoError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise VideoError(f"{path}: is not a file; give a video file")
    status = path.stat()
    if status.st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes); copy or download it again")
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
    """Base class of readers: everything except decoding comes from the frame table."""

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
        unique, places = np.unique(numbers, return_inverse=True)
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


@dataclass(slots=True)
class _Packets:
    """The packets of a stream, in decoding order."""

    pts: list[int | None]
    keys: list[bool]
    hidden: list[bool]  # by an edit list: decoded, because other frames depend on it, but never shown
    last_duration: int = 0
    picture: Any = None  # the first decoded frame; all have its size and rotation
    seen: int = 0  # all packets of the stream, including those without a frame
    idr: bool = True  # whether every key frame is an IDR picture, if the codec has them


@lru_cache(maxsize=REMEMBERED)
def _scan(name: str, modified: int, size: int) -> FrameIndex:
    """Read all packets of a file. ``modified`` and ``size`` distinguish a rewritten file from the cached one."""
    import av  # imported on use: `import tinyvid` needs no decoder

    del modified, size
    try:
        _refuse_playlist(name)
        with av.open(name, options=LOCAL_ONLY, metadata_errors="replace") as container:
            if NOT_VIDEO.intersection(container.format.name.split(",")):
                raise VideoError(f"{name}: is {container.format.long_name}, not a video; give a video file")
            stream = _video_stream(name, container)
            packets = _collect(name, container, stream)
            return _tabulate(name, container, stream, packets)
    except (OSError, av.error.FFmpegError, UnicodeDecodeError) as error:
        raise VideoError(_explain(name, error)) from error


def _refuse_playlist(name: str) -> None:
    """Raise an error for a playlist: FFmpeg would open the files in it while it opens the playlist."""
    with open(name, "rb") as file:
        start = file.read(PLAYLIST_BYTES).lstrip()
    if start.startswith((b"#EXTM3U", b"ffconcat version")) or b"<MPD" in start:
        raise VideoError(f"{name}: is not a video but a playlist; give a video file")


def _explain(name: str, error: Exception) -> str:
    """Return the message for a file that FFmpeg cannot open."""
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, PermissionError):
        return f"{name}: cannot be read ({reason}); check its permissions"
    with open(name, "rb") as file:
        is_mp4 = file.read(8).endswith(b"ftyp")
    if is_mp4:
        return f"{name}: its index is missing or broken ({reason}); the file is truncated or damaged: download it again"
    return f"{name}: is not a video that FFmpeg can read ({reason}); give a video file, or download it again"


def _video_stream(name: str, container: Any) -> Any:
    """Return the main video stream, which must not be cover art and must have a known codec."""
    from av.stream import Disposition

    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(f"{name}: contains no video stream, only {kinds}; give a file with video")
    if stream.codec_context is None:
        raise VideoError(f"{name}: this FFmpeg does not support its video codec; encode it as H.264, VP9 or AV1")
    return stream


def _collect(name: str, container: Any, stream: Any) -> _Packets:
    """Read every packet of ``stream`` once; decode only until the first picture."""
    stream.codec_context.thread_count = 1
    packets = _Packets(pts=[], keys=[], hidden=[])
    corrupt = False
    for packet in container.demux(stream):
        packets.seen += bool(packet.size)
        if packets.picture is None and (packet.is_keyframe or packets.keys or not packet.size):
            packets.picture = next(iter(packet.decode()), None)
        if not packet.size or not (packet.is_keyframe or packets.keys):
            continue  # the end, or frames before the first key frame, which cannot be decoded
        corrupt = packet.is_corrupt
        packets.pts.append(packet.pts)
        packets.keys.append(packet.is_keyframe)
        packets.hidden.append(packet.is_discard)
        packets.last_duration = packet.duration or packets.last_duration
        if packet.is_keyframe and stream.codec_context.name == "h264":
            packets.idr = packets.idr and _is_idr(memoryview(packet))
    listed = len(stream.index_entries) if "mp4" in container.format.name.split(",") else 0
    if corrupt or packets.seen < listed:
        raise VideoError(f"{name}: is truncated after {packets.seen} of {listed or 'its'} frames; download it again")
    if packets.picture is None or not packets.pts:
        raise VideoError(f"{name}: none of its frames can be decoded; encode it again")
    return packets


def _is_idr(data: memoryview) -> bool:
    """Return whether an H.264 key frame in MP4 format (length, unit, length, unit, ...) is an IDR picture."""
    position = 0
    while position + 5 <= len(data):
        if data[position + 4] & 31 == _IDR_SLICE:
            return True
        position += 4 + int.from_bytes(data[position : position + 4], "big")
    return False


def _tabulate(name: str, container: Any, stream: Any, packets: _Packets) -> FrameIndex:
    """Sort the packets into presentation order and build the frame table."""
    # AVI has no presentation times; FFmpeg's guess is wrong if frames are reordered.
    guessed = "avi" in container.format.name.split(",") and stream.codec_context.has_b_frames
    timed = not guessed and None not in packets.pts and len(set(packets.pts)) == len(packets.pts)
    rate = stream.average_rate or stream.guessed_rate
    if timed:
        order = np.array(packets.pts, dtype=np.int64)
        key_pts = order[np.array(packets.keys)]
        # Frames before the first key frame, in decoding or presentation order, cannot be decoded.
        pts = np.sort(order[(order >= key_pts[0]) & ~np.array(packets.hidden)])
        if not len(pts):
            raise VideoError(f"{name}: none of its frames is shown; encode it again")
        keys = np.searchsorted(pts, key_pts)
        clean = packets.idr and len(pts) == packets.seen and np.array_equal(keys, np.flatnonzero(packets.keys))
        keys = np.unique(keys[keys < len(pts)])
        seconds = (pts - pts[0]) * float(stream.time_base)
        times, fps = _clock(seconds, packets.last_duration * float(stream.time_base), rate)
    else:
        pts = np.arange(packets.hidden.count(False), dtype=np.int64)
        keys, clean = np.zeros(1, dtype=np.int64), False
        if not rate:
            raise VideoError(f"{name}: has neither timestamps nor a frame rate; remux it into MP4 or MKV")
        fps = float(rate)
        times = pts / fps
    _check_complete(name, stream, times, fps)
    rotation, mirrored = orientation_of(name, packets.picture)
    width, height = packets.picture.width, packets.picture.height
    if rotation % 2:
        width, height = height, width
    meta = VideoMeta(num_frames=len(pts), fps=fps, duration=len(pts) / fps, width=width, height=height)
    return FrameIndex(
        meta=meta,
        times=times,
        pts=pts,
        keys=keys,
        stream=stream.index,
        rotation=rotation,
        mirrored=mirrored,
        timed=timed,
        container=container.format.name,
        codec=stream.codec_context.name,
        clean_keys=clean,
    )


def _clock(seconds: np.ndarray, last_duration: float, rate: Fraction | None) -> tuple[np.ndarray, float]:
    """Return the times and the average frames per second of a stream with timestamps.

    If every frame is within half a frame of the declared rate, the stream has exactly that rate, regardless of how the
    container rounds times. Otherwise the rate is variable: the number of frames over the total duration.
    """
    count = len(seconds)
    if rate:
        nominal = np.arange(count) / float(rate)
        if np.abs(seconds - nominal).max() < 0.5 / float(rate):
            return seconds, float(rate)
    if not last_duration and count > 1:
        last_duration = float(seconds[-1]) / (count - 1)
    length = float(seconds[-1]) + last_duration
    return seconds, count / length if length > 0 else 1.0


def _check_complete(name: str, stream: Any, times: np.ndarray, fps: float) -> None:
    """Raise an error if a file ends well before the duration that its header declares."""
    declared = _declared_seconds(stream)
    found = float(times[-1]) + 1 / fps
    if declared is not None and found < declared - max(1.0, 0.02 * declared):
        raise VideoError(
            f"{name}: is truncated: its header declares {declared:.2f} s of video, but the file contains "
            f"{found:.2f} s; download it again"
        )


def _declared_seconds(stream: Any) -> float | None:
    """Return the duration that the header declares for the stream, as Matroska does in a tag."""
    if "DURATION" in stream.metadata:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return None
