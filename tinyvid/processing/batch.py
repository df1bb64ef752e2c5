"""What the model eats and returns: a sample laid out, samples padded to one length, and the loss."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyvid.types import Slot
from tinyvid.video.lazy_pixels import LazyPixels


@dataclass(frozen=True, slots=True, eq=False)
class VideoInput:
    """One video as the model takes it: exactly one of ``pixels``, ``features`` and ``lazy`` is set.

    Attributes:
        start: Where the clip begins, in seconds of the file.
        end: Where the clip ends, in seconds of the file.
        times: When each of its T frames is shown, in seconds of the file.
        pixels: float32 (T, 3, S, S).
        features: (T, P, Dv), what the vision tower makes of the frames.
        lazy: Pixels that are decoded while the model iterates over them.
        key: Of the features in their cache; ``None`` without a cache.
    """

    start: float
    end: float
    times: tuple[float, ...]
    pixels: Tensor | None = None
    features: Tensor | None = None
    lazy: LazyPixels | None = None
    key: str | None = None

    @property
    def num_frames(self) -> int:
        """T, the frames that are shown."""
        return len(self.times)

    def to(self, device: torch.device | str) -> VideoInput:
        """Return the video with its tensors on ``device``; lazy pixels stay where they are decoded."""
        return _moved(self, device)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A sample, laid out completely.

    Attributes:
        input_ids: int64 (L,). Places of video tokens carry the pad id.
        labels: int64 (L,). The id where a reply is to be learned, -100 elsewhere.
        video_mask: bool (L,). True at places of video tokens.
        slots: Every video slot, in order of the sequence.
        videos: The videos that the slots show.
        id: Name of the sample.
        blocks: int64 (L,) of packed samples: 0 in the prefix that all share, k in the rest of the k-th sample, which
            sees the prefix and itself only. ``None`` is one sample, in which everything sees what comes before it.
    """

    input_ids: Tensor
    labels: Tensor
    video_mask: Tensor
    slots: tuple[Slot, ...] = ()
    videos: tuple[VideoInput, ...] = ()
    id: str = ""
    blocks: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Examples padded to one length.

    Attributes:
        input_ids: int64 (B, L).
        labels: int64 (B, L), -100 at padding.
        attention_mask: int64 (B, L), 0 at padding.
        video_mask: bool (B, L).
        slots: Every video slot of the batch, in order; ``Slot.video`` counts within the batch.
        videos: Every video of the batch.
        ids: Sample ids.
        blocks: int64 (B, L), as in ``Example``; 0 at padding. ``None`` where no example is packed.
        positions: int64 (B, L), where tokens stand for the LLM; ``None``: counted from the attention mask.
    """

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    video_mask: Tensor
    slots: tuple[Slot, ...] = ()
    videos: tuple[VideoInput, ...] = ()
    ids: tuple[str, ...] = ()
    blocks: Tensor | None = None
    positions: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``."""
        return replace(_moved(self, device), videos=tuple(video.to(device) for video in self.videos))


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """What the model returns: its predictions at the N label positions of a batch, in reading order.

    Attributes:
        logits: float32 (N, vocabulary).
        labels: int64 (N,), the tokens to predict.
    """

    logits: Tensor
    labels: Tensor

    @property
    def num_targets(self) -> int:
        """N, the label positions."""
        return len(self.labels)

    @property
    def loss(self) -> Tensor | None:
        """The mean cross-entropy over the label positions; ``None`` if there are none."""
        return F.cross_entropy(self.logits, self.labels) if self.num_targets else None


def _moved(record: Any, device: torch.device | str) -> Any:
    """Return a dataclass with each of its tensors on ``device``."""
    values = {item.name: getattr(record, item.name) for item in fields(record)}
    return replace(record, **{name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)})
