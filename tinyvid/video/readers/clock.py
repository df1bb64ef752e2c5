"""The times of the frames of a file, from the timestamps of its packets."""

from fractions import Fraction
from typing import Any

import numpy as np

from tinyvid.errors import VideoError
from tinyvid.video.file_warnings import warn_once
from tinyvid.video.readers.packets import NO_PTS, Packets

GUESSED = {"avi", "asf"}  # without presentation times; FFmpeg's guess is wrong if frames are reordered
SPARSE = {"mpeg"}  # states the times of some frames; FFmpeg's guesses of the others may repeat
MAX_SECONDS = 366 * 24 * 3600  # from the first frame to the last
SHARED_TIMES = 0.3  # of the frames may have the time of another one; with more, the clock is not used


def parts_of(name: str, container: Any, stream: Any, packets: Packets) -> list[np.ndarray] | None:
    """Return the sorted timestamps of each part of a file, or ``None`` if the timestamps are not usable.

    A file has one part, and one more for each time that its clock jumps back.
    """
    pts = np.frombuffer(packets.pts, dtype=np.int64)
    keys = np.frombuffer(packets.keys, dtype=bool)
    shown = ~np.frombuffer(packets.hidden, dtype=bool)
    names = container.format.name.split(",")
    if GUESSED.intersection(names) and stream.codec_context.has_b_frames:
        return None
    missing = int((pts == NO_PTS).sum())
    parts, shared = [], 0
    for part in np.split(np.arange(len(pts)), packets.restarts):
        if len(part):
            # Frames before the first key frame, in decoding or presentation order, cannot be decoded.
            order = pts[part][(pts[part] >= pts[part][keys[part]][0]) & shown[part]]
            parts.append(np.unique(order))
            shared += len(order) - len(parts[-1])
    parts = [part for part in parts if len(part)]
    if not parts:
        raise VideoError(f"{name}: none of its frames is shown; encode it again")
    if not missing and not shared:
        return parts
    if missing or shared > SHARED_TIMES * len(pts) or SPARSE.intersection(names):
        if missing < len(pts) and not SPARSE.intersection(names):
            none = f"{missing or shared} of {len(pts)} frames have no timestamp"
            warn_once(name, f"{none}; all times are computed from the frame rate")
        return None
    warn_once(name, f"{shared} of {len(pts)} frames have the time of another frame and are left out")
    return parts


def joined(
    name: str, parts: list[np.ndarray], *, step: float, rate: Fraction | None, time_base: Fraction
) -> np.ndarray:
    """Return the times of all frames in seconds after the first one; each part follows the one before it.

    Raises:
        VideoError: The frames span more than a year, so the timestamps are wrong.
    """
    step = step or (1 / float(rate) if rate else 0.0)
    seconds: list[np.ndarray] = []
    for part in parts:
        span = (int(part[-1]) - int(part[0])) * time_base
        if span > MAX_SECONDS:
            raise VideoError(f"{name}: its timestamps span {float(span):,.0f} s; they are damaged: encode it again")
        start = float(seconds[-1][-1]) + step if seconds else 0.0
        seconds.append(start + (part - part[0]) * float(time_base))
    return np.concatenate(seconds)


def rate_of(seconds: np.ndarray, last_duration: float, rate: Fraction | None) -> tuple[float, bool]:
    """Return the average frames per second of a stream with timestamps, and whether its rate varies.

    If every frame is within half a frame of the declared rate, the stream has exactly that rate, regardless of how the
    container rounds times. Otherwise the rate is variable: the number of frames over the total duration.
    """
    count = len(seconds)
    if rate:
        nominal = np.arange(count) / float(rate)
        if np.abs(seconds - nominal).max() < 0.5 / float(rate):
            return float(rate), False
    if not last_duration and count > 1:
        last_duration = float(seconds[-1]) / (count - 1)
    length = float(seconds[-1]) + last_duration
    return count / length if length > 0 else 1.0, True
