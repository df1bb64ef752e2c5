"""Read subtitle files as cues, and assign cues to frames.

Supported formats: SubRip (``.srt``), WebVTT (``.vtt``), and in ``.json`` the lists of LongVideoBench and the Whisper
transcripts of OpenAI and transformers. Markup is removed, and the lines of a cue are joined; the text is not changed
otherwise. A cue that cannot be read raises an error with its line; no cue is skipped.
"""

import html
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from tinyvid.errors import DataError, suggest
from tinyvid.files import expanded, refuse_special
from tinyvid.types import Cue

MAX_BYTES = 16 << 20  # the subtitles of a movie take about 100 kB
SUFFIXES = (".srt", ".vtt", ".json")
_CLOCK = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
_STAMP = re.compile(rf"\s*{_CLOCK}\s*|\s*(?:(\d{{1,4}}):)?(\d{{1,2}}):(\d{{1,2}})\s*")
_SPEAKER = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^<>]+)>")
_MARKUP = re.compile(r"</?(?:[biucv]|font|lang|ruby|rt|\d[\d:.]*)(?:[.\s][^<>]*)?>|\{\\[^{}]*\}", re.IGNORECASE)


def read_subtitles(path: str | Path, *, offset: float = 0.0, min_logprob: float | None = None) -> tuple[Cue, ...]:
    """Read a subtitle file in the format of its suffix.

    Args:
        path: The file.
        offset: Seconds to add to every time, if the subtitles and the video do not start together.
        min_logprob: Drop Whisper segments with a lower ``avg_logprob``; LLaMA-VID uses -2.

    Returns:
        Cues sorted by start, without empty ones.

    Raises:
        DataError: The file is missing, too large, not UTF-8, unsupported or broken; the message gives the line.
    """
    path = expanded(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise DataError(f"{path}: unsupported subtitle format {kind!r}. {suggest(kind, SUFFIXES)}")
    text = _text(path)
    if kind == ".json":
        cues = list(_json_cues(path, text, min_logprob))
    else:
        cues = list(_timed_cues(path, text, counted=kind == ".srt"))
    moved = [Cue(cue.start + offset, cue.end + offset, cue.text) for cue in cues if cue.text]
    return tuple(sorted(moved, key=lambda cue: cue.start))


def place(
    cues: Sequence[Cue], times: Sequence[float], *, start: float | None = None, end: float | None = None
) -> list[str]:
    """Return the subtitles of each frame, joined by spaces; empty if a frame has none.

    As in LLaMA-VID, a cue goes to the last frame shown before the cue ends, but never to an earlier frame than a cue
    that started before it, so overlapping cues keep their order. A cue that ends before the first frame goes to the
    first frame. Cues entirely outside ``start`` and ``end`` are dropped.

    Args:
        cues: Sorted by start.
        times: Time of each frame in seconds, on the same clock as the cues, non-decreasing.
        start: Start of the clip in seconds, or ``None``.
        end: End of the clip in seconds, or ``None``.

    Example:
        >>> place([Cue(0.2, 1.5, "Hello."), Cue(1.6, 1.9, "Hi.")], [0.0, 1.0, 2.0])
        ['', 'Hello. Hi.', '']
    """
    texts: list[list[str]] = [[] for _ in times]
    frame = 0
    for cue in cues:
        if (start is not None and cue.end <= start) or (end is not None and cue.start >= end):
            continue
        while frame + 1 < len(times) and times[frame + 1] < cue.end:
            frame += 1
        texts[frame].append(cue.text)
    return [" ".join(parts) for parts in texts]


def _text(path: Path) -> str:
    refuse_special(path, DataError)
    if not os.path.isfile(path):  # unlike Path.is_file, it returns False for a name that is too long
        raise DataError(f"subtitle file {str(path)!r} does not exist; check the path")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(
            f"{path}: has {size:,} bytes, more than the {MAX_BYTES:,} allowed; check that it is a subtitle file"
        )
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 (byte {error.start:,}); convert it, e.g. with `iconv -f windows-1252 -t utf-8`"
        ) from error


# --- SubRip and WebVTT ------------------------------------------------------------------------------------------


def _timed_cues(path: Path, text: str, *, counted: bool) -> Iterator[Cue]:
    """Yield the cues of SubRip (``counted``) or WebVTT.

    A number is the counter of a cue only if a line of times follows it, so a line of dialogue can be a number.
    """
    lines = text.split("\n")
    heads = [number for number, line in enumerate(lines) if "-->" in line]
    _check_top(path, lines, heads[0] if heads else len(lines), counted=counted)
    ends = [*(_head_of(lines, number, counted=counted) for number in heads[1:]), len(lines)]
    for number, end in zip(heads, ends, strict=False):  # without cues, ``ends`` has one more entry
        start, stop = _times(path, number, lines[number])
        words = lines[number + 1 : end]
        counter = lines[number - 1].strip() if number else ""
        yield Cue(start, stop, _srt_text(path, number, words, counter) if counted else _vtt_text(words))


def _check_top(path: Path, lines: list[str], head: int, *, counted: bool) -> None:
    """Raise an error if anything invalid precedes the first line of times."""
    if not counted:
        if not re.match(r"WEBVTT(\s|$)", lines[0]):
            raise DataError(f"{path}:1: a WebVTT file must begin with 'WEBVTT', found {lines[0]!r:.60}")
        return
    for number, line in enumerate(lines[:head]):
        if line.strip() and not (number == head - 1 and line.strip().isdecimal()):
            raise DataError(f"{path}:{number + 1}: expected a cue (a number, then its times), found {line!r:.60}")


