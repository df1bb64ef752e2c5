"""Show something else in place of the clip, to measure how much of an accuracy depends on seeing it.

The frames are replaced after they are sampled: prompts, times, token budgets and names stay those of the clip. What is
shown is read like any video, so caches store it under the content and the frames that it has.
"""

import copy
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from tinyvid.errors import ConfigError
from tinyvid.evaluation.items import Benchmark, Item
from tinyvid.files import expanded
from tinyvid.processing.batch import VideoInput
from tinyvid.processing.layout import Layout
from tinyvid.processing.processor import Processor
from tinyvid.types import Sample, Video
from tinyvid.video.open_video import Clip, open_video

Blind = Literal["black", "other", "middle", "shuffled", "reversed"]
CONTROLS: tuple[Blind, ...] = get_args(Blind)


def blinded(benchmark: Any, *, blind: Blind | None = None) -> Any:
    """Return a benchmark that asks the same with something else in place of each clip.

    Args:
        benchmark: The benchmark; it is not changed.
        blind: ``black`` frames, frames of an ``other`` video of the run, the ``middle`` sampled frame in place of all,
            or the sampled frames ``shuffled`` or ``reversed``; ``None`` shows the clip.
    """
    if blind is None:
        return benchmark
    benchmark = copy.copy(benchmark)
    benchmark.blind = blind
    return benchmark


def blind_of(benchmark: Benchmark) -> Blind | None:
    """Return what a benchmark shows in place of each clip; ``None`` for the clip."""
    return getattr(benchmark, "blind", None)


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """Reads something else in place of the videos of a sample.

    Attributes:
        blind: What to show.
        videos: One video of each source of the run, by source, for ``other``.
    """

    blind: Blind
    videos: Mapping[str, Video] = field(default_factory=dict)

    @classmethod
    def of(cls, benchmark: Benchmark, items: Sequence[Item], *, listed: Sequence[str] = ()) -> "Control | None":
        """Return the control of a run, or ``None`` if the benchmark shows the clips.

        Args:
            benchmark: The benchmark.
            items: Items of the run.
            listed: Ids of the items whose videos are not opened.

        Raises:
            ConfigError: No item has a video, or there is no ``other`` video for an item.
        """
        blind = blind_of(benchmark)
        if blind is None:
            return None
        if not any(item.sample.videos for item in items):
            raise ConfigError(
                f"benchmark.blind={blind} replaces videos, but no item of benchmark '{benchmark.name}' has one; set "
                "benchmark.blind=null"
            )
        videos: dict[str, Video] = {}
        for item in items if blind == "other" else ():
            for video in item.sample.videos:
                if item.id not in listed and _exists(video):
                    videos.setdefault(_source(video), video)
        for item in items if blind == "other" else ():
            if videos.keys() <= set(map(_source, item.sample.videos)):
                raise ConfigError(
                    f"benchmark.blind=other shows another video of the run, but it has none for item '{item.id}' of "
                    f"benchmark '{benchmark.name}'; ask about more videos, or show something else"
                )
        return cls(blind, videos)

    def __call__(self, processor: Processor, sample: Sample, layout: Layout) -> tuple[VideoInput, ...]:
        """Return the input for the videos of a sample, with the times and the number of frames of its layout.

        Raises:
            VideoError: A video cannot be read.
        """
        return tuple(
            self._video(processor, sample, *parts)
            for parts in zip(sample.videos, layout.clips, layout.indices, strict=True)
        )

    def _video(
        self, processor: Processor, sample: Sample, video: Video, clip: Clip, indices: tuple[int, ...]
    ) -> VideoInput:
        shown, opened, chosen = video, clip, indices
        if self.blind == "black":
            shown, chosen = Video(np.zeros((1, clip.meta.height, clip.meta.width, 3), np.uint8)), (0,) * len(indices)
            opened = open_video(shown, processor.reader)
        elif self.blind == "other":
            shown = self._other(video, sample)
            opened = open_video(shown, processor.reader)
            chosen = _spread(indices, clip.meta.num_frames, opened.meta.num_frames)
        elif self.blind == "middle":
            chosen = (indices[len(indices) // 2],) * len(indices)
        elif self.blind == "reversed":
            chosen = indices[::-1]
        else:
            chosen = shuffled(indices, seed=f"{os.path.basename(str(video))} {video.start} {video.end}")
        read = processor.video(shown, opened, chosen)
        return replace(read, start=clip.start, end=clip.end, times=tuple(clip.times(indices)))

    def _other(self, video: Video, sample: Sample) -> Video:
        """Return the next video of the run whose source is not part of the sample."""
        sources, own = [*self.videos], set(map(_source, sample.videos))
        first = sources.index(_source(video)) + 1 if _source(video) in self.videos else 0
        return self.videos[next(source for source in [*sources[first:], *sources[:first]] if source not in own)]


def shuffled(indices: Sequence[int], *, seed: str) -> tuple[int, ...]:
    """Return frames in another order, which depends only on the seed; the same order if all are the same frame."""
    chosen = list(indices)
    generator = random.Random(seed)
    while len(set(indices)) > 1 and chosen == list(indices):
        generator.shuffle(chosen)
    return tuple(chosen)


def _spread(indices: Sequence[int], count: int, others: int) -> tuple[int, ...]:
    """Return the frames of a video with ``others`` frames at the places of ``indices`` in one with ``count``."""
    return tuple(round(index * (others - 1) / max(1, count - 1)) for index in indices)


def _source(video: Video) -> str:
    """Return what tells the sources of videos apart."""
    source = video.source
    return f"array {id(source)}" if isinstance(source, np.ndarray) else os.path.realpath(expanded(source))


def _exists(video: Video) -> bool:
    return isinstance(video.source, np.ndarray) or os.path.exists(expanded(video.source))
