"""What is worked on together: items of the same videos, several videos at a time, decoded ahead of the model.

How items are put together depends on the items and the batch size alone, so that a run that was killed, or that is
spread over processes, forms the same batches as one that was not.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import torch

from tinyvid.errors import ConfigError, DataError, VideoError
from tinyvid.evaluation.items import Benchmark, Item, ReadsTimes
from tinyvid.processing.batch import Example
from tinyvid.processing.layout import Layout
from tinyvid.processing.processor import Processor
from tinyvid.types import IGNORE_INDEX, Message, Sample, Video

Score = Literal["reply", "likelihood"]
Missing = Literal["raise", "count"]
Unit = tuple[tuple[int, ...], ...]  # for each video, or set of videos, the indices of its items
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedItem:
    """An item, laid out.

    Attributes:
        index: Of the item.
        examples: The prompt to reply to; or, to compare options, the prompt with each of them as the reply.
        options: The keys of these options, none for a prompt to reply to.
        spans: For each example with an option, the first and the last position of the option's tokens, exclusive.
    """

    index: int
    examples: tuple[Example, ...]
    options: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class VideoGroup:
    """Videos that are decoded, and all that is asked about them.

    Attributes:
        example: Carries the frames, or cached features, of the videos.
        questions: What is asked.
        video: Name of the first video.
        duration: Of its clip, in seconds.
        indices: Of the items.
        failure: Why the videos cannot be read, if so.
    """

    indices: tuple[int, ...]
    video: str
    example: Example | None = None
    questions: tuple[PreparedItem, ...] = ()
    duration: float | None = None
    failure: str = ""

    @property
    def num_frames(self) -> int:
        """Frames of all videos."""
        return sum(video.num_frames for video in self.example.videos) if self.example else 0


def plan_units(items: Sequence[Item], batch_size: int) -> list[Unit]:
    """Put items of the same videos together, and as many videos as make at most ``batch_size`` items.

    A video with more items is a unit of its own. Items without a video share nothing.
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
    """Decodes the videos of a unit and lays its items out. Holds no model, so that threads may run it ahead.

    Attributes:
        processor: Of the model that will reply.
        benchmark: Writes prompts that depend on the frames that are seen.
        items: Of the run.
        reserve: Tokens to keep free for a reply.
        score: How items with options are scored.
    """

    processor: Processor
    benchmark: Benchmark
    items: Sequence[Item]
    reserve: int
    score: Score

    def __call__(self, unit: Unit) -> list[VideoGroup]:
        """Prepare a unit; videos that cannot be read become failures.

        Raises:
            DataError: An item does not fit the LLM's context, or its text cannot be laid out: a mistake of the
                configuration, not of the model.
        """
        return [group for indices in unit for group in self._groups(indices)]

    def _groups(self, indices: tuple[int, ...]) -> list[VideoGroup]:
        """Prepare items about the same videos: one group, unless a sampler gave way to the text of some of them."""
        videos = self.items[indices[0]].sample.videos
        name = _name_of(videos[0]) if videos else ""
        try:
            questions = {index: self._written(index) for index in indices}
            by_frames: dict[tuple[tuple[int, ...], ...], list[int]] = {}
            for index, (_, written) in questions.items():
                by_frames.setdefault(written[0].layout.indices, []).append(index)
            groups = []
            for same in by_frames.values():
                first = questions[same[0]][1][0]
                example = self.processor(first.sample, reserve=first.reserve)
                duration = first.layout.clips[0].meta.duration if videos else None
                asked = tuple(self._question(index, *questions[index]) for index in same)
                groups.append(VideoGroup(tuple(same), name, example, asked, duration))
        except VideoError as error:
            return [VideoGroup(indices, name, failure=str(error))]
        return groups

    def _written(self, index: int) -> tuple[tuple[str, ...], list["PromptLayout"]]:
        """Return the options that are to be compared, if any, and the prompt, or the prompt with each of them."""
        item = self.items[index]
        sample = self._sample(item)
        if self.score == "reply" or not item.options:
            return (), [self._lay_out(sample, item.prefix, self.reserve)]
        texts = {key: key if item.rule == "choice" else text for key, text in item.options.items()}
        written = [self._lay_out(sample, item.prefix + text) for text in texts.values()]
        if len({one.layout.indices for one in written}) > 1:
            raise DataError(
                f"item '{item.id}': its options do not leave room for the same frames; lower the frames of the "
                "sampler, or use sampler.overflow=refuse"
            )
        return tuple(texts), written

    def _sample(self, item: Item) -> Sample:
        """Return the sample of an item, its prompt written once it is known which frames are seen."""
        if not isinstance(self.benchmark, ReadsTimes):
            return item.sample
        layout = self.processor.plan(item.sample)
        times = layout.clips[0].times(layout.indices[0]) if layout.clips else []
        sample = self.benchmark.sample(item, times)
        style = self.processor.template.frame
        if any(video.subtitles for video in sample.videos) and not style.shows_subtitles:
            raise ConfigError(
                f"benchmark '{self.benchmark.name}' puts subtitles between frames, and template.frame={style.style!r} "
                "leaves them out; add {subtitle} to it, or choose another benchmark.prompt_style"
            )
        return sample

    def _lay_out(self, sample: Sample, begun: str, reserve: int = 0) -> "PromptLayout":
        """Lay a prompt out with how its reply begins, with room for the rest of it."""
        if begun:
            sample = replace(sample, messages=[*sample.messages, Message("assistant", begun)])
        return PromptLayout(sample, begun, reserve, self.processor.plan(sample, reserve=reserve))

    def _question(self, index: int, options: tuple[str, ...], written: Sequence["PromptLayout"]) -> PreparedItem:
        examples, spans = zip(*map(self._example, written), strict=True)
        if options:
            return PreparedItem(index, examples, options, spans)
        # The end marker that the template put behind how the reply begins is for the model to write.
        return PreparedItem(index, tuple(_cut(example, end) for example, (_, end) in zip(examples, spans, strict=True)))

    def _example(self, written: "PromptLayout") -> tuple[Example, tuple[int, int]]:
        """Return a layout as an example without frames, and where the tokens of its beginning reply are."""
        layout = written.layout
        example = layout.without_videos(written.sample.id)
        if not written.begun:
            return example, (len(layout.input_ids), len(layout.input_ids))
        start = int((layout.labels != IGNORE_INDEX).nonzero()[0])
        return example, (start, start + self._count(layout.input_ids[start:].tolist(), written.begun))

    def _count(self, ids: list[int], text: str) -> int:
        """Return how many tokens write a text, of ids that go on with the end marker."""
        for count in range(1, len(ids)):
            if self.processor.tokenizer.decode(ids[:count]).strip() == text.strip():
                return count
        return len(ids)


@dataclass(frozen=True, slots=True, eq=False)
class PromptLayout:
    """A sample with how its reply begins, laid out so that ``reserve`` tokens stay free."""

    sample: Sample
    begun: str
    reserve: int
    layout: Layout


def _name_of(video: Video) -> str:
    """Return a video with its bounds: what two items must agree in to share a decode."""
    bounds = "" if video.start is None and video.end is None else f"#{video.start}-{video.end}"
    rate = "" if video.fps is None else f"@{video.fps:g}"
    return f"{video}{bounds}{rate}"


def _cut(example: Example, end: int) -> Example:
    """Return a prompt without what stands behind its first ``end`` tokens, and with nothing to learn."""
    ids = example.input_ids[:end]
    return replace(
        example, input_ids=ids, labels=torch.full_like(ids, IGNORE_INDEX), video_mask=example.video_mask[:end]
    )


def ahead(work: Callable[[Unit], T], units: Sequence[Unit], workers: int) -> Iterator[T]:
    """Yield what ``work`` makes of each unit, in order, ``workers`` threads a few units ahead.

    Threads rather than processes: decoding and resizing leave Python's lock, and frames need not be copied.
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
