"""The accuracy on multiple-choice rows while a model trains: the letters that it generates, among those that it may."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from tinyvid.generation.decode import Decoding, replies
from tinyvid.training.data import TrainingData
from tinyvid.types import Sample


def count_letters(
    model: Any, rows: TrainingData, usable: Sequence[int], *, args: TrainingArguments, synced: bool
) -> Tensor:
    """Return how many multiple-choice rows this process answers with the right letter, and how many it asks.

    Args:
        model: The ``VideoLLM``, in eval mode.
        rows: To evaluate on.
        usable: Which of them can be read.
        args: Say which process this is, of how many.
        synced: Whether the processes share the weights, so that all must generate equally long.
    """
    choices = [index for index in usable if _is_choice(rows.rows[index])]
    counts = torch.zeros(2, dtype=torch.float64)
    for first in range(0, len(choices), args.world_size):
        place = first + args.process_index
        # Processes that share the weights all generate, or none: one without a row repeats the first.
        sample = rows.rows[choices[place if place < len(choices) else 0]]
        right = _letter_is_right(model, rows, sample, device=args.device, synced=synced)
        if place < len(choices):
            counts += torch.tensor([right, 1])
    return counts


def _letter_is_right(model: Any, rows: TrainingData, sample: Sample, *, device: torch.device, synced: bool) -> bool:
    """Generate the reply to a multiple-choice row. Only the bare letter counts."""
    processor = rows.processor
    example = processor(replace(sample, messages=sample.messages[:-1]))
    batch = processor.collate([example], padding_side="left").to(device)
    (reply,) = replies(model, processor, batch, Decoding(max_new_tokens=4), synced_gpus=synced)
    return reply.strip(" .()") == sample.messages[-1].text


def _is_choice(sample: Sample) -> bool:
    return "options" in sample.meta and sample.messages[-1].role == "assistant"
