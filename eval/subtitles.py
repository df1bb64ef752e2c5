"""Which subtitles go with which frames, by the rules of Video-MME and LongVideoBench, and the latter's own files."""

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinyvid import Cue, DataError
from tinyvid.text.subtitles import read_subtitles

WIDEST = 1.0  # seconds that a shorter subtitle of LongVideoBench counts as


@lru_cache(maxsize=64)  # the questions of a video come one after the other
def srt_cues(path: Path) -> tuple[Cue, ...]:
    """Return the subtitles of an SRT file; none if there is no such file, as some videos have none.

    Raises:
        DataError: The file is broken.
    """
    return read_subtitles(path) if path.is_file() else ()


@lru_cache(maxsize=64)
def json_cues(path: Path, *, origin: float, duration: float) -> tuple[Cue, ...]:
    """Return the subtitles of a file of LongVideoBench in its order, read by the official rule.

    Args:
        path: A list of ``{"timestamp": [start, end], "text"}`` or of ``{"start": "00:00:01.5", "end", "line"}``.
        origin: Second of the subtitles' clock at which the video begins.
        duration: Seconds of the video, which are taken for an end that is no decimal number.

    Raises:
        DataError: The file is missing or no JSON, or an entry has neither form.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as subtitles: {error}") from error
    if not isinstance(entries, list):
        raise DataError(f"{path} must hold a list of subtitles, got {type(entries).__name__}")
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
    """Return the subtitles that stand on the screen in at least one frame, each once.

    Args:
        cues: In order.
        times: When the frames are shown, in seconds.
    """
    return [cue.text for cue in cues if any(cue.start <= time < cue.end for time in times)]


def interleaved(cues: Sequence[Cue], times: Sequence[float]) -> list[str | None]:
    """Return subtitles among frames in the order of LongVideoBench; a frame is ``None``.

    A subtitle comes after the frames up to its middle.
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
    """Return the subtitles that LongVideoBench gives with some frames, each where it stands between them.

    A subtitle is kept if a frame lies strictly inside it, where one of less than a second is widened to half a second
    on both sides of its middle. It stands at its middle, or where an earlier one stands whose middle is later.
    ``tinyvid.text.subtitles.place``, which goes by the ends, brings the result into the official order.

    Args:
        cues: In the order of their file.
        times: When the frames are shown, in seconds.
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
