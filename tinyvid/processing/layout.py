"""Lay out samples as sequences of tokens before decoding, check them, and pack several into one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from tinyvid.errors import ConfigError, DataError
from tinyvid.processing.batch import Example, VideoInput
from tinyvid.processing.planner import Plans, VideoPlan
from tinyvid.protocols import ChatTemplate
from tinyvid.text.frame_text import FrameRun, FrameText
from tinyvid.text.moments import MomentError, Moments, has_markers
from tinyvid.text.subtitles import place, read_subtitles
from tinyvid.types import IGNORE_INDEX, Cue, Message, Sample, Segment, Slot, TokenBudget, Video
from tinyvid.video.open_video import Clip


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A sample as a sequence of tokens, before decoding; fields are as in ``Example``.

    Attributes:
        clips: The opened videos of the sample.
        plans: The plan of each video: its chosen frames and their budget.
    """

    input_ids: Tensor
    labels: Tensor
    video_mask: Tensor
    slots: tuple[Slot, ...]
    clips: tuple[Clip, ...]
    plans: Plans
    blocks: Tensor | None = None

    @property
    def indices(self) -> tuple[tuple[int, ...], ...]:
        """The chosen frames of each video, counted from the first frame of its clip."""
        return tuple(plan.indices for plan in self.plans)

    @property
    def num_shared(self) -> int:
        """The number of tokens up to the last video token, which samples about the same videos can share."""
        places = self.video_mask.nonzero()
        return int(places[-1]) + 1 if len(places) else 0

    @property
    def num_video(self) -> int:
        """The maximum number of video tokens of the sample."""
        return sum(self.plans[slot.video].most_tokens for slot in self.slots)

    @property
    def length(self) -> int:
        """The maximum number of tokens of the sample, text and video."""
        return int((~self.video_mask).sum()) + self.num_video

    def without_videos(self, id: str) -> Example:
        """Return an example with this id, without videos."""
        return Example(self.input_ids, self.labels, self.video_mask, self.slots, id=id, blocks=self.blocks)


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one kind: text ``ids``, which are ``learned`` or only read, or ``num_video`` places."""

    ids: Sequence[int] = ()
    learned: bool = False
    num_video: int = 0


def pieces_of(
    segments: Sequence[Segment],
    slots: Sequence[Slot],
    runs: Mapping[int, Sequence[FrameRun]],
    plans: Plans,
    tokenize: Callable[[list[str]], list[list[int]]],
) -> list[Piece]:
    """Tokenize the segments of a conversation; a video is split where there is text between its frames.

    There is one slot per video segment, in order, and one plan and one list of runs per video.
    """
    pieces: list[Piece] = []
    waiting = iter(slots)
    for segment in segments:
        if segment.kind != "video":
            pieces.append(Piece(tokenize([segment.text])[0], learned=segment.kind == "reply"))
            continue
        video = next(waiting).video
        plan = plans[video]
        if not any(run.text for run in runs[video]):
            pieces.append(Piece(num_video=plan.num_places))
            continue
        texts = [run.text for run in runs[video]]
        for ids, run in zip(tokenize(texts), runs[video], strict=True):
            pieces += [Piece(ids), Piece(num_video=plan.budget.per_frame * run.num_frames)]
    return pieces


def with_headings(
    segments: Sequence[Segment],
    slots: Sequence[Slot],
    runs: Mapping[int, Sequence[FrameRun]],
    plans: Plans,
    style: FrameText,
) -> tuple[list[Segment], dict[int, list[FrameRun]]]:
    """Return segments with the heading of each video before it, and the runs that remain; arguments as ``pieces_of``.

    A heading is one text with its surroundings, up to the first frame, because a tokenizer may merge their characters.
    """
    if not style.heading:
        return list(segments), {video: list(parts) for video, parts in runs.items()}
    heads, rests = {}, {}
    for video, (first, *rest) in runs.items():
        heads[video] = style.head(len(plans[video].indices), plans[video].duration) + first.text
        rests[video] = [replace(first, text=""), *rest]
    headed: list[Segment] = []
    waiting = iter(slots)
    for segment in segments:
        if segment.kind == "video":
            before = headed.pop().text if headed and headed[-1].kind == "prompt" else ""
            headed.append(Segment("prompt", before + heads[next(waiting).video]))
        headed.append(segment)
    return headed, rests


def joined(pieces: Sequence[Piece], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Concatenate pieces, and return ids, labels and the mask of video tokens, each (L,)."""
    ids: list[int] = []
    labels: list[int] = []
    mask: list[bool] = []
    for piece in pieces:
        new = [pad_id] * piece.num_video + list(piece.ids)
        ids += new
        labels += new if piece.learned else [IGNORE_INDEX] * len(new)
        mask += [piece.num_video > 0] * len(new)
    return torch.tensor(ids), torch.tensor(labels), torch.tensor(mask, dtype=torch.bool)


def cues_of(video: Video, style: FrameText) -> tuple[Cue, ...]:
    """Return the subtitles of a video, sorted by start; empty if the template does not show them.

    Raises:
        DataError: The subtitle file cannot be read.
    """
    if video.subtitles is None or not style.shows_subtitles:
        return ()
    if isinstance(video.subtitles, str | Path):
        return read_subtitles(video.subtitles)
    return tuple(sorted(video.subtitles, key=lambda cue: cue.start))


def check_style(style: FrameText, budget: TokenBudget) -> None:
    """Raise ``ConfigError`` if a template puts text between frames but the connector has no tokens per frame."""
    if style.splits_frames and budget.fixed:
        raise ConfigError(
            f"template.frame={style.style!r} puts text between frames, but {_for_all_frames(budget)}, or "
            "template.frame='{video}{subtitle}'"
        )


