"""Group items by video into units, and decode units ahead of the model.

The units depend only on the items and the batch size, so a resumed run, or a run with several processes, forms the same
batches as an uninterrupted run.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
import torch

from tinyvid.data.skipped import Skipped, sources_of
from tinyvid.errors import ConfigError, DataError, VideoError, raised_as
from tinyvid.evaluation.items import Benchmark, Item, ReadsTimes, Status
from tinyvid.evaluation.running.blind import Control
from tinyvid.evaluation.scoring.references import check_key_frames
from tinyvid.processing.batch import Example
from tinyvid.processing.layout import Layout, timeline_of
from tinyvid.processing.processor import Processor
from tinyvid.text.moments import has_markers
from tinyvid.types import IGNORE_INDEX, Message, Sample, Video

Score = Literal["reply", "likelihood"]
Missing = Literal["raise", "count"]
Unit = tuple[tuple[int, ...], ...]  # for each video, or set of videos, the indices of its items
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedItem:
    """An item laid out for the model.

    Attributes:
        index: Index of the item.
        examples: The prompt, or, to compare options, the prompt with each option as the reply.
        options: Keys of these options; empty if the model writes a reply.
        spans: For each example with an option, the start and the end (exclusive) of the option's tokens.
    """

    index: int
    examples: tuple[Example, ...]
    options: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class VideoGroup:
    """Decoded videos, and all questions about them.

    Attributes:
        indices: Indices of the items.
        video: Name of the first video.
        example: An example with the frames, or the cached features, of the videos.
        questions: The items, laid out.
        duration: Duration of the first clip, in seconds.
        failure: Why the videos cannot be read, or why the prompt cannot be laid out; empty if they can.
        status: Status of the items if there is a failure.
    """

    indices: tuple[int, ...]
    video: str
    example: Example | None = None
    questions: tuple[PreparedItem, ...] = ()
    duration: float | None = None
    failure: str = ""
    status: Status = "media_failed"

    @property
    def num_frames(self) -> int:
        """Number of frames of all videos."""
        return sum(video.num_frames for video in self.example.videos) if self.example else 0


def plan_units(items: Sequence[Item], batch_size: int) -> list[Unit]:
    """Group items about the same videos, and combine videos into units of at most ``batch_size`` items.

    A video with more items forms a separate unit. Items without videos are not grouped.
    """
    videos: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        videos.setdefault(_videos_of(item.sample) or index, []).append(index)
    units: list[list[tuple[int, ...]]] = []
    size = 0
    for indices in videos.values():
        if not units or size + len(indices) > batch_size:
            units.append([])
            size = 0
        units[-1].append(tuple(indices))
        size += len(indices)
    return [tuple(unit) for unit in units]


def _videos_of(sample: Sample) -> tuple[Hashable, ...]:
    return tuple(
        (id(v.source) if isinstance(v.source, np.ndarray) else str(v.source), v.start, v.end, v.fps)
        for v in sample.videos
    )


@dataclass(frozen=True, slots=True, eq=False)
class Preparer:
    """Decode the videos of a unit, and lay out its items. It has no model, so threads can run it ahead.

    Attributes:
        processor: Processor of the model.
        benchmark: Writes prompts that depend on the selected frames.
        items: Items of the run.
        reserve: Tokens to reserve for a reply.
        score: How items with options are scored.
        listed: Items of an earlier run whose videos are not opened, by id.
        control: Reads something else in place of the videos; ``None`` for the videos.
    """

    processor: Processor
    benchmark: Benchmark
    items: Sequence[Item]
    reserve: int
    score: Score
    listed: Mapping[str, Skipped] = field(default_factory=dict)
    control: Control | None = None

    def __call__(self, unit: Unit) -> list[VideoGroup]:
        """Prepare a unit. Videos that cannot be read and prompts that do not fit become failures of their items.

        Raises:
            ConfigError: The benchmark and the template do not fit together.
        """
        return [group for indices in unit for group in self._groups(indices)]

    def _groups(self, indices: tuple[int, ...]) -> list[VideoGroup]:
        """Prepare items about the same videos: one group, unless a sampler reduced the frames of some items."""
        videos = self.items[indices[0]].sample.videos
        name = _name_of(videos[0]) if videos else ""
        known = self._listed(indices, videos)
        if known is not None:
            return [VideoGroup(indices, name, failure=known.reason)]
        groups = []
        by_frames: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        questions = {}
        for index in indices:
            try:
                with self._guard(index):
                    questions[index] = self._written(index)
                    check_key_frames(self.items[index], questions[index][1][0].layout.clips)
            except VideoError as error:
                return [VideoGroup(indices, name, failure=str(error))]
            except DataError as error:
                groups.append(VideoGroup((index,), name, failure=str(error), status="prompt_failed"))
            else:
                by_frames.setdefault(questions[index][1][0].layout.indices, []).append(index)
        for same in map(tuple, by_frames.values()):
            first = questions[same[0]][1][0]
            try:
                with self._guard(same[0]):
                    example = self._shown(first)
            except (VideoError, DataError) as error:
                groups.append(VideoGroup(same, name, failure=str(error)))
                continue
            duration = first.layout.clips[0].meta.duration if videos else None
            asked = tuple(self._question(index, *questions[index]) for index in same)
            groups.append(VideoGroup(same, name, example, asked, duration))
        return groups

    def _shown(self, first: "PromptLayout") -> Example:
        """Return a layout with its videos, or with what the control shows in place of them."""
        if self.control is None:
            return self.processor(first.sample, reserve=first.reserve)
        videos = self.control(self.processor, first.sample, first.layout)
        return replace(first.layout.without_videos(first.sample.id), videos=videos)

    def _listed(self, indices: Sequence[int], videos: Sequence[Video]) -> Skipped | None:
        """Return the entry that lists one of the videos of these items, if any."""
        entries = [self.listed[id] for id in (self.items[index].id for index in indices) if id in self.listed]
        return next((entry for entry in entries if entry.file in sources_of(videos)), None)

    def _guard(self, index: int) -> AbstractContextManager[None]:
        """Raise an unknown error about an item as a typed one, so that it costs this item only."""
        return raised_as(DataError, f"item '{self.items[index].id}'", "correct the item, its subtitles or its video")

    def _written(self, index: int) -> tuple[tuple[str, ...], list["PromptLayout"]]:
        """Return the options to compare, if any, and the layouts: the prompt, or the prompt with each option."""
        item = self.items[index]
        sample = self._sample(item)
        if self.score == "reply" or not item.options:
            return (), [self._lay_out(sample, item.prefix, self.reserve)]
        texts = {key: key if item.rule == "choice" else text for key, text in item.options.items()}
        written = [self._lay_out(sample, item.prefix + text) for text in texts.values()]
        if len({one.layout.indices for one in written}) > 1:
            raise DataError(
                f"item '{item.id}': its options do not leave room for the same frames; lower the number of frames of "
                "the sampler, or use sampler.overflow=refuse"
            )
        return tuple(texts), written

    def _sample(self, item: Item) -> Sample:
        """Return the sample of an item. Its prompt may depend on the selected frames."""
        if not isinstance(self.benchmark, ReadsTimes):
            return item.sample
        layout = self.processor.plan(item.sample)
        times = layout.clips[0].times(layout.indices[0]) if layout.clips else []
        sample = self.benchmark.sample(item, times)
        style = self.processor.template.frame
        if any(video.subtitles for video in sample.videos) and not style.shows_subtitles:
            raise ConfigError(
                f"benchmark '{self.benchmark.name}' puts subtitles between frames, but template.frame={style.style!r} "
                "omits them; add {subtitle} to it, or choose another benchmark.prompt_style"
            )
        return sample

    def _lay_out(self, sample: Sample, begun: str, reserve: int = 0) -> "PromptLayout":
        """Lay out a prompt with the beginning of its reply, and reserve tokens for the rest."""
        if begun:
            sample = replace(sample, messages=[*sample.messages, Message("assistant", begun)])
        layout = self.processor.plan(sample, reserve=reserve)
        if has_markers(begun):
            begun = self.processor.template.moments.write(begun, timeline_of(layout.clips[0], layout.plans[0]))
        return PromptLayout(sample, begun, reserve, layout)

    def _question(self, index: int, options: tuple[str, ...], written: Sequence["PromptLayout"]) -> PreparedItem:
        examples, spans = zip(*map(self._example, written), strict=True)
        if options:
            return PreparedItem(index, examples, options, spans)
        # Drop the end marker after the beginning of the reply; the model writes it.
        return PreparedItem(index, tuple(_cut(example, end) for example, (_, end) in zip(examples, spans, strict=True)))

    def _example(self, written: "PromptLayout") -> tuple[Example, tuple[int, int]]:
        """Return a layout as an example without frames, and the span of the beginning of its reply."""
        layout = written.layout
        example = layout.without_videos(written.sample.id)
        if not written.begun:
            return example, (len(layout.input_ids), len(layout.input_ids))
        start = int((layout.labels != IGNORE_INDEX).nonzero()[0])
        return example, (start, start + self._count(layout.input_ids[start:].tolist(), written.begun))

    def _count(self, ids: list[int], text: str) -> int:
        """Return how many of the first ids encode a text; the end marker follows them."""
        for count in range(1, len(ids)):
            if self.processor.tokenizer.decode(ids[:count]).strip() == text.strip():
                return count
        return len(ids)


@dataclass(frozen=True, slots=True, eq=False)
class PromptLayout:
    """The layout of a sample with the beginning of its reply, and with ``reserve`` tokens left free."""

    sample: Sample
    begun: str
    reserve: int
    layout: Layout


def _name_of(video: Video) -> str:
    """Return the name of a video with its bounds; items with the same name share a decode."""
    bounds = "" if video.start is None and video.end is None else f"#{video.start}-{video.end}"
    rate = "" if video.fps is None else f"@{video.fps:g}"
    return f"{video}{bounds}{rate}"


def _cut(example: Example, end: int) -> Example:
    """Return the first ``end`` tokens of an example, without labels."""
    ids = example.input_ids[:end]
    return replace(
        example, input_ids=ids, labels=torch.full_like(ids, IGNORE_INDEX), video_mask=example.video_mask[:end]
    )


def ahead(work: Callable[[Unit], T], units: Sequence[Unit], workers: int) -> Iterator[T]:
    """Yield the results of ``work`` on units, in order, computed ahead by ``workers`` threads.

    Threads suffice, because decoding and resizing release the GIL, and they do not copy frames.
    """
    if workers < 1:
        yield from map(work, units)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[Future[T]] = deque()
    try:
        rest = iter(units)
        for unit in rest:
            waiting.append(pool.submit(work, unit))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
