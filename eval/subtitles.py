"""Match subtitles to frames by the rules of Video-MME and LongVideoBench, and read LongVideoBench's subtitle files."""

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinyvid import Cue, DataError
from tinyvid.files import refuse_special
from tinyvid.text.subtitles import read_subtitles

WIDEST = 1.0  # LongVideoBench widens shorter subtitles to this duration in seconds


@lru_cache(maxsize=64)  # questions about a video are consecutive
def srt_cues(path: Path) -> tuple[Cue, ...]:
    """Return the subtitles of an SRT file; none if it does not exist, because some videos have no subtitles.

    Raises:
        DataError: The file is malformed.
    """
    return read_subtitles(path) if path.is_file() else ()


@lru_cache(maxsize=64)
def json_cues(path: Path, *, origin: float, duration: float) -> tuple[Cue, ...]:
    """Return the subtitles of a LongVideoBench file in file order, parsed as the official code does.

    Args:
        path: A list of ``{"timestamp": [start, end], "text"}`` or of ``{"start": "00:00:01.5", "end", "line"}``.
        origin: Subtitle time at which the video starts, in seconds.
        duration: Duration of the video in seconds; replaces an end that is not a decimal number.

    Raises:
        DataError: The file is missing or not JSON, or an entry has neither format.
    """
    refuse_special(path, DataError)
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as subtitles: {error}") from error
    if not isinstance(entries, list):
        raise DataError(f"{path} must contain a list of subtitles, got {type(entries).__name__}")
    cues = []
    for number, entry in enumerate(entries, 1):
        try:
            start, end, text = _entry(entry, duration)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}: subtitle {number} needs 'timestamp' and 'text', or 'start', 'end' and 'line': {entry!r:.120}"
            ) from error
        cues.append(Cue(start - origin, end - origin, text))
    return tuple(cues)


def _entry(values: Any, duration: float) -> tuple[float, float, str]:
    if "timestamp" in values:
        start, end = values["timestamp"]
        return float(start), end if isinstance(end, float) else duration, str(values["text"])
    return _clock(values["start"]), _clock(values["end"]), str(values["line"])


def _clock(time: str) -> float:
    hours, minutes, seconds = time.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def shown_at(cues: Sequence[Cue], times: Sequence[float]) -> list[str]:
    """Return the texts of the subtitles on screen in at least one frame.

    Args:
        cues: Subtitles in order.
        times: Times of the frames in seconds.
    """
    return [cue.text for cue in cues if any(cue.start <= time < cue.end for time in times)]


def interleaved(cues: Sequence[Cue], times: Sequence[float]) -> list[str | None]:
    """Interleave subtitles with frames as LongVideoBench does; ``None`` stands for a frame.

    A subtitle follows the last frame before its middle.
    """
    line: list[str | None] = []
    placed = 0
    for moment in moments(cues, times):
        while placed < len(times) and times[placed] <= moment.start:
            line.append(None)
            placed += 1
        line.append(moment.text)
    return [*line, *[None] * (len(times) - placed)]


def moments(cues: Sequence[Cue], times: Sequence[float]) -> tuple[Cue, ...]:
    """Return the subtitles that LongVideoBench shows with the given frames, with times that give the official order.

    A subtitle is kept if a frame lies strictly inside it; subtitles shorter than a second are first widened to half a
    second on both sides of their middle. The new time of a subtitle is its middle, or that of an earlier subtitle if
    that is later. ``tinyvid.text.subtitles.place`` then sorts by end time.

    Args:
        cues: Subtitles in file order.
        times: Times of the frames in seconds.
    """
    kept: list[Cue] = []
    moment = -math.inf
    for cue in cues:
        middle = (cue.start + cue.end) / 2
        moment = max(moment, middle)
        narrow = cue.end - cue.start < WIDEST
        start = middle - WIDEST / 2 if narrow else cue.start
        end = middle + WIDEST / 2 if narrow else cue.end
        if any(start < time < end for time in times):
            kept.append(Cue(moment, math.nextafter(moment, math.inf), cue.text))
    return tuple(kept)