def _head_of(lines: list[str], number: int, *, counted: bool) -> int:
    """Return the first line of the cue with times on line ``number``: its counter, its name, or that line."""
    before = number - 1
    if not lines[before].strip():
        return number
    separate = not lines[before - 1].strip()
    if counted:
        return before if lines[before].strip().isdecimal() and (separate or _counts_on(lines, before)) else number
    return before if separate else number


def _counts_on(lines: list[str], number: int) -> bool:
    """Return whether a number continues the counter of the previous cue, without a blank line between them."""
    head = next(n for n in range(number - 1, -1, -1) if "-->" in lines[n])
    before = lines[head - 1].strip() if head else ""
    return before.isdecimal() and int(lines[number].strip()[:18]) == int(before[:18]) + 1


def _times(path: Path, number: int, line: str) -> tuple[float, float]:
    match = _TIMES.fullmatch(line)
    if match is None:
        raise DataError(f"{path}:{number + 1}: invalid times {line!r:.80}; expected '00:01:02,500 --> 00:01:04,000'")
    start, end = _seconds(match.groups()[:4]), _seconds(match.groups()[4:8])
    if end < start:
        raise DataError(
            f"{path}:{number + 1}: the cue ends at {end:g} s, before its start at {start:g} s; correct its times"
        )
    return start, end


def _srt_text(path: Path, number: int, lines: Sequence[str], counter: str) -> str:
    """Return the text of a cue as one line. Blank lines are part of it; a cue without times raises an error."""
    following = str(int(counter[:18]) + 1) if counter.isdecimal() else None
    for offset, (before, line) in enumerate(pairwise(lines)):
        broken = before.strip().isdecimal() and re.match(r"\s*\d+:\d\d", line)
        if broken or (not before.strip() and line.strip() == following):
            raise DataError(
                f"{path}:{number + 3 + offset}: a cue without a line of times begins here: {line!r:.60}; expected "
                "'00:01:02,500 --> 00:01:04,000'"
            )
    return _MARKUP.sub("", " ".join(line.strip() for line in lines if line.strip())).strip()


def _vtt_text(lines: Sequence[str]) -> str:
    """Return the text of a cue as one line, with its speaker; comments and styles after a blank line are not text."""
    words = " ".join(line.strip() for line in takewhile(str.strip, lines))
    return html.unescape(_MARKUP.sub("", _SPEAKER.sub(r"\1: ", words))).strip()


def _seconds(parts: Sequence[str | None]) -> float:
    """Convert (hours, minutes, seconds, decimals) to seconds."""
    hours, minutes, seconds, decimals = (part or "0" for part in parts)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(decimals) / 10 ** len(decimals)


# --- JSON -------------------------------------------------------------------------------------------------------


def _json_cues(path: Path, text: str, min_logprob: float | None) -> Iterator[Cue]:
    """Yield the cues of a list, or of the ``segments`` or ``chunks`` of a transcript."""
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{path}:{line}: is not JSON: {getattr(error, 'msg', error)}") from error
    if isinstance(content, Mapping):
        key = next((key for key in ("segments", "chunks") if key in content), None)
        if key is None:
            raise DataError(f"{path}: needs 'segments' or 'chunks', has {', '.join(map(str, content)) or 'no keys'}")
        content = content[key]
    if not isinstance(content, list) or not all(isinstance(item, Mapping) for item in content):
        raise DataError(f"{path}: subtitles must be a list of objects with times and text, got {content!r:.80}")
    for number, item in enumerate(content):
        where = f"{path}: item {number}"
        if min_logprob is None or _number(item.get("avg_logprob"), where, "'avg_logprob'") >= min_logprob:
            yield json_cue(item, where=where, last=number + 1 == len(content))


def json_cue(item: Mapping[str, Any], *, where: str, last: bool = True) -> Cue:
    """Convert an object with ``start`` and ``end`` or ``timestamp``, and ``text`` or ``line``, to a cue.

    Args:
        item: Times are seconds or strings such as ``00:01:02.500``. The end of the last cue may be null: it lasts
            until the end of the video.
        where: Location of the object, for messages.
        last: Whether the cue is the last one.

    Raises:
        DataError: The object has no times or no text, or ends before it starts.
    """
    words = item.get("text", item.get("line"))
    if not isinstance(words, str):
        raise DataError(f"{where} needs 'text' or 'line', got {dict(item)!r:.80}")
    stamps = item.get("timestamp", [item.get("start"), item.get("end")])
    if not isinstance(stamps, list) or len(stamps) != 2:
        raise DataError(f"{where}: 'timestamp' must be [start, end], got {stamps!r:.80}")
    start = _json_seconds(stamps[0], where)
    end = math.inf if stamps[1] is None and last else _json_seconds(stamps[1], where)
    if end < start:
        raise DataError(f"{where} ends at {end:g} s, before its start at {start:g} s; correct its times")
    return Cue(start, end, " ".join(words.split()))


def _json_seconds(value: Any, where: str) -> float:
    if isinstance(value, str) and (match := _STAMP.fullmatch(value)):
        groups = match.groups()
        return _seconds(groups[:4] if groups[1] is not None else (*groups[4:], None))
    return _number(value, where, "the time")


def _number(value: Any, where: str, what: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise DataError(
        f"{where}: {what} is {value!r:.40}; expected a number, or for times a string such as '00:01:02.500'"
    )
