"""Show a laid-out sample as text: the prompt, the learned replies, and the position of each video."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from tinyvid.processing.layout import Layout
from tinyvid.processing.processor import Processor
from tinyvid.types import IGNORE_INDEX
from tinyvid.video.images import IMAGES


@dataclass(frozen=True, slots=True)
class Passage:
    """Consecutive tokens of one kind.

    Attributes:
        kind: ``prompt`` has no labels, ``reply`` has labels, ``video`` is filled with video tokens.
        text: The text with its control tokens, or a description of the video.
    """

    kind: Literal["prompt", "reply", "video"]
    text: str


def transcript(layout: Layout, processor: Processor) -> list[Passage]:
    """Return the passages of a sample in order. Every token belongs to exactly one."""
    learned, filled = (layout.labels != IGNORE_INDEX).tolist(), layout.video_mask.tolist()
    ids = layout.input_ids.tolist()
    videos = _videos(layout)
    passages: list[Passage] = []
    left, description = 0, ""  # remaining tokens of the current video, and its description
    for (is_video, is_learned), group in groupby(range(len(ids)), key=lambda place: (filled[place], learned[place])):
        places = list(group)
        if not is_video:
            text = processor.tokenizer.decode([ids[place] for place in places], skip_special_tokens=False)
            passages.append(Passage("reply" if is_learned else "prompt", text))
        while is_video and places:  # adjacent videos form one run of the mask, and a video may have several runs
            if not left:
                left, description = next(videos)
            count = min(left, len(places))
            passages.append(Passage("video", description))
            places, left, description = places[count:], left - count, "[continued]"
    return passages


def _videos(layout: Layout) -> Iterator[tuple[int, str]]:
    """Yield the number of tokens and the description of each video slot."""
    for slot in layout.slots:
        clip, indices = layout.clips[slot.video], layout.indices[slot.video]
        count = layout.plans[slot.video].num_places
        name = Path(clip.name).name
        if Path(name).suffix.lower() in IMAGES:
            yield count, f"[image {count:,} tokens of {name}]"
        else:
            first, last = ((clip.first + number) / clip.meta.fps for number in (indices[0], indices[-1]))
            frames = f"{len(indices)} frames of {name}, {first:.1f}-{last:.1f} s"
            yield count, f"[video {count:,} tokens, {frames}]"
