"""What the model eats and returns: a sample laid out, samples padded to one length, and the loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tinyvid.types import Slot


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A sample, laid out completely.

    Attributes:
        input_ids: int64 (L,). Positions that video tokens will fill carry the pad id.
        labels: int64 (L,). The id where a reply is to be learned, -100 elsewhere.
        video_mask: bool (L,). True where a video token goes.
        pixels: float32 (sum of T, 3, S, S), the frames of the videos that have neither features nor a stream, end to
            end, or ``None``.
        num_frames: T of each video.
        slots: Every video slot, in order of the sequence.
        id: Name of the sample.
        features: For each video its cached tower features (T, P, Dv), or ``None``; empty stands for all ``None``.
        feature_keys: For each video the key to keep its features under, or ``None``; empty stands for all ``None``.
        blocks: int64 (L,) of packed samples: 0 in the prefix that all share, k in the rest of the k-th sample, which
            sees the prefix and itself only. ``None`` is one sample, in which everything sees what comes before it.
        streams: For each video its pixels, decoded while they are iterated over in pieces (t, 3, S, S), or ``None``;
            empty stands for all ``None``.
    """

    input_ids: Tensor
    labels: Tensor
    video_mask: Tensor
    pixels: Tensor | None
    num_frames: tuple[int, ...]
    slots: tuple[Slot, ...]
    id: str = ""
    features: tuple[Tensor | None, ...] = ()
    feature_keys: tuple[str | None, ...] = ()
    blocks: Tensor | None = None
    streams: tuple[Iterable[Tensor] | None, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Examples padded to one length.

    Attributes:
        input_ids: int64 (B, L).
        labels: int64 (B, L), -100 at padding.
        attention_mask: int64 (B, L), 0 at padding.
        video_mask: bool (B, L).
        pixels: As in ``Example``, over the videos of the batch.
        num_frames: T of every video of the batch.
        slots: Every video slot of the batch, in order; ``Slot.video`` counts within the batch.
        ids: Sample ids.
        features: As in ``Example``, over the videos of the batch.
        feature_keys: As in ``Example``, over the videos of the batch.
        blocks: int64 (B, L), as in ``Example``; 0 at padding. ``None`` where no example is packed.
        streams: As in ``Example``, over the videos of the batch.
    """

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    video_mask: Tensor
    pixels: Tensor | None
    num_frames: tuple[int, ...]
    slots: tuple[Slot, ...]
    ids: tuple[str, ...] = ()
    features: tuple[Tensor | None, ...] = ()
    feature_keys: tuple[str | None, ...] = ()
    blocks: Tensor | None = None
    streams: tuple[Iterable[Tensor] | None, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            labels=self.labels.to(device),
            attention_mask=self.attention_mask.to(device),
            video_mask=self.video_mask.to(device),
            pixels=None if self.pixels is None else self.pixels.to(device),
            features=tuple(None if clip is None else clip.to(device) for clip in self.features),
            blocks=None if self.blocks is None else self.blocks.to(device),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """What a training step needs.

    Attributes:
        loss: Mean cross-entropy over the label positions, or ``None`` when the batch has none.
        logits: (N, vocabulary), one row per label position of the batch, in reading order.
        num_targets: N.
    """

    loss: Tensor | None
    logits: Tensor
    num_targets: int
