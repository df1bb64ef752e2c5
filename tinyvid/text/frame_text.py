"""What is written next to the frames of a video: labels, times and subtitles, as ``template.frame`` says.

One string says it for training, benchmarks and ``ask`` alike: ``{video}`` is where the tokens of a frame stand, ``{i}``
its number from 1, ``{time}`` when it is shown (``1:02:03``), ``{seconds}`` the same in seconds with one decimal, and
``{subtitle}`` what is said up to it. ``{video}`` alone writes the frames as one run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tinyvid.errors import ConfigError

FRAME_LABEL = "Frame {i}: "  # how a frame is called in prompts, traces and replies; what reads replies shares it
PLAIN = "{video}{subtitle}"
FIELDS = ("i", "seconds", "subtitle", "time", "video")


@dataclass(frozen=True, slots=True)
class FrameRun:
    """Neighboring frames without text between them.

    Attributes:
        text: Stands in front of them; may be empty.
        num_frames: How many; 0 for the text behind the last frame.
    """

    text: str
    num_frames: int


class FrameText:
    r"""Write the frames of a video.

    Args:
        style: ``template.frame``.

    Attributes:
        parts_frames: Whether every frame has text of its own, so that a connector must make tokens of each.
        shows_subtitles: Whether subtitles are written.

    Raises:
        ConfigError: ``style`` has an unknown field, or not exactly one ``{video}``.

    Example:
        >>> FrameText("{i}: {video} {subtitle}\n")([0.0, 1.0], ["Hello.", ""])[:2]
        [FrameRun(text='1: ', num_frames=1), FrameRun(text=' Hello.\n2: ', num_frames=1)]
    """

    def __init__(self, style: str = PLAIN) -> None:
        fields = re.findall(r"\{(\w*)\}", style)
        if not set(fields) <= set(FIELDS) or re.search(r"[{}]", re.sub(r"\{\w*\}", "", style)):
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ConfigError(f"template.frame={style!r} has something else than {known} in curly brackets")
        if fields.count("video") != 1:
            raise ConfigError(
                f"template.frame={style!r} must contain {{video}}, the place of a frame's tokens, once; it does "
                f"{fields.count('video')} times"
            )
        self.style = style
        self._before, self._after = style.split("{video}")
        self.shows_subtitles = "subtitle" in fields
        self.parts_frames = style.replace("{subtitle}", "") != "{video}"

    def __call__(self, times: Sequence[float], subtitles: Sequence[str]) -> list[FrameRun]:
        """Return the runs of a video's frames.

        Args:
            times: When the frames are shown, in seconds.
            subtitles: For each frame the text that is said up to it.
        """
        runs: list[FrameRun] = []
        text = ""  # waits for the frame behind it
        count = 0
        for number, (seconds, subtitle) in enumerate(zip(times, subtitles, strict=True), 1):
            values = {"i": number, "time": clock(seconds), "seconds": f"{seconds:.1f}", "subtitle": subtitle}
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
    """Return a time as a person writes it: ``0:07``, ``12:34``, ``1:02:03``; parts of a second are cut off."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def reference(label: str = FRAME_LABEL) -> re.Pattern[str]:
    """Return a pattern that finds a label's mentions in a reply, in any case; group 1 is the number of the frame.

    Example:
        >>> reference().findall("First frame 3: a dog. Frame 12 shows it run, as in Frames.")
        ['3', '12']
    """
    before, _ = label.split("{i}")
    name = r"[\s_-]*".join(re.escape(word) for word in before.split())
    return re.compile(rf"(?<!\w){name}[\s_-]*(\d{{1,6}})\b", re.IGNORECASE)
