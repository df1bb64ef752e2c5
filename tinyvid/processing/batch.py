"""The input and output of the model: an example, a batch of examples, and predictions."""

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
    """One video as input of the model: exactly one of ``pixels``, ``features`` and ``lazy`` is set.

    Attributes:
        start: Start of the clip, in seconds of the file.
        end: End of the clip, in seconds of the file.
        times: Time of each of the T frames, in seconds of the file.
        pixels: float32 (T, 3, S, S).
        features: (T, P, Dv), the output of the vision tower.
        lazy: Pixels that are decoded while the model iterates over them.
        key: Key of the features in the cache; ``None`` without a cache.
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
        """T, the number of frames."""
        return len(self.times)

    def to(self, device: torch.device | str) -> VideoInput:
        """Return the video with its tensors on ``device``; lazy pixels are not moved."""
        return _moved(self, device)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A sample as token ids and videos, ready to be collated.

    Attributes:
        input_ids: int64 (L,). Places of video tokens carry the pad id.
        labels: int64 (L,). The token id in replies to learn, -100 elsewhere.
        video_mask: bool (L,). True at places of video tokens.
        slots: All video slots, in sequence order.
        videos: The videos of the slots.
        id: Name of the sample.
        blocks: int64 (L,), for packed samples: 0 in the shared prefix, k in the rest of the k-th sample, which attends
            only to the prefix and itself. ``None`` for a single sample with ordinary causal attention.
    """

    input_ids: Tensor
    labels: Tensor
    video_mask: Tensor
    slots: tuple[Slot, ...] = ()
    videos: tuple[VideoInput, ...] = ()
    id: str = ""
    blocks: Tensor | None = None

    @property
    def timeline(self) -> VideoInput | None:
        """The video that times and frames in a text refer to, or ``None`` without exactly one video."""
        return self.videos[0] if len(self.videos) == 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Examples padded to one length.

    Attributes:
        input_ids: int64 (B, L).
        labels: int64 (B, L), -100 at padding.
        attention_mask: int64 (B, L), 0 at padding.
        video_mask: bool (B, L).
        slots: All video slots of the batch, in order; ``Slot.video`` is an index into ``videos``.
        videos: All videos of the batch.
        ids: Sample ids.
        blocks: int64 (B, L), as in ``Example``; 0 at padding. ``None`` if no example is packed.
        positions: int64 (B, L), position ids for the LLM; ``None`` to count them from the attention mask.
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
    """The output of the model: its predictions at the N label positions of a batch, in sequence order.

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
    """Return a copy of a dataclass with its tensors on ``device``."""
    values = {item.name: getattr(record, item.name) for item in fields(record)}
    return replace(record, **{name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)})
