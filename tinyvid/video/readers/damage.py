"""Warnings about damage that is known without decoding, with the frames that it touches."""

import numpy as np

from tinyvid.video.readers.clock import warn_once
from tinyvid.video.readers.integrity import Damage
from tinyvid.video.readers.packets import Packets

RARE = 0.1  # share of the steps that may be gaps in a clip with a constant rate


def warn_of_damage(name: str, places: list[Damage], packets: Packets, pts: np.ndarray, time_base: float) -> None:
    """Log a warning that names the file and the frames that may be wrong, if there are any.

    Args:
        name: The file.
        places: What ``find_damage`` found.
        packets: All packets of the video stream.
        pts: Timestamps of the frames in presentation order, or their numbers if the file has no usable timestamps.
        time_base: Unit of the timestamps, in seconds.
    """
    marked = [packets.positions[at] for at in packets.corrupt]
    places = [*places, *(Damage(at, at, "a packet is marked as damaged") for at in marked)]
    if places:
        reasons = ", ".join(dict.fromkeys(place.reason for place in places))
        frames = _frames(places, packets, pts)
        warn_once(name, f"is damaged ({reasons}): {frames} may be wrong or missing; download it again")
    if early := packets.seen - len(packets.pts):
        warn_once(name, f"{early} frames that come before a key frame cannot be decoded and are left out")
    gaps = _gaps(pts, time_base) if packets.pts and max(packets.pts) == pts[-1] else []
    if len(gaps) and not all(packets.keys):
        which = ", ".join(str(gap) for gap in gaps[:5]) + (f" and {len(gaps) - 5} others" if len(gaps) > 5 else "")
        warn_once(name, f"frames are missing after frame {which}; those up to the next key frame may be wrong")


def _gaps(pts: np.ndarray, time_base: float) -> list[int]:
    """Return the frames that are followed by a gap, if the clip has a constant rate otherwise.

    A variable rate, as of phones, has no gaps: its steps vary by more than containers round.
    """
    steps = np.diff(pts) * time_base
    if len(steps) < 8:
        return []
    step, rounded = float(np.median(steps)), max(0.0011, 2 * time_base)
    regular = np.abs(steps - step) <= rounded
    gaps = steps > 1.5 * step
    whole = np.abs(steps / step - np.round(steps / step)) * step <= 2 * rounded
    strict = (regular | gaps & whole).all() and gaps.mean() <= RARE
    return np.flatnonzero(gaps).tolist() if strict else []


def _frames(places: list[Damage], packets: Packets, pts: np.ndarray) -> str:
    """Return the frames at the given places, and those that depend on them, in words."""
    positions, keys = np.frombuffer(packets.positions, np.int64), np.frombuffer(packets.keys, bool)
    if (np.diff(positions) < 0).any() or positions[0] < 0:
        return "some frames"
    hurt = np.zeros(len(positions) + 1, int)
    for place in places:
        first = max(int(np.searchsorted(positions, place.start, side="right")) - 1, 0)
        last = max(int(np.searchsorted(positions, place.end)) - 1, first)
        after = np.flatnonzero(keys[last + 1 :])
        hurt[first] += 1
        hurt[last + 1 + after[0] if len(after) else len(keys)] -= 1
    stamps = np.frombuffer(packets.pts, np.int64)
    order = np.searchsorted(pts, stamps) if stamps.max() == pts[-1] else np.arange(len(stamps))
    numbers = np.unique(order[np.cumsum(hurt[:-1]) > 0])
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    shown = ", ".join(f"{run[0]} to {run[-1]}" for run in runs[:5])
    return f"frames {shown}{' and others' * (len(runs) > 5)}"
