"""The data that flows between parts: what a user gives, what a reader returns, what parts promise.

Shapes use the letters of the legend in ``tinyvid.protocols``. What the model takes is in ``tinyvid.processing.batch``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tinyvid.errors import DataError, VideoError

Overflow = Literal["refuse", "fewer_frames", "fewer_tokens"]
Role = Literal["system", "user", "assistant"]
VideoSource = str | Path | np.ndarray
IGNORE_INDEX = -100  # label value that the cross-entropy skips, as in torch and transformers


# --- what a user gives ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who speaks.
        text: What is said, free of control tokens and video markers.
        videos: How many of the sample's videos, in order, stand in front of this text. ``None`` on every message
            puts all videos in front of the first user message.
    """

    role: Role
    text: str
    videos: int | None = None

    def __post_init__(self) -> None:
        if self.role not in ("system", "user", "assistant"):
            raise DataError(f"message role {self.role!r} is unknown; use 'system', 'user' or 'assistant'")
        if not isinstance(self.text, str):
            raise DataError(f"message text must be a string, got {type(self.text).__name__}: {self.text!r}")
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"message text holds {self.text[error.start]!r} at character {error.start}, which is no character of "
                "Unicode; read the text as UTF-8"
            ) from error
        if self.videos is not None and (type(self.videos) is not int or self.videos < 0):
            raise DataError(f"message videos={self.videos!r} must be a whole number of at least 0")


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle: ``text`` is on screen from second ``start`` to second ``end``, on the clock of its video."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """Where frames come from, and which clip of it is meant.

    Attributes:
        source: A video file, an image file, a folder of frame images, or a uint8 array (T, H, W, 3).
        start: Start of the clip in seconds, from the beginning of the file; ``None`` is the beginning.
        end: End of the clip in seconds; ``None`` is the end of the file.
        fps: Frames per second of a folder or an array, which carry no clock of their own.
        subtitles: A subtitle file, or cues; they are written next to the frames, as the template says.
    """

    source: VideoSource
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    subtitles: str | Path | Sequence[Cue] | None = None

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end), ("fps", self.fps)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
                raise VideoError(f"{self}: {name}={value!r} must be a number")

    def __str__(self) -> str:
        if isinstance(self.source, np.ndarray):
            return f"array{tuple(self.source.shape)}"
        return str(self.source)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A conversation about zero or more videos: the one thing a user, a data set or a benchmark hands over.

    Attributes:
        messages: The conversation. It ends with a user message to be answered, or with an assistant message to learn.
        video: One video, several, or none (a text-only sample). See ``Video.source`` for what a video may be.
        start: Shorthand for ``Video.start`` of a single video, in seconds.
        end: Shorthand for ``Video.end`` of a single video, in seconds.
        id: Name of the sample in errors and reports.
        meta: Anything else that travels along (options, answer, group).
    """

    messages: Sequence[Message]
    video: VideoSource | Video | Sequence[VideoSource | Video] | None = None
    start: float | None = None
    end: float | None = None
    id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.messages, Sequence) or not all(isinstance(m, Message) for m in self.messages):
            raise DataError(f"sample '{self.id}': messages must be a list of Message, got {self.messages!r:.200}")

    @property
    def videos(self) -> tuple[Video, ...]:
        """The sample's videos in one form, with ``start`` and ``end`` applied.

        Raises:
            DataError: ``start`` or ``end`` is given and the sample has not exactly one plain video.
        """
        if self.video is None:
            given: list[VideoSource | Video] = []
        elif isinstance(self.video, Sequence) and not isinstance(self.video, str | bytes):
            given = list(self.video)
        else:
            given = [self.video]  # of whatever type: opening it says what it must be
        videos = tuple(v if isinstance(v, Video) else Video(v) for v in given)
        if self.start is None and self.end is None:
            return videos
        if len(videos) != 1:
            raise DataError(
                f"sample '{self.id}': start/end need exactly one video, this sample has {len(videos)}; "
                "set them on each Video instead"
            )
        if videos[0].start is not None or videos[0].end is not None:
            raise DataError(f"sample '{self.id}': start/end are set both on the Sample and on its Video; keep one")
        return (replace(videos[0], start=self.start, end=self.end),)


