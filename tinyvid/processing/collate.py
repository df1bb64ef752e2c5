"""Collate examples into a batch, and remove places without a video token from a batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyvid.errors import DataError
from tinyvid.processing.batch import Batch, Example, VideoInput
from tinyvid.types import IGNORE_INDEX, Slot


def collate(examples: Sequence[Example], *, pad_id: int, padding_side: str = "right") -> Batch:
    """Pad examples to one length with ``pad_id``: on the right for training, on the left for generation."""
    if padding_side not in ("left", "right"):
        raise DataError(f"padding_side={padding_side!r} is unknown; use 'left' or 'right'")
    if not examples:
        raise DataError("a batch needs at least one example")
    packed = any(e.blocks is not None for e in examples)
    if packed and padding_side == "left":
        raise DataError("packed examples are only for training and need padding_side='right'; to generate, do not pack")
    length = max(len(e.input_ids) for e in examples)

    def pad(tensors: list[Tensor], value: int | bool) -> Tensor:
        gaps = [length - len(t) for t in tensors]
        return torch.stack(
            [
                F.pad(t, (gap, 0) if padding_side == "left" else (0, gap), value=value)
                for t, gap in zip(tensors, gaps, strict=True)
            ]
        )

    slots: list[Slot] = []
    videos: list[VideoInput] = []
    for example in examples:
        slots += [replace(slot, video=len(videos) + slot.video) for slot in example.slots]
        videos += example.videos
    return Batch(
        input_ids=pad([e.input_ids for e in examples], pad_id),
        labels=pad([e.labels for e in examples], IGNORE_INDEX),
        attention_mask=pad([torch.ones_like(e.input_ids) for e in examples], 0),
        video_mask=pad([e.video_mask for e in examples], False),
        slots=tuple(slots),
        videos=tuple(videos),
        ids=tuple(e.id for e in examples),
        blocks=pad([_blocks(e) for e in examples], 0) if packed else None,
    )


def without_empty(batch: Batch, filled: Tensor, *, padding_side: str = "right", keep_positions: bool = False) -> Batch:
    """Remove the places without a video token from a batch.

    Args:
        batch: A batch with all places of the budget.
        filled: bool (places,), in the order of ``batch.video_mask``: whether a token fills the place.
        padding_side: The padding side of the batch.
        keep_positions: Whether tokens after an empty place keep their positions; otherwise the gap is closed.

    Returns:
        The batch cropped to its longest row, or the same object if every place is filled.
    """
    if bool(filled.all()):
        return batch
    kept = batch.attention_mask.bool()  # (B, L)
    kept = kept.masked_scatter(batch.video_mask, filled.to(kept.device))
    length = int(kept.sum(-1).max())
    side = slice(-length, None) if padding_side == "left" else slice(0, length)
    rank = kept.int() if padding_side == "left" else (~kept).int()  # removed tokens go to the padding side
    order = rank.argsort(dim=-1, stable=True)[:, side]  # (B, length)
    real = kept.gather(1, order)  # (B, length)

    def gather(tensor: Tensor, padding: int | bool) -> Tensor:
        return tensor.gather(1, order).masked_fill(~real, padding)

    return replace(
        batch,
        input_ids=batch.input_ids.gather(1, order),  # removed places already have the pad id
        labels=gather(batch.labels, IGNORE_INDEX),
        attention_mask=real.to(batch.attention_mask.dtype),
        video_mask=gather(batch.video_mask, False),
        blocks=None if batch.blocks is None else gather(batch.blocks, 0),
        positions=gather(positions_of(batch), 0) if keep_positions else None,
    )


def positions_of(batch: Batch) -> Tensor:
    """Return the position ids of a batch for the LLM: int64 (B, L).

    Positions start at the first real token, so left and right padding give the same numbers. Each packed sample
    continues from the end of the shared prefix.
    """
    if batch.positions is not None:
        return batch.positions
    index = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)  # (B, L)
    if batch.blocks is None:
        return index
    blocks = batch.blocks
    begins = F.pad(blocks[:, 1:] != blocks[:, :-1], (1, 0), value=True)  # (B, L)
    start = torch.where(begins, index, 0).cummax(dim=-1).values  # (B, L): the start of the block of each token
    prefix = ((blocks == 0) & batch.attention_mask.bool()).sum(-1, keepdim=True)  # (B, 1)
    return torch.where(blocks == 0, index, prefix + index - start)


def _blocks(example: Example) -> Tensor:
    return torch.zeros_like(example.input_ids) if example.blocks is None else example.blocks
