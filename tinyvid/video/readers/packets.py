"""The packets of a video file: one pass over the file without decoding, except for the first picture."""

import gc
import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tinyvid.errors import VideoError
from tinyvid.video.readers.integrity import ffv1_fits

# A forked process has no copies of the threads of a decoder. Collecting a decoder that its parent has left would wait
# for them forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=gc.freeze)

NOT_VIDEO = {"tty", "bin", "xbin", "adf", "idf", "concat", "hls", "dash"}  # text and playlists, which FFmpeg also opens
# A disguised playlist must not access the network, and a name such as p%d.tiff is not a pattern of names.
LOCAL_ONLY = {"protocol_whitelist": "file", "pattern_type": "none"}
PHOTOS = {"heic", "heix", "heim", "heis", "mif1"}  # brands of MP4 files; FFmpeg returns one tile of such a photo
PLAYLIST_BYTES = 8192  # at the start of a file, in which a playlist is recognized
MAX_FRAMES = 5_000_000  # 46 hours at 30 frames per second; their packets take about half a minute
NO_PTS = -(1 << 63)  # stands for a missing timestamp
MAX_BOXES = 1_000_000  # of an MP4 file that are visited
_NESTED = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}  # boxes that contain boxes
_COUNTS = {b"stsz": (8, 12), b"stz2": (8, 12), b"trun": (4, 8)}  # boxes with a number of frames, and its place
_RESTART = 1.0  # seconds that a clock must jump back between key frames; smaller steps come from reordering
_IDR_SLICE = 5  # H.264 NAL unit type; decoding can start here without earlier frames
_HOURS = re.compile(r"(\d{1,6}):([0-5]?\d):([0-5]?\d(?:\.\d*)?)", re.ASCII)


@dataclass(slots=True)
class Packets:
    """The packets of a stream that carry frames, in decoding order.

    Attributes:
        pts: Timestamp of each frame, or ``NO_PTS``.
        keys: Whether each frame is a key frame.
        positions: Where each frame begins in the file, in bytes, or -1.
        corrupt: Frames whose packet is damaged: marked by the container, or with a wrong checksum.
        hidden: Whether an edit list hides the frame: it is decoded, because others depend on it, but never shown.
        restarts: Positions at which the clock jumps back, as in files that were joined.
        last_duration: Of the last packet that states one, in the time base of the stream.
        picture: The first decoded frame; all have its size and orientation.
        seen: Number of all packets of the stream, including those without a frame.
        idr: Whether every key frame is an IDR picture, if the codec has them.
        checksums: Whether the first packet has the right checksums, if the codec has them.
        listed: Number of frames that the index of an AVI lists, or 0.
    """

    pts: "array[int]" = field(default_factory=lambda: array("q"))
    keys: bytearray = field(default_factory=bytearray)
    positions: "array[int]" = field(default_factory=lambda: array("q"))
    corrupt: list[int] = field(default_factory=list)
    hidden: bytearray = field(default_factory=bytearray)
    restarts: list[int] = field(default_factory=list)
    last_duration: int = 0
    picture: Any = None
    seen: int = 0
    idr: bool = True
    checksums: bool | None = None
    listed: int = 0

    def add(self, packet: Any, codec: str) -> None:
        """Add a packet that carries a frame."""
        fits = codec != "ffv1" or ffv1_fits(bytes(packet))
        self.checksums = fits if self.checksums is None else self.checksums
        if packet.is_corrupt or (self.checksums and not fits):
            self.corrupt.append(len(self.pts))
        self.pts.append(NO_PTS if packet.pts is None else packet.pts)
        self.keys.append(packet.is_keyframe)
        self.positions.append(-1 if packet.pos is None else packet.pos)
        self.hidden.append(packet.is_discard)
        self.last_duration = packet.duration or self.last_duration


def open_container(name: str) -> Any:
    """Open a file with PyAV; use it in a ``with`` statement. Nothing but this file is opened."""
    import av  # imported on use: `import tinyvid` needs no decoder

    return av.open(name, options=LOCAL_ONLY, metadata_errors="replace")


