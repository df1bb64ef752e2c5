"""The data that parts exchange, in this order: user input, decoded frames, specifications of parts.

Shape letters are explained in ``tinyvid.protocols``. The model's input is in ``tinyvid.processing.batch``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tinyvid.errors import DataError, VideoError

if TYPE_CHECKING:  # a process that only reads videos imports no torch, which takes seconds
    from torch import Tensor

Overflow = Literal["refuse", "fewer_frames", "fewer_tokens"]
Role = Literal["system", "user", "assistant"]
VideoSource = str | Path | np.ndarray
IGNORE_INDEX = -100  # label that the cross-entropy loss skips, as in torch and transformers


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: The speaker.
        text: The content, without control tokens or video markers.
        videos: How many of the sample's videos, in order, come with this text. ``None`` on every message puts all
            videos before the first user message.
        places: The position in ``text`` of each of these videos, in characters; empty if all come before the text.
        loss: Whether training learns this reply, or only reads it.
    """

    role: Role
    text: str
    videos: int | None = None
    places: tuple[int, ...] = ()
    loss: bool = True

    def __post_init__(self) -> None:
        if self.role not in ("system", "user", "assistant"):
            raise DataError(f"message role {self.role!r} is unknown; use 'system', 'user' or 'assistant'")
        if not isinstance(self.text, str):
            raise DataError(f"message text must be a string, got {type(self.text).__name__}: {self.text!r}")
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            where = f"{self.text[error.start]!r} at character {error.start}"
            raise DataError(f"message text contains invalid Unicode: {where}; read the text as UTF-8") from error
        if self.videos is not None and (type(self.videos) is not int or self.videos < 0):
            raise DataError(f"message videos={self.videos!r} must be a whole number of at least 0")
        inside = [0, *self.places, len(self.text)]
        if self.places and (len(self.places) != self.videos or inside != sorted(inside)):
            length = f"a text of {len(self.text)} characters"
            raise DataError(f"message places={self.places!r} must be {self.videos} positions in {length}, in order")


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle: ``text`` is shown from ``start`` to ``end``, in seconds from the beginning of the video file."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """A source of frames, and the clip of it to use.

    Attributes:
        source: A video file, an image file, a folder of frame images, or a uint8 array (T, H, W, 3).
        start: Start of the clip in seconds, from the beginning of the file; ``None`` is the beginning.
        end: End of the clip in seconds; ``None`` is the end of the file.
        fps: Frames per second of a folder or an array, which have no timestamps.
        subtitles: A subtitle file, or cues. ``template.frame`` determines how they are written.
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
        return f"array{self.source.shape}" if isinstance(self.source, np.ndarray) else str(self.source)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A conversation about zero or more videos. Users, data sets and benchmarks all provide samples.

    Attributes:
        messages: The conversation. It ends with a user message to answer or an assistant message to learn.
        video: One video, several, or none (a text-only sample). ``Video.source`` lists what can be a video.
        start: Shorthand for ``Video.start`` of a single video, in seconds.
        end: Shorthand for ``Video.end`` of a single video, in seconds.
        id: Name of the sample in errors and reports.
        meta: Additional fields, such as options, answer and group.
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
        """The sample's videos as ``Video`` objects, with ``start`` and ``end`` applied.

        Raises:
            DataError: ``start`` or ``end`` is set, but the sample does not have exactly one video without bounds.
        """
        if self.video is None:
            given: list[VideoSource | Video] = []
        elif isinstance(self.video, Sequence) and not isinstance(self.video, str | bytes):
            given = list(self.video)
        else:
            given = [self.video]  # opening it reports a wrong type
        videos = tuple(v if isinstance(v, Video) else Video(v) for v in given)
        if self.start is None and self.end is None:
            return videos
        if len(videos) != 1:
            raise DataError(
                f"sample '{self.id}': start/end need exactly one video, but this sample has {len(videos)}; "
                "set them on each Video instead"
            )
        if videos[0].start is not None or videos[0].end is not None:
            raise DataError(f"sample '{self.id}': start/end are set on both the Sample and its Video; keep one")
        return (replace(videos[0], start=self.start, end=self.end),)


