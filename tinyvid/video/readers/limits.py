"""The limits that all readers check before decoding, and the options with which decoders report damage.

A file of a few kilobytes can declare pictures that take gigabytes, and a sampler can request any number of frames.
"""

from pathlib import Path

from tinyvid.errors import VideoError
from tinyvid.types import VideoMeta

MAX_PIXELS = 35_651_584  # of a frame: 8192x4352, the most at the highest levels of H.264, HEVC and AV1
MAX_READ_BYTES = 2 << 30  # of the frames of one read: 776 frames of 1280x720, or 21 of 7680x4320
MAX_DECODER_BYTES = 1 << 30  # of all decoders of one read, as far as threads multiply them
# Errors that a decoder looks for. It marks their frames or, with "explode", raises an error.
_DETECT = "crccheck+bitstream+buffer"
_DECODER_BYTES_PER_PIXEL = 60  # 16 reference frames and a few in progress, at 3 bytes per pixel


def check_picture(path: str | Path, width: int, height: int) -> None:
    """Check the size of a picture.

    Raises:
        VideoError: The picture has more than ``MAX_PIXELS`` pixels.
    """
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{path}: its pictures of {width}x{height} = {width * height:,} pixels exceed the limit of {MAX_PIXELS:,} "
            "(8192x4352); scale the video down"
        )


def check_read(path: str | Path, count: int, meta: VideoMeta) -> None:
    """Check the memory that the frames of a read take.

    Raises:
        VideoError: They take more than ``MAX_READ_BYTES`` bytes.
    """
    size = count * meta.width * meta.height * 3
    if size > MAX_READ_BYTES:
        raise VideoError(
            f"{path}: {count:,} frames of {meta.width}x{meta.height} pixels take {size:,} bytes, more than the limit "
            f"of {MAX_READ_BYTES:,}; request at most {MAX_READ_BYTES // (size // count):,} frames at a time "
            "(sampler.num_frames, sampler.max_frames), or scale the video down"
        )


def decoder_options(codec: str) -> dict[str, str]:
    """Return the options of FFmpeg's decoder: report damage instead of hiding it, and refuse pictures that grow.

    H.264 only marks damaged frames. After a seek, it meets frames before the key frame that cannot be decoded.
    """
    detect = _DETECT if codec == "h264" else _DETECT + "+explode"
    return {"err_detect": detect, "max_pixels": str(MAX_PIXELS)}


def affordable_threads(threads: int, meta: VideoMeta) -> int:
    """Return how many of ``threads`` may decode at the same time, at least one; each keeps its own frames."""
    return max(1, min(threads, MAX_DECODER_BYTES // (_DECODER_BYTES_PER_PIXEL * meta.width * meta.height)))