def demux(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream or a list of streams, and an empty one of each at the end.

    PyAV raises an IndexError after the last packet if another stream begins later, as sound does in some FLV files.
    """
    try:
        yield from container.demux(stream)
    except IndexError:
        return


def refuse_playlist(name: str) -> None:
    """Raise an error for a playlist: FFmpeg would open the files in it while it opens the playlist."""
    with open(name, "rb") as file:
        start = file.read(PLAYLIST_BYTES).lstrip()
    if start.startswith((b"#EXTM3U", b"ffconcat version")) or b"<MPD" in start:
        raise VideoError(f"{name}: is not a video but a playlist; give a video file")


def refuse_more_frames_than_bytes(name: str) -> None:
    """Raise an error for an MP4 file that lists more frames than it has bytes; FFmpeg would allocate them all."""
    size = os.path.getsize(name)
    with open(name, "rb") as file:
        ends = [size]  # of the boxes around the position
        for _ in range(MAX_BOXES):
            while ends and file.tell() >= ends[-1]:
                ends.pop()
            start, header = file.tell(), file.read(16)
            if not ends or len(header) < 16:
                return
            kind, length, body = header[4:8], int.from_bytes(header[:4], "big"), 8
            if length == 1:
                length, body = int.from_bytes(header[8:], "big"), 16
            end = start + max(length, body) if length else ends[-1]
            file.seek(start + body)
            if kind in _NESTED:
                ends.append(end)
                continue
            if kind in _COUNTS:
                count = int.from_bytes(file.read(12)[slice(*_COUNTS[kind])], "big")
                if count > size:
                    raise VideoError(f"{name}: lists {count:,} frames, but has {size:,} bytes; download it again")
            file.seek(min(end, size))


def explain(name: str, error: Exception) -> str:
    """Return the message for a file that FFmpeg cannot open."""
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, PermissionError):
        return f"{name}: cannot be read ({reason}); check its permissions"
    with open(name, "rb") as file:
        is_mp4 = file.read(8).endswith(b"ftyp")
    if is_mp4:
        return f"{name}: its index is missing or broken ({reason}); the file is truncated or damaged: download it again"
    return f"{name}: is not a video that FFmpeg can read ({reason}); give a video file, or download it again"


def video_stream(name: str, container: Any) -> Any:
    """Return the main video stream, which moves if any stream does.

    Raises:
        VideoError: The file contains only cover pictures, FFmpeg does not support the codec, or it has too many frames.
    """
    from av.stream import Disposition

    if NOT_VIDEO.intersection(container.format.name.split(",")):
        raise VideoError(f"{name}: is {container.format.long_name}, not a video; give a video file")
    if container.metadata.get("major_brand", "") in PHOTOS:
        raise VideoError(f"{name}: is a HEIF photo, which is stored in tiles; convert it to JPEG or PNG")
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(f"{name}: contains no video stream, only {kinds}; give a file with video")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise VideoError(f"{name}: this FFmpeg does not support its video codec; encode it as H.264, VP9 or AV1")
    best = container.streams.best("video")
    known.sort(key=lambda stream: stream is not best)
    stream = container.streams[_moving(name, [stream.index for stream in known])]
    if stream.frames > MAX_FRAMES:
        declared = f"{stream.frames:,} frames, more than {MAX_FRAMES:,}"
        raise VideoError(f"{name}: declares {declared}; cut it into shorter files")
    return stream


def _moving(name: str, candidates: list[int]) -> int:
    """Return the first of several streams if it moves, otherwise the one with the most frames."""
    if len(candidates) == 1:
        return candidates[0]
    counts = dict.fromkeys(candidates, 0)
    with open_container(name) as container:  # a second one, because not every container can be read again
        for packet in demux(container, [container.streams[number] for number in candidates]):
            counts[packet.stream_index] += bool(packet.size)
            if counts[candidates[0]] > 1:
                return candidates[0]
    return max(candidates, key=counts.__getitem__)


def collect(name: str, container: Any, stream: Any) -> Packets:
    """Read every packet of a stream once; decode only until the first picture.

    Raises:
        VideoError: The file is truncated, has too many frames, or none can be decoded.
    """
    stream.codec_context.thread_count = 1
    packets = Packets()
    corrupt = started = False
    last_dts, back = None, round(_RESTART / stream.time_base)
    for packet in demux(container, stream):
        packets.seen += bool(packet.size)
        if packets.seen > MAX_FRAMES:
            raise VideoError(f"{name}: has more than {MAX_FRAMES:,} frames; cut it into shorter files")
        if packet.dts is not None:
            if last_dts is not None and packet.dts < last_dts - (0 if packet.is_keyframe else back):
                packets.restarts.append(len(packets.pts))
                started = False
            last_dts = packet.dts
        started = started or packet.is_keyframe
        if packets.picture is None and (started or not packet.size):
            packets.picture = next(iter(packet.decode()), None)
        if not packet.size or not started:
            continue  # the end, or frames before the first key frame, which cannot be decoded
        corrupt = packet.is_corrupt
        packets.add(packet, stream.codec_context.name)
        if packet.is_keyframe and stream.codec_context.name == "h264":
            packets.idr = packets.idr and _is_idr(memoryview(packet))
    _compare_with_index(name, container, stream, packets)
    if corrupt:
        raise VideoError(f"{name}: is truncated after {packets.seen} of its frames; download it again")
    if packets.picture is None or not packets.pts:
        raise VideoError(f"{name}: none of its frames can be decoded; encode it again")
    return packets


def _compare_with_index(name: str, container: Any, stream: Any, packets: Packets) -> None:
    """Raise an error if an MP4 lacks frames that it lists, and keep the number of those that an AVI lists."""
    formats = container.format.name.split(",")
    if "avi" in formats:
        packets.listed = sum(entry.size > 0 for entry in stream.index_entries)
    elif "mp4" in formats and packets.seen < (listed := len(stream.index_entries)):
        raise VideoError(f"{name}: is truncated after {packets.seen} of {listed} frames; download it again")


def _is_idr(data: memoryview) -> bool:
    """Return whether an H.264 key frame in MP4 format (length, unit, length, unit, ...) is an IDR picture."""
    position = 0
    while position + 5 <= len(data):
        if data[position + 4] & 31 == _IDR_SLICE:
            return True
        position += 4 + int.from_bytes(data[position : position + 4], "big")
    return False


def declared_end(container: Any, stream: Any) -> float | None:
    """Return the end of the stream that Matroska declares in a tag, in seconds from the zero of the file.

    In other containers, a tag with this name has no defined meaning. A tag that is not a time is ignored.
    """
    if "matroska" not in container.format.name.split(","):
        return None
    found = _HOURS.fullmatch(stream.metadata.get("DURATION", "").strip("\0 "))
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def declared_length(container: Any, stream: Any) -> float | None:
    """Return the length of the video in seconds that a header declares, or ``None`` if FFmpeg estimates it.

    The length of a file counts only if the video is its only stream, because sound may be longer.
    """
    formats = set(container.format.name.split(","))
    if formats & {"mov", "avi"} and stream.duration:
        return float(stream.duration * stream.time_base)
    if formats & {"matroska", "nut", "flv", "asf"} and len(container.streams) == 1 and container.duration:
        return container.duration / 1e6
    return None