@dataclass(frozen=True, slots=True)
class VideoMeta:
    """The properties of a clip that are known before a frame is decoded.

    Attributes:
        num_frames: Number of frames; indices are 0 to num_frames - 1.
        fps: Average frames per second.
        duration: Length in seconds.
        width: In pixels, after rotation.
        height: In pixels, after rotation.
        times: float64 (num_frames,), time of each frame, in seconds after the start; ``None`` for a constant rate.
    """

    num_frames: int
    fps: float
    duration: float
    width: int
    height: int
    times: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Decoded frames and their times.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB.
        times: float32 (T,), seconds from the beginning of the file.
    """

    frames: np.ndarray
    times: np.ndarray

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise VideoError(f"frames must be a uint8 array (T, H, W, 3), got {self.frames.dtype} {self.frames.shape}")
        if len(self.times) != len(self.frames):
            raise VideoError(f"got {len(self.times)} times for {len(self.frames)} frames; give one time per frame")


@dataclass(frozen=True, slots=True)
class Choice:
    """The frames that a ``LookingSampler`` chose.

    Attributes:
        indices: Non-decreasing, at least one.
        reason: Why they were chosen, for reports.
    """

    indices: Sequence[int]
    reason: str


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The pixels that a vision tower was trained on.

    Attributes:
        size: Side of the square input, in pixels.
        mean: Mean of each channel, for values in [0, 1].
        std: Standard deviation of each channel, for values in [0, 1].
        interpolation: Resampling filter.
        resize: ``stretch`` ignores the aspect ratio, ``crop`` scales the short side and crops the center,
            ``pad`` scales the long side and fills the rest with the mean color.
        crop_pct: Fraction of the resized side that the final center crop keeps; 1 keeps all.
        longest_edge: Longer side after a first resize, which keeps the aspect ratio; ``None`` for a single resize.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    crop_pct: float = 1.0
    longest_edge: int | None = None


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """What a vision tower returns for one frame.

    Attributes:
        dim: Dv, width of a patch feature.
        num_patches: P, patches of a frame.
        grid: (rows, columns) with rows * columns = P, or ``None`` if the patches do not form a rectangle.
    """

    dim: int
    num_patches: int
    grid: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """The number of places of a clip in the sequence: ``fixed + per_frame * T``.

    Attributes:
        fixed: Places for the clip as a whole.
        per_frame: Places for each frame.
        most: Maximum number of places filled, if it depends on the content of the clip; ``None`` if all are filled.
    """

    fixed: int = 0
    per_frame: int = 0
    most: int | None = None

    def __call__(self, num_frames: int) -> int:
        """Return the number of places for ``num_frames`` frames; this is K if all places are filled."""
        return self.fixed + self.per_frame * num_frames

    def bound(self, num_frames: int) -> int:
        """Return the maximum number of video tokens for ``num_frames`` frames."""
        return self(num_frames) if self.most is None else min(self(num_frames), self.most)


@dataclass(frozen=True, slots=True, eq=False)
class VideoTokens:
    """Video tokens that fill only some of the places of a clip.

    Attributes:
        x: (K, D); (K, Dv) from a reducer.
        frame: int64 (K,), the frame that each token shows, from 0; the first one if it shows several.
        place: int64 (K,), increasing: the place that each token fills, from 0.
    """

    x: Tensor
    frame: Tensor
    place: Tensor


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """What a connector returns for a clip and what it needs: all that the Processor knows about it.

    Attributes:
        budget: Number of video tokens. With ``fixed=0``, they are ordered by frame.
        reads_question: Whether every user turn has its own video slot, whose tokens depend on its question.
        reads_choices: Whether a multiple-choice question is read with its choices, or without them.
        in_pieces: Whether a clip can come in pieces: frames are independent, and fixed tokens last and always the same.
        smaller: Other values of ``per_frame`` that a call can request, in decreasing order.
        kept_positions: Whether tokens after an empty place keep their positions, or the gap is closed.
    """

    budget: TokenBudget
    reads_question: bool = False
    reads_choices: bool = True
    in_pieces: bool = False
    smaller: tuple[int, ...] = ()
    kept_positions: bool = False

    @property
    def planned(self) -> TokenBudget:
        """The budget for planning a sample. Kept positions need room for every place, filled or not."""
        return replace(self.budget, most=None) if self.kept_positions else self.budget


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the sequence: text to read, text to learn, or a video slot."""

    kind: Literal["prompt", "reply", "video"]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one video stands in the sequence, in one run or with text between its frames.

    Attributes:
        video: Index of the video in the sample or, after collating, in the batch.
        question: The text of the user turn, for connectors that read the question.
        ids: The question in tokens of the connector's text decoder; empty without a text decoder.
        per_frame: Tokens per frame to request from the connector; ``None`` for its budget.
    """

    video: int
    question: str
    ids: tuple[int, ...] = ()
    per_frame: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One question, for a connector that reads it.

    Attributes:
        text: The text of the user turn.
        ids: int64 (L,), the text in tokens of the connector's text decoder; empty without a text decoder.
        embeddings: (L, D), the LLM's embeddings of ``ids``, detached; ``None`` unless the text decoder reads them.
        mask: bool (L,), False at padding, which is at the end; ``None`` without padding.
    """

    text: str
    ids: Tensor
    embeddings: Tensor | None = None
    mask: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """True where ``ids`` are not padding: bool (L,)."""
        return self.ids == self.ids if self.mask is None else self.mask
