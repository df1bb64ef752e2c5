"""The text next to the frames of a video: labels, times, subtitles and headings, as set by the template.

Training, benchmarks and ``ask`` use the same format strings. In ``template.frame``, ``{video}`` stands for the tokens
of a frame, ``{i}`` for its number, counted from 1, ``{time}`` for its time (``1:02:03``), ``{clock}`` for the same in
minutes and seconds (``62:03``), ``{seconds}`` in seconds with one decimal, ``{at}`` in the words of ``template.time``,
and ``{subtitle}`` for the subtitles up to the frame. ``{video}`` alone writes the frames as one run.
``template.heading`` comes once before the frames of a video: ``{count}`` is the number of its frames, ``{count_words}``
the same in words, and ``{duration}`` the duration of the clip (``0:02:03``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tinyvid.errors import ConfigError
from tinyvid.text.numerals import in_words

FRAME_LABEL = "Frame {i}: "  # label of a frame in prompts and traces; also used to find frames in replies
PLAIN = "{video}{subtitle}"
FIELDS = ("at", "clock", "i", "seconds", "subtitle", "time", "video")
HEADING_FIELDS = ("count", "count_words", "duration")


@dataclass(frozen=True, slots=True)
class FrameRun:
    """Neighboring frames without text between them.

    Attributes:
        text: The text before the frames; may be empty.
        num_frames: Number of frames; 0 for the text after the last frame.
    """

    text: str
    num_frames: int


class FrameText:
    r"""Format the frames of a video with the text between them.

    Args:
        style: ``template.frame``.
        heading: ``template.heading``; empty for none.

    Attributes:
        splits_frames: Whether there is text between frames, so that a connector must return tokens for each frame.
        shows_subtitles: Whether subtitles are written.
        shows_moments: Whether times are written in the words of ``template.time``.

    Raises:
        ConfigError: ``style`` or ``heading`` has an unknown field, or ``style`` does not contain ``{video}`` exactly
            once.

    Example:
        >>> FrameText("{i}: {video} {subtitle}\n")([0.0, 1.0], ["Hello.", ""])[:2]
        [FrameRun(text='1: ', num_frames=1), FrameRun(text=' Hello.\n2: ', num_frames=1)]
    """

    def __init__(self, style: str = PLAIN, heading: str = "") -> None:
        fields = _fields("template.frame", style, FIELDS)
        _fields("template.heading", heading, HEADING_FIELDS)
        if fields.count("video") != 1:
            raise ConfigError(
                f"template.frame={style!r} contains {{video}} {fields.count('video')} times; write it once, "
                "for the tokens of a frame"
            )
        self.style = style
        self.heading = heading
        self._before, self._after = style.split("{video}")
        self.shows_subtitles = "subtitle" in fields
        self.shows_moments = "at" in fields
        self.splits_frames = style.replace("{subtitle}", "") != "{video}"

    def __call__(self, times: Sequence[float], subtitles: Sequence[str], at: Sequence[str] = ()) -> list[FrameRun]:
        """Return the frames of a video as runs, with the text before each run.

        Args:
            times: Time of each frame, in seconds.
            subtitles: For each frame, the subtitles up to it; empty if there are none.
            at: For each frame, its time in the words of ``template.time``; needed for ``{at}``.
        """
        runs: list[FrameRun] = []
        text = ""  # pending: belongs before the next frame
        count = 0
        for number, (seconds, subtitle) in enumerate(zip(times, subtitles, strict=True), 1):
            values = {"i": number, "time": short_time(seconds), "seconds": f"{seconds:.1f}", "subtitle": subtitle}
            values |= {"clock": clock(seconds)}
            values |= {"at": at[number - 1]} if self.shows_moments else {}
            before = self._before.format(**values)
            if count and before:
                runs.append(FrameRun(text, count))
                text, count = before, 0
            else:
                text += before
            count += 1
            if after := self._after.format(**values):
                runs.append(FrameRun(text, count))
                text, count = after, 0
        return [*runs, FrameRun(text, count)] if text or count else runs

    def head(self, num_frames: int, duration: float) -> str:
        """Return the heading of a video.

        Args:
            num_frames: Number of frames that are shown.
            duration: Duration of the clip, in seconds.
        """
        words = in_words(num_frames)
        return self.heading.format(count=num_frames, count_words=words, duration=long_time(duration))


def short_time(seconds: float) -> str:
    """Format a time as ``0:07``, ``12:34`` or ``1:02:03``; fractions of a second are dropped."""
    hours, minutes, rest = _parts(seconds)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def long_time(seconds: float) -> str:
    """Format a time as ``0:00:07`` or ``1:02:03``; fractions of a second are dropped."""
    hours, minutes, rest = _parts(seconds)
    return f"{hours}:{minutes:02}:{rest:02}"


def clock(seconds: float) -> str:
    """Format a time in minutes and seconds, as ``00:07`` or ``62:03``; fractions of a second are dropped."""
    hours, minutes, rest = _parts(seconds)
    return f"{60 * hours + minutes:02}:{rest:02}"


def reference(label: str = FRAME_LABEL) -> re.Pattern[str]:
    """Return a case-insensitive pattern that finds frame labels in a reply.

    Group 1 is the number of one frame, as in ``Frame 7``, ``frame-7`` or ``Frame7``. Group 2 is a list of numbers, as
    in ``Frames 3, 5 and 7``. Ranges such as ``Frames 3-5`` are not found.

    Example:
        >>> reference().findall("First frame 3: a dog. Frames 12 and 13 show it run, as in Frames.")
        [('3', ''), ('', '12 and 13')]
    """
    before, after = label.rstrip(": ").split("{i}")
    name = r"[\s_-]*".join(re.escape(word) for word in before.split())
    join = r"\s*(?:,\s*and\b|,|and\b|&)\s*"
    several = rf"[0-9]{{1,6}}(?:{join}[0-9]{{1,6}})+(?!\w|\.[0-9]|{join}[0-9]|\s*(?:[-–]|to\b)\s*[0-9])"
    one = rf"[\s_-]*([0-9]{{1,6}})(?!\w|\.[0-9]){re.escape(after)}"
    return re.compile(rf"(?<!\w){name}(?:{one}|s\s+({several}){re.escape(after)})", re.IGNORECASE)


def _parts(seconds: float) -> tuple[int, int, int]:
    """Return the whole hours, minutes and seconds of a time."""
    minutes, rest = divmod(int(seconds), 60)
    return *divmod(minutes, 60), rest


def _fields(option: str, style: str, known: Sequence[str]) -> list[str]:
    """Return the fields of a format string.

    Raises:
        ConfigError: A field is unknown, or there is another brace.
    """
    fields = re.findall(r"\{(\w*)\}", style)
    if not set(fields) <= set(known) or re.search(r"[{}]", re.sub(r"\{\w*\}", "", style)):
        allowed = ", ".join(f"{{{name}}}" for name in known)
        raise ConfigError(f"{option}={style!r} has an unknown field or a stray brace; use only {allowed}")
    return fields