# --- what a reader returns --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VideoMeta:
    """What is known about a clip before a frame is decoded.

    Attributes:
        num_frames: Frames that can be asked for, indices 0 .. num_frames - 1.
        fps: Average frames per second.
        duration: Length in seconds.
        width: Pixels, after rotation metadata is applied.
        height: Pixels, after rotation metadata is applied.
    """

    num_frames: int
    fps: float
    duration: float
    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Decoded frames and when they are shown.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB.
        times: float32 (T,), seconds from the beginning of the file, non-decreasing.
    """

    frames: np.ndarray
    times: np.ndarray

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            shape = tuple(self.frames.shape)
            raise VideoError(f"frames must be a uint8 array (T, H, W, 3), got {self.frames.dtype} {shape}")
        if len(self.times) != len(self.frames):
            raise VideoError(f"a clip of {len(self.frames)} frames has {len(self.times)} times")


@dataclass(frozen=True, slots=True)
class Choice:
    """The frames of a clip that a sampler chose by looking.

    Attributes:
        indices: Non-decreasing, at least one.
        reason: Why these, in words for a report.
    """

    indices: Sequence[int]
    reason: str


# --- what parts promise -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What pixels a vision tower was trained on.

    Attributes:
        size: Side of the square input, in pixels.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
        interpolation: Resampling filter.
        resize: ``stretch`` ignores the aspect ratio, ``crop`` scales the short side and cuts the center,
            ``pad`` scales the long side and fills with the mean color.
        crop_pct: Share of the resized side that a last center cut keeps; 1 cuts nothing.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    crop_pct: float = 1.0


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """What a vision tower returns for one frame.

    Attributes:
        dim: Dv, width of a patch feature.
        num_patches: P, patches of a frame.
        grid: (rows, columns) with rows * columns = P, or ``None`` where the patches do not fill a rectangle.
    """

    dim: int
    num_patches: int
    grid: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """How many places the video tokens of a clip have in the sequence: ``fixed + per_frame * T``.

    Attributes:
        fixed: Places of the clip as a whole.
        per_frame: Places of each frame.
        most: Most places that tokens fill, where that depends on what the clip shows; ``None``: tokens fill all.
    """

    fixed: int = 0
    per_frame: int = 0
    most: int | None = None

    def __call__(self, num_frames: int) -> int:
        """Return the number of places of a clip of ``num_frames`` frames; K where tokens fill all of them."""
        return self.fixed + self.per_frame * num_frames

    def bound(self, num_frames: int) -> int:
        """Return the largest number of video tokens of a clip of ``num_frames`` frames."""
        places = self(num_frames)
        return places if self.most is None else min(places, self.most)


@dataclass(frozen=True, slots=True, eq=False)
class VideoTokens:
    """Video tokens that fill some of the places of their clip.

    Attributes:
        x: (K, D).
        place: int64 (K,), rising: which place of the budget each token fills, from 0.
    """

    x: Tensor
    place: Tensor


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """What a connector makes of a clip, and what it needs for it: all that the Processor knows of it.

    Attributes:
        budget: How many video tokens; with nothing ``fixed``, they are those of the first frame, of the second, ...
        reads_question: Whether every user turn has its own video slot, filled with its own question.
        reads_choices: Whether the choices of a multiple-choice question belong to what is read, or its stem alone.
        in_pieces: Whether frames do not see each other, so that a clip may come in pieces.
        smaller: Tokens per frame that a call can ask for in place of the budget's, in falling order.
        kept_positions: Whether tokens behind an empty place keep their positions, or the gap is closed.
    """

    budget: TokenBudget
    reads_question: bool = False
    reads_choices: bool = True
    in_pieces: bool = False
    smaller: tuple[int, ...] = ()
    kept_positions: bool = False

    @property
    def planned(self) -> TokenBudget:
        """The budget that a sample is planned with: kept positions need room for every place, filled or not."""
        return replace(self.budget, most=None) if self.kept_positions else self.budget


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the sequence: text to read, text to learn, or the place of a video."""

    kind: Literal["prompt", "reply", "video"]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the sequence that one video fills, in one run or with text between its frames.

    Attributes:
        video: Index of the video, within the sample or, after collating, within the batch.
        question: The user text that the video is asked, for connectors that read it.
        ids: The tokens of that text for the connector's text decoder; empty where there is none.
        per_frame: Tokens per frame that the connector is to make, where they are not what its budget says.
    """

    video: int
    question: str
    ids: tuple[int, ...] = ()
    per_frame: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What a connector that reads the question is given, one question at a time.

    Attributes:
        text: What the user asks.
        ids: int64 (L,), the text in tokens of the connector's text decoder; empty where it has none.
        embeddings: (L, D), how the LLM embeds ``ids``, without gradient; ``None`` unless the text decoder reads them.
        mask: bool (L,), False at padding, which stands at the end; ``None`` where there is none.
    """

    text: str
    ids: Tensor
    embeddings: Tensor | None = None
    mask: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """Which of ``ids`` are no padding: bool (L,)."""
        return torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else self.mask
