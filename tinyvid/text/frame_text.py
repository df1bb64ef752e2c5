"""The text next to the frames of a video: labels, times and subtitles, as set by ``template.frame``.

Training, benchmarks and ``ask`` use the same format string. ``{video}`` stands for the tokens of a frame, ``{i}`` for
its number, counted from 1, ``{time}`` for its time (``1:02:03``), ``{seconds}`` for the same in seconds with one
decimal, ``{at}`` for its time in the words of ``template.time``, and ``{subtitle}`` for the subtitles up to the frame.
``{video}`` alone writes the frames as one run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tinyvid.errors import ConfigError

FRAME_LABEL = "Frame {i}: "  # label of a frame in prompts and traces; also used to find frames in replies
PLAIN = "{video}{subtitle}"
FIELDS = ("at", "i", "seconds", "subtitle", "time", "video")


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

    Attributes:
        splits_frames: Whether there is text between frames, so that a connector must return tokens for each frame.
        shows_subtitles: Whether subtitles are written.
        shows_moments: Whether times are written in the words of ``template.time``.

    Raises:
        ConfigError: ``style`` has an unknown field, or does not contain ``{video}`` exactly once.

    Example:
        >>> FrameText("{i}: {video} {subtitle}\n")([0.0, 1.0], ["Hello.", ""])[:2]
        [FrameRun(text='1: ', num_frames=1), FrameRun(text=' Hello.\n2: ', num_frames=1)]
    """

    def __init__(self, style: str = PLAIN) -> None:
        fields = re.findall(r"\{(\w*)\}", style)
        if not set(fields) <= set(FIELDS) or re.search(r"[{}]", re.sub(r"\{\w*\}", "", style)):
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ConfigError(f"template.frame={style!r} has an unknown field or a stray brace; use only {known}")
        if fields.count("video") != 1:
            raise ConfigError(
                f"template.frame={style!r} contains {{video}} {fields.count('video')} times; write it once, "
                "for the tokens of a frame"
            )
        self.style = style
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
            values = {"i": number, "time": clock(seconds), "seconds": f"{seconds:.1f}", "subtitle": subtitle}
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


def clock(seconds: float) -> str:
    """Format a time as ``0:07``, ``12:34`` or ``1:02:03``; fractions of a second are dropped."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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
