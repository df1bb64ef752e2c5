"""Subtitle files to cues, and cues to the frames that they stand next to.

Read: SubRip (``.srt``), WebVTT (``.vtt``), and as ``.json`` the lists of LongVideoBench and the transcripts of Whisper,
of OpenAI's program and of transformers. Markup is left out, texts are not changed otherwise; a cue of several lines
becomes one line. What cannot be read is an error with its line, never a cue less.
"""

import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from tinyvid.errors import DataError, suggest
from tinyvid.types import Cue

MAX_BYTES = 16 << 20  # the subtitles of a film are about 100 kB
SUFFIXES = (".srt", ".vtt", ".json")
_CLOCK = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
_STAMP = re.compile(rf"\s*{_CLOCK}\s*|\s*(?:(\d{{1,4}}):)?(\d{{1,2}}):(\d{{1,2}})\s*")
_SPEAKER = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^<>]+)>")
_MARKUP = re.compile(r"</?(?:[biucv]|font|lang|ruby|rt|\d[\d:.]*)(?:[.\s][^<>]*)?>|\{\\[^{}]*\}", re.IGNORECASE)


def read_subtitles(path: str | Path, *, offset: float = 0.0, min_logprob: float | None = None) -> tuple[Cue, ...]:
    """Read a subtitle file; the suffix says which kind.

    Args:
        path: The file.
        offset: Seconds added to every time, where the subtitles count from another moment than the video does.
        min_logprob: Leave out segments of Whisper with a lower ``avg_logprob``; LLaMA-VID uses -2.

    Returns:
        Cues in order of their start, texts that are not empty.

    Raises:
        DataError: The file is missing, too large, not UTF-8, of another kind, or broken; the message names the line.
    """
    path = Path(path).expanduser()
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise DataError(f"{path}: subtitles are read from {', '.join(SUFFIXES)} files. {suggest(kind, SUFFIXES)}")
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
    """Return for each frame the text that stands next to it, joined by spaces; empty for none.

    A cue goes to the last frame shown before it ends, as in LLaMA-VID, but no further back than a cue that started
    earlier: overlapping cues keep their order. One that ends before the first frame goes to the first frame. Cues
    wholly outside ``start`` and ``end`` are not part of the clip.

    Args:
        cues: In order of their start.
        times: When the frames are shown, in seconds on the clock of the cues, non-decreasing.
        start: Start of the clip in seconds; ``None`` leaves nothing out.
        end: End of the clip in seconds; ``None`` leaves nothing out.

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
    if not path.is_file():
        raise DataError(f"there is no subtitle file {str(path)!r}; check the path")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{path}: has {size:,} bytes, subtitles may have {MAX_BYTES:,}; is this the right file?")
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 (byte {error.start:,}); convert it, with `iconv -f windows-1252 -t utf-8` say"
        ) from error


# --- SubRip and WebVTT ------------------------------------------------------------------------------------------


def _timed_cues(path: Path, text: str, *, counted: bool) -> Iterator[Cue]:
    """Yield the cues of SubRip (``counted``) or WebVTT.

    A number is the counter of a cue only where the line of times follows it, so that a dialogue of digits is dialogue.
    """
    lines = text.split("\n")
    heads = [number for number, line in enumerate(lines) if "-->" in line]
    _check_top(path, lines, heads[0] if heads else len(lines), counted=counted)
    ends = [*(_head_of(lines, number, counted=counted) for number in heads[1:]), len(lines)]
    for number, end in zip(heads, ends, strict=False):  # without cues there is an end too many
        start, stop = _times(path, number, lines[number])
        words = lines[number + 1 : end]
        counter = lines[number - 1].strip() if number else ""
        yield Cue(start, stop, _srt_text(path, number, words, counter) if counted else _vtt_text(words))


def _check_top(path: Path, lines: list[str], head: int, *, counted: bool) -> None:
    """Refuse what stands before the first line of times and does not belong there."""
    if not counted:
        if not re.match(r"WEBVTT(\s|$)", lines[0]):
            raise DataError(f"{path}:1: a WebVTT file begins with 'WEBVTT', this one with {lines[0]!r:.60}")
        return
    for number, line in enumerate(lines[:head]):
        if line.strip() and not (number == head - 1 and line.strip().isdecimal()):
            raise DataError(f"{path}:{number + 1}: expected a cue (a number, then its times), found {line!r:.60}")


def _head_of(lines: list[str], number: int, *, counted: bool) -> int:
    """Return the line with which a cue begins whose times are on line ``number``: its counter or name, or that line."""
    before = number - 1
    if not lines[before].strip():
        return number
    separate = not lines[before - 1].strip()
    if counted:
        return before if lines[before].strip().isdecimal() and (separate or _counts_on(lines, before)) else number
    return before if separate else number


def _counts_on(lines: list[str], number: int) -> bool:
    """Whether the number on a line is one more than the counter of the cue before, where no blank line parts them."""
    head = next(n for n in range(number - 1, -1, -1) if "-->" in lines[n])
    before = lines[head - 1].strip() if head else ""
    return before.isdecimal() and int(lines[number].strip()[:18]) == int(before[:18]) + 1


def _times(path: Path, number: int, line: str) -> tuple[float, float]:
    match = _TIMES.fullmatch(line)
    if match is None:
        raise DataError(
            f"{path}:{number + 1}: these are no times: {line!r:.80}; expected '00:01:02,500 --> 00:01:04,000'"
        )
    start, end = _seconds(match.groups()[:4]), _seconds(match.groups()[4:8])
    if end < start:
        raise DataError(f"{path}:{number + 1}: the cue ends at {end:g} s, before it starts at {start:g} s")
    return start, end


def _srt_text(path: Path, number: int, lines: Sequence[str], counter: str) -> str:
    """Return the text of a cue as one line; a blank line within it belongs to it, a cue without times does not."""
    following = str(int(counter[:18]) + 1) if counter.isdecimal() else None
    for offset, (before, line) in enumerate(pairwise(lines)):
        broken = before.strip().isdecimal() and re.match(r"\s*\d+:\d\d", line)
        if broken or (not before.strip() and line.strip() == following):
            raise DataError(
                f"{path}:{number + 3 + offset}: a cue begins here without its line of times ('00:01:02,500 --> "
                f"00:01:04,000'): {line!r:.60}"
            )
    return _MARKUP.sub("", " ".join(line.strip() for line in lines if line.strip())).strip()


def _vtt_text(lines: Sequence[str]) -> str:
    """Return the text of a cue as one line, speakers in front; after a blank line come comments, styles or regions."""
    words = " ".join(line.strip() for line in takewhile(str.strip, lines))
    return html.unescape(_MARKUP.sub("", _SPEAKER.sub(r"\1: ", words))).strip()


def _seconds(parts: Sequence[str | None]) -> float:
    """Return (hours, minutes, seconds, decimals) in seconds."""
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
            raise DataError(f"{path}: has no 'segments' or 'chunks', only {', '.join(map(str, content)) or 'nothing'}")
        content = content[key]
    if not isinstance(content, list) or not all(isinstance(item, Mapping) for item in content):
        raise DataError(f"{path}: subtitles must be a list of objects with times and a text, got {content!r:.80}")
    for number, item in enumerate(content):
        where = f"{path}: item {number}"
        if min_logprob is None or _number(item.get("avg_logprob"), where, "'avg_logprob'") >= min_logprob:
            yield json_cue(item, where=where, last=number + 1 == len(content))


def json_cue(item: Mapping[str, Any], *, where: str, last: bool = True) -> Cue:
    """Return the cue of an object: ``start``, ``end`` or ``timestamp``, and ``text`` or ``line``.

    Args:
        item: Times in seconds, or as ``00:01:02.500``. The end of the last may be null: it lasts until the end.
        where: Its place, for messages.
        last: Whether it is the last one.

    Raises:
        DataError: It has no times or no text, or ends before it starts.
    """
    words = item.get("text", item.get("line"))
    if not isinstance(words, str):
        raise DataError(f"{where} has no 'text' or 'line': {dict(item)!r:.80}")
    stamps = item.get("timestamp", [item.get("start"), item.get("end")])
    if not isinstance(stamps, list) or len(stamps) != 2:
        raise DataError(f"{where}: 'timestamp' must be [start, end], got {stamps!r:.80}")
    start = _json_seconds(stamps[0], where)
    end = math.inf if stamps[1] is None and last else _json_seconds(stamps[1], where)
    if end < start:
        raise DataError(f"{where} ends at {end:g} s, before it starts at {start:g} s")
    return Cue(start, end, " ".join(words.split()))


def _json_seconds(value: Any, where: str) -> float:
    if isinstance(value, str) and (match := _STAMP.fullmatch(value)):
        groups = match.groups()
        return _seconds(groups[:4] if groups[1] is not None else (*groups[4:], None))
    return _number(value, where, "the time")


def _number(value: Any, where: str, what: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise DataError(f"{where}: {what} is {value!r:.40}; expected a number, or for a time text as in '00:01:02.500'")