def _for_all_frames(budget: TokenBudget) -> str:
    """Return why the tokens of a connector do not belong to single frames, and what to use instead."""
    if budget.per_frame:
        return "connector.newline=true adds a token after the last frame; use connector.newline=false"
    return (
        f"this connector makes {budget.fixed} tokens for all frames together; use connector=mlp or llamavid, with no "
        "reducer or one for single frames such as drop"
    )


def with_moments(messages: Sequence[Message], clips: Sequence[Clip], plans: Plans, moments: Moments) -> list[Message]:
    """Return the messages with the words of the model instead of markers.

    Raises:
        MomentError: A marker is malformed or lies outside the clip, or the sample does not have exactly one video.
    """
    written: list[Message] = []
    timeline: VideoInput | None = None
    for number, message in enumerate(messages):
        try:
            if not has_markers(message.text):
                written.append(message)
                continue
            if len(clips) != 1:
                raise MomentError(f"a marker needs a sample with exactly one video, but this one has {len(clips)}")
            timeline = timeline or timeline_of(clips[0], plans[0])
            ends = (*message.places, len(message.text))
            parts = [message.text[start:end] for start, end in zip((0, *message.places), ends, strict=True)]
            parts = [moments.write(part, timeline) for part in parts]
        except MomentError as error:
            raise MomentError(f"message {number} ({message.role}): {error}") from error
        places = tuple(accumulate(len(part) for part in parts))[:-1]
        written.append(replace(message, text="".join(parts), places=places))
    return written


def timeline_of(clip: Clip, plan: VideoPlan) -> VideoInput:
    """Return the bounds of a clip and the times of its chosen frames, without pixels."""
    return VideoInput(clip.start, clip.end, tuple(clip.times(plan.indices)))


def runs_of(video: Video, clip: Clip, plan: VideoPlan, cues: Sequence[Cue], template: ChatTemplate) -> list[FrameRun]:
    """Return the frames of a video as runs, with the text between them.

    Raises:
        DataError: There are subtitles between frames, but the connector has no tokens per frame.
    """
    style, moments = template.frame, template.moments
    if not cues and not style.splits_frames:
        return [FrameRun("", len(plan.indices))]
    timeline = timeline_of(clip, plan)
    times = timeline.times
    at = [moments.time(second, timeline) for second in times] if style.shows_moments else []
    runs = style(times, place(cues, times, start=video.start, end=video.end), at)
    if plan.budget.fixed and any(run.text for run in runs):
        raise DataError(
            f"{video}: its subtitles go between frames, but {_for_all_frames(plan.budget)}, or "
            "template.frame='{video}' to omit subtitles"
        )
    return runs


def videos_per_message(messages: Sequence[Message], num_videos: int, *, every_turn: bool) -> list[list[int]]:
    """Return, for each message, the indices of the videos before its text.

    Args:
        messages: The conversation; ``Message.videos`` is the number of videos that a user turn introduces.
        num_videos: Number of videos of the sample.
        every_turn: Whether a user turn repeats all videos introduced so far.

    Raises:
        DataError: The numbers do not add up to ``num_videos``, or another role than the user has videos.
    """
    counts = [message.videos or 0 for message in messages]
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    if all(message.videos is None for message in messages) and users:
        counts[users[0]] = num_videos
    if sum(counts) != num_videos:
        raise DataError(
            f"the messages show {sum(counts)} videos, but the sample has {num_videos}; set Message.videos to match"
        )
    shown: list[list[int]] = []
    seen = 0
    for message, count in zip(messages, counts, strict=True):
        if count and message.role != "user":
            raise DataError(f"a message of role '{message.role}' shows a video; only user turns can show videos")
        first = 0 if every_turn and message.role == "user" else seen
        seen += count
        shown.append(list(range(first, seen)))
    return shown


def same_videos(sample: Sample, other: Sample) -> bool:
    """Return whether two samples show the same videos; arrays are compared by identity."""

    def described(video: Video) -> tuple[object, ...]:
        source = video.source if isinstance(video.source, str | Path) else id(video.source)
        subtitles = video.subtitles if isinstance(video.subtitles, str | Path | None) else id(video.subtitles)
        return source, video.start, video.end, video.fps, subtitles

    return list(map(described, sample.videos)) == list(map(described, other.videos))


def check_prefix(layout: Layout, first: Layout) -> None:
    """Raise ``DataError`` if a sample does not share the prefix of the first one, or learns in the prefix."""
    shared = first.num_shared
    if layout.clips is not first.clips or not shared:
        raise DataError("packed samples must show the same videos, and at least one; group the rows by video")
    if layout.num_shared != shared or not torch.equal(layout.input_ids[:shared], first.input_ids[:shared]):
        raise DataError("packed samples must have the same text before the videos; use the same system message")
    if (layout.labels[: shared + 1] != IGNORE_INDEX).any():
        raise DataError(
            "a reply directly after or before a video cannot be packed; choose a template that puts text between the "
            "video and the reply, or set recipe.pack=1"
        )


def packed(layouts: Sequence[Layout]) -> Layout:
    """Join layouts with a shared prefix into one: the prefix, then the rest of each layout."""
    first = layouts[0]
    shared = first.num_shared
    rests = [slice(0, None), *[slice(shared, None)] * (len(layouts) - 1)]

    def join(name: str) -> Tensor:
        return torch.cat([getattr(layout, name)[rest] for layout, rest in zip(layouts, rests, strict=True)])

    lengths = torch.tensor([shared, *[len(layout.input_ids) - shared for layout in layouts]])
    return replace(
        first,
        input_ids=join("input_ids"),
        labels=join("labels"),
        video_mask=join("video_mask"),
        blocks=torch.arange(len(lengths)).repeat_interleave(lengths),
    )
