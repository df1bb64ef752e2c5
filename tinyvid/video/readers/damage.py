"""Warnings about damage that is known without decoding, with the frames that it touches."""

import numpy as np

from tinyvid.errors import listed
from tinyvid.video.file_warnings import warn_once
from tinyvid.video.readers.integrity import Damage
from tinyvid.video.readers.packets import NO_PTS, Packets

RARE = 0.1  # fraction of the steps that may differ in a clip with a constant rate
SHORT = 0.9  # fraction of the declared length that must exist
MISPLACED = 3  # steps that may not be whole frames; one wrong time makes up to three


def warn_of_damage(
    name: str, places: list[Damage], packets: Packets, pts: np.ndarray, time_base: float, declared: float | None
) -> None:
    """Log a warning that names the file and the frames that may be wrong, if there are any.

    Args:
        name: The file.
        places: What ``find_damage`` found.
        packets: All packets of the video stream.
        pts: Timestamps of the frames in presentation order, or their numbers if the file has no usable timestamps.
        time_base: Unit of the timestamps, in seconds.
        declared: Length of the stream in seconds that its header declares, if it does.
    """
    marked = [packets.positions[at] for at in packets.corrupt]
    places = [*places, *(Damage(at, at, "a packet is damaged") for at in marked)]
    if places:
        reasons = ", ".join(dict.fromkeys(place.reason for place in places))
        frames = _frames(places, packets, pts)
        warn_once(name, f"is damaged ({reasons}): {frames} may be wrong or missing; download it again")
    if early := packets.seen - len(packets.pts):
        warn_once(name, f"{early} frames that come before a key frame cannot be decoded and are left out")
    if packets.seen < packets.listed:
        missing = f"its index lists {packets.listed} frames, but it has {packets.seen}"
        warn_once(name, f"is damaged ({missing}): frames after the missing ones have wrong times")
    if packets.restarts:  # what follows needs one clock
        return
    stamps = np.frombuffer(packets.pts, np.int64)
    stamps = stamps[stamps != NO_PTS]
    end = max(stamps.max(), np.ptp(stamps)) * time_base if len(stamps) else 0.0
    if declared is not None and len(stamps) > 1 and end * (1 + 2 / len(stamps)) < SHORT * declared:
        warn_once(
            name, f"its header declares {declared:.2f} s of video, but the file has {end:.2f} s; the rest is missing"
        )
    if packets.pts and max(packets.pts) == pts[-1] and (odd := _out_of_step(pts, time_base)):
        warn_once(
            name,
            f"has a constant rate, except after frame {listed(odd, 5)}: frames are missing or have a wrong time, and "
            "those up to the next key frame may be wrong",
        )


def _out_of_step(pts: np.ndarray, time_base: float) -> list[int]:
    """Return the frames after which a clip of constant rate has a gap, or a step of another length.

    In a variable rate, as phones record it, many steps differ by more than the rounding of a container.
    """
    steps = np.diff(pts) * time_base
    if len(steps) < 8:
        return []
    step = float(np.median(steps))
    rounded = min(max(0.0011, 2 * time_base), step / 4)
    regular = np.abs(steps - step) <= rounded
    whole = (steps > 1.5 * step) & (np.abs(steps / step - np.round(steps / step)) * step <= 2 * rounded)
    constant = regular.mean() >= 1 - RARE and (~(regular | whole)).sum() <= MISPLACED
    return np.flatnonzero(~regular).tolist() if constant else []


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
    shown = listed((f"{run[0]} to {run[-1]}" if len(run) > 1 else run[0] for run in runs), 5)
    return f"frames {shown}"
