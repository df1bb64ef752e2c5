"""Moments: times and frames in the texts of rows, questions and replies.

A text says ``<time:12.5>`` for second 12.5 of the file, and ``<frame:12.5>`` for the shown frame nearest to it.
``Moments.write`` replaces these markers by the words that ``template.time`` and ``template.time_steps`` choose, once it
is known which frames are shown. ``Moments.read`` replaces the words in a reply by markers again.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinyvid.errors import ConfigError, DataError
from tinyvid.text.frame_text import FRAME_LABEL, reference

STYLE = "{:.1f} s"  # also how a user reads the times of a reply in steps
TOLERANCE = 0.05  # seconds that a marker may lie outside its clip: the rounding error of a time with one decimal
MARKER = re.compile(r"<(time|frame):([0-9]{1,9}(?:\.[0-9]{1,9})?)>")
NOT_SHOWN = "<frame:-1>"  # of a frame number that was not shown; never valid
_CANDIDATE = re.compile(r"<([A-Za-z]{2,10})\s*:([^<>\n]{0,40})>?")
_NUMBER = re.compile(r"\s*-?[0-9.,:]+\s*s?\s*>")
_STYLE = re.compile(r"([^{}]*)\{:(?:0[0-9]{1,2})?(?:\.([0-6])f|d)\}([^{}]*)")
_SECONDS = (0.0, 1.2, 34.5, 67.8, 90.1, 123.4, 5678.9)  # with every digit


class Timeline(Protocol):
    """What moments refer to; a ``VideoInput`` is one."""

    @property
    def start(self) -> float:
        """Start of the clip, in seconds of the file."""

    @property
    def end(self) -> float:
        """End of the clip, in seconds of the file."""

    @property
    def times(self) -> Sequence[float]:
        """Time of each shown frame, in seconds of the file, non-decreasing."""


class MomentError(DataError):
    """A marker is malformed, lies outside its clip, or does not belong to exactly one video."""


class Moments:
    """Write the times and frames of a text in the words of a model, and read them back.

    Args:
        style: How a time is written, with one number: ``{:.1f} s`` for seconds, ``<|t{:03d}|>`` for steps.
        steps: Number of steps that a clip is divided into; ``None`` writes seconds after the start of the clip.
        label: How a frame is written, without its colon; ``{i}`` is its number, counted from 1.

    Attributes:
        words: All steps as text, or examples of times with every digit.

    Raises:
        ConfigError: ``style`` has no suitable number, or its times cannot be read back.

    Example:
        >>> from tinyvid import VideoInput
        >>> video = VideoInput(start=10.0, end=20.0, times=(10.0, 15.0, 20.0))
        >>> Moments().write("It falls at <time:12.5>, in <frame:14>.", video)
        'It falls at 2.5 s, in Frame 2.'
        >>> Moments().read("It falls at 2.5 s, in Frame 2.", video)
        'It falls at <time:12.5>, in <frame:15>.'
    """

    def __init__(self, style: str = STYLE, steps: int | None = None, label: str = FRAME_LABEL) -> None:
        found = _STYLE.fullmatch(style)
        if found is None or (found[2] is None) == (steps is None) or style != style.strip():
            need = "{:.1f} or {:06.1f}" if steps is None else f"{{:d}} or {{:03d}} with template.time_steps={steps}"
            raise ConfigError(
                f"template.time={style!r} must contain one number, {need}, and no other braces or outer spaces"
            )
        before, decimals, after = found.groups()
        if not before and not after and decimals in (None, "0"):
            raise ConfigError(f"template.time={style!r} reads every number in a reply as a time; add a word or a unit")
        self.style = style
        self.steps = steps
        self._label = label.rstrip(": ")
        self._frame = reference(label)
        number = "[0-9]{1,9}" if steps is not None else r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
        if not before and not after:  # a number is a time if it has these decimals
            number = rf"[0-9]{{1,9}}\.[0-9]{{{decimals}}}"
        # A time is not a part of a longer word, of a decimal or of a negative number.
        begin, end = r"(?<![\w.])(?<!(?<![^\s(\[{:=,\"'])[-−])", r"(?!\w|\.[0-9])"
        if before:
            begin = r"(?<!\w)" if re.match(r"\w", before) else ""
        if after:
            end = r"(?!\w)" if re.search(r"\w$", after) else ""
        self._time = re.compile(f"{begin}{re.escape(before)}({number}){re.escape(after)}{end}")
        self._time_or_marker = re.compile(f"<(?:time|frame):[-0-9.]+>|{self._time.pattern}")
        self._begun = re.compile(_begun(before, after, waits=bool(end)))
        self._values = _SECONDS if steps is None else range(steps + 1)
        self.words = [style.format(value) for value in self._values]
        self._check()

    def write(self, text: str, timeline: Timeline) -> str:
        """Return a text with the words of the model instead of markers.

        A time up to 0.05 s before or after the clip counts as its start or end.

        Raises:
            MomentError: A marker is malformed or lies outside the clip.
        """
        return MARKER.sub(lambda found: self._written(found, timeline), text) if has_markers(text) else text

    def time(self, second: float, timeline: Timeline) -> str:
        """Return a time in the words of the model. Times outside the clip count as its start or end."""
        after, duration = min(max(second, timeline.start), timeline.end) - timeline.start, _duration(timeline)
        if self.steps is None:
            return self.style.format(after)
        return self.style.format(round(after / duration * self.steps) if duration else 0)

    def read(self, text: str, timeline: Timeline) -> str:
        """Return a reply with markers instead of the words of the model, in seconds of the file.

        Times are read in the style of the template, and frames by their label, as in ``Frame 7``, ``frame-7`` or
        ``Frames 3 and 5``. The number of a frame that was not shown becomes ``<frame:-1>``. A time after the end of the
        clip becomes a marker after the end. Markers in the text are kept.
        """

        def time(found: re.Match[str]) -> str:
            return marker("time", self._second(found[1], timeline)) if found[1] else found[0]

        return self._time_or_marker.sub(time, self.read_frames(text, timeline))

    def read_frames(self, text: str, timeline: Timeline) -> str:
        """Return a reply with markers instead of frames, and times as they are; see ``read``."""

        def frame(number: re.Match[str]) -> str:
            index = int(number[0]) - 1
            return marker("frame", timeline.times[index]) if 0 <= index < len(timeline.times) else NOT_SHOWN

        return self._frame.sub(lambda found: re.sub("[0-9]+", frame, found[1] or found[2]), text)

    def in_seconds(self, text: str, timeline: Timeline | None) -> str:
        """Return a reply with seconds of the file instead of steps. Without steps or a timeline, it stays as it is."""
        return "".join(self.stream([text], timeline))

    def stream(self, pieces: Iterable[str], timeline: Timeline | None) -> Generator[str, None, str]:
        """Yield a reply that arrives in pieces as ``in_seconds`` returns it; return it in the words of the model.

        Only what may be a time waits for the next piece.
        """
        text, sent = "", 0
        for piece in pieces:
            text += piece
            begun = self._begun.search(text, sent) if self.steps and timeline else None
            until = begun.start() if begun else len(text)
            yield self._seconds(text, sent, until, timeline)
            sent = until
        yield self._seconds(text, sent, len(text), timeline)
        return text

    def fault(self, tokenizer: Any, ends: Sequence[str]) -> str:
        """Return why replies with times could not be read back, or an empty text.

        Args:
            tokenizer: The tokenizer of the model; it must keep the times apart.
            ends: Strings that end a reply.
        """
        for end in ends:
            if any(end in word for word in self.words):
                return f"it contains {end!r}, which ends a reply"
        known: dict[tuple[int, ...], str] = {}
        for word, ids in zip(self.words, tokenizer(self.words, add_special_tokens=False).input_ids, strict=True):
            if tuple(ids) in known:
                return f"the tokenizer has the same tokens for {known[tuple(ids)]!r} and {word!r}"
            known[tuple(ids)] = word
        text = " ".join(f"From {word} to {word}, ({word})\n{word}." for word in self.words)
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        counts = Counter(found[0] for found in self._time.finditer(decoded))
        lost = next((word for word in self.words if counts[word] != 4), None)
        return "" if lost is None else f"the tokenizer changes {lost!r} in a text"

    def _written(self, found: re.Match[str], timeline: Timeline) -> str:
        kind, second, times = found[1], float(found[2]), timeline.times
        # The first and the last frame are those nearest to the bounds, and may lie outside.
        bounds = (timeline.start, timeline.end, *(times if kind == "frame" else ()))
        if not min(bounds) - TOLERANCE - 1e-6 <= second <= max(bounds) + TOLERANCE + 1e-6:
            clip = f"from {timeline.start:.3f} to {timeline.end:.3f} s"
            raise MomentError(f"the marker {found[0]} lies outside the clip, {clip}; give seconds of the file")
        return self.time(second, timeline) if kind == "time" else self._label.format(i=nearest(times, second) + 1)

    def _second(self, number: str, timeline: Timeline) -> float:
        return timeline.start + float(number) * (_duration(timeline) / self.steps if self.steps else 1)

    def _seconds(self, text: str, first: int, last: int, timeline: Timeline | None) -> str:
        """Return a part of a text with seconds; the search sees the text on both sides of the part."""
        parts = ""
        for found in self._time.finditer(text, first):
            if timeline is None or self.steps is None or found.end() > last:
                break
            parts += text[first : found.start()] + STYLE.format(self._second(found[1], timeline))
            first = found.end()
        return parts + text[first:last]

    def _check(self) -> None:
        """Raise ``ConfigError`` if a time is not read back as what was written."""
        clip = _Clip(0.0, float(self.steps or 1), (0.0,))
        for value, word in zip(self._values, self.words, strict=True):
            match = self._time.fullmatch(word)
            wanted = marker("time", float(match[1]) if match else value)
            if MARKER.search(word) or self.read(f"({word}), {word}.", clip) != f"({wanted}), {wanted}.":
                raise ConfigError(
                    f"template.time={self.style!r} writes {word!r}, which cannot be read back; do not use "
                    "a marker or a frame label"
                )


class _Clip(NamedTuple):
    start: float
    end: float
    times: tuple[float, ...]


def has_markers(text: str) -> bool:
    """Return whether a text has markers.

    ``<time:`` and ``<frame:`` always begin a marker. Other text in angle brackets is ordinary, unless it is a number
    with a misspelled name, such as ``<tme:3>``.

    Raises:
        MomentError: A marker is malformed.
    """
    has = False
    for found in _CANDIDATE.finditer(text) if "<" in text else ():
        name, rest = found[1].lower(), found[0].partition(":")[2]
        misspelled = _NUMBER.fullmatch(rest) and get_close_matches(name, ("time", "frame"), cutoff=0.75)
        if MARKER.fullmatch(found[0]):
            has = True
        elif name in ("time", "frame") or misspelled:
            raise MomentError(
                f"{found[0]!r} is not a valid marker; write seconds of the file, such as <time:12.5> or "
                "<frame:12.5>, or put a space after '<' if it is ordinary text"
            )
    return has


def without_markers(text: str) -> str:
    """Return a text without its markers and whatever looks like one."""
    return _CANDIDATE.sub("", text)


def marker(kind: str, second: float) -> str:
    """Return the marker of a ``time`` or a ``frame``, with at most three decimals."""
    return f"<{kind}:{digits(round(second, 3) + 0.0)}>"  # + 0.0: no negative zero


def digits(number: float) -> str:
    """Return a number with all of its decimals, without an exponent and without trailing zeros."""
    return np.format_float_positional(number, trim="-")


def nearest(times: Sequence[float], second: float) -> int:
    """Return the index of the time nearest to ``second``; of equally near ones, the first."""
    after = min(bisect_left(times, second), len(times) - 1)
    if after == 0 or times[after] - second < second - times[after - 1]:
        return after
    return bisect_left(times, times[after - 1])  # frames can repeat


def _duration(timeline: Timeline) -> float:
    return timeline.end - timeline.start


def _begun(before: str, after: str, *, waits: bool) -> str:
    """Return a pattern for a text that ends within a time, or with one if it ``waits`` for the next character."""
    pattern = "" if after else r"\.?"
    for char in reversed(after if waits else after[:-1]):
        pattern = f"(?:{re.escape(char)}{pattern})?"
    pattern = f"[0-9]+{pattern}"
    for char in reversed(before):
        pattern = f"{re.escape(char)}(?:{pattern})?"
    return rf"{pattern}\Z"
