"""Examples to a batch: padded to one length, their videos counted through."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyvid.errors import DataError
from tinyvid.processing.batch import Batch, Example
from tinyvid.types import IGNORE_INDEX, Slot


def collate(examples: Sequence[Example], *, pad_id: int, padding_side: str = "right") -> Batch:
    """Pad examples to one length.

    Args:
        examples: At least one; with and without videos, packed and not packed may mix.
        pad_id: What fills up.
        padding_side: ``right`` to learn, ``left`` to generate.
    """
    if padding_side not in ("left", "right"):
        raise DataError(f"padding_side={padding_side!r} is unknown; use 'left' or 'right'")
    if not examples:
        raise DataError("a batch needs at least one example")
    packed = any(e.blocks is not None for e in examples)
    if packed and padding_side == "left":
        raise DataError("packed examples are to learn from, not to generate replies to; process samples one by one")
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
    num_frames: list[int] = []
    for example in examples:
        slots += [replace(slot, video=len(num_frames) + slot.video) for slot in example.slots]
        num_frames += example.num_frames
    pixels = [e.pixels for e in examples if e.pixels is not None]
    return Batch(
        input_ids=pad([e.input_ids for e in examples], pad_id),
        labels=pad([e.labels for e in examples], IGNORE_INDEX),
        attention_mask=pad([torch.ones_like(e.input_ids) for e in examples], 0),
        video_mask=pad([e.video_mask for e in examples], False),
        pixels=torch.cat(pixels) if pixels else None,
        num_frames=tuple(num_frames),
        slots=tuple(slots),
        ids=tuple(e.id for e in examples),
        features=tuple(clip for e in examples for clip in e.features or (None,) * len(e.num_frames)),
        feature_keys=tuple(key for e in examples for key in e.feature_keys or (None,) * len(e.num_frames)),
        blocks=pad([_blocks(e) for e in examples], 0) if packed else None,
        streams=tuple(stream for e in examples for stream in e.streams or (None,) * len(e.num_frames)),
    )


def _blocks(example: Example) -> Tensor:
    return torch.zeros_like(example.input_ids) if example.blocks is None else example.blocks
