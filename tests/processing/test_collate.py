"""Places without a token are removed from a batch, and nothing else changes."""

import pytest
import torch

from tinyvid.processing.batch import Batch, VideoInput
from tinyvid.processing.collate import positions_of, without_empty
from tinyvid.types import IGNORE_INDEX, TokenBudget

PAD = 0


def batch_of(*rows, side="right", blocks=None):
    """Return rows of ids padded to one length; 9 is a place of a video token."""
    length = max(map(len, rows))
    padded = [
        [PAD] * (length - len(row)) + row if side == "left" else row + [PAD] * (length - len(row)) for row in rows
    ]
    ids = torch.tensor(padded)
    real = (ids != PAD).long()
    labels = torch.where((ids > 4) & (ids < 9), ids, IGNORE_INDEX)
    return Batch(ids.masked_fill(ids == 9, PAD), labels, real, ids == 9, blocks=blocks)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_full_batch_is_returned_unchanged(side):
    batch = batch_of([1, 9, 9, 5], [1, 2], side=side)
    assert without_empty(batch, torch.tensor([True, True]), padding_side=side) is batch


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("keep", [False, True])
def test_empty_places_are_removed_and_the_padding_side_is_kept(side, keep):
    batch = batch_of([1, 9, 9, 9, 5], [1, 9, 2], side=side)
    small = without_empty(batch, torch.tensor([False, True, False, True]), padding_side=side, keep_positions=keep)
    assert small.input_ids.tolist() == [[1, PAD, 5], [1, PAD, 2]]
    assert small.labels.tolist() == [[-100, -100, 5], [-100, -100, -100]]
    assert small.video_mask.tolist() == [[False, True, False]] * 2
    assert small.attention_mask.tolist() == [[1, 1, 1]] * 2
    assert positions_of(small).tolist() == ([[0, 2, 4], [0, 1, 2]] if keep else [[0, 1, 2], [0, 1, 2]])


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_different_length_are_padded_again(side):
    batch = batch_of([1, 9, 9, 5, 6], [1, 2, 3], side=side)
    small = without_empty(batch, torch.tensor([False, False]), padding_side=side, keep_positions=True)
    assert small.input_ids.tolist() == [[1, 5, 6], [1, 2, 3]]
    assert positions_of(small).tolist() == [[0, 3, 4], [0, 1, 2]]
    shorter = without_empty(batch_of([1, 9, 9], [1, 2], side=side), torch.tensor([False, False]), padding_side=side)
    expected = [[PAD, 1], [1, 2]] if side == "left" else [[1, PAD], [1, 2]]
    assert shorter.input_ids.tolist() == expected
    assert shorter.attention_mask.tolist() == [[int(id > 0) for id in row] for row in expected]


@pytest.mark.parametrize("keep", [False, True])
def test_packed_samples_continue_from_the_remaining_prefix(keep):
    blocks = torch.tensor([[0, 0, 0, 1, 1, 2]])
    batch = batch_of([1, 9, 9, 3, 5, 6], blocks=blocks)
    small = without_empty(batch, torch.tensor([True, False]), keep_positions=keep)
    assert small.blocks.tolist() == [[0, 0, 1, 1, 2]]
    assert positions_of(small).tolist() == ([[0, 1, 3, 4, 3]] if keep else [[0, 1, 2, 3, 2]])


def test_all_tensors_of_a_batch_are_moved():
    video = VideoInput(0.0, 1.0, (0.5,), pixels=torch.zeros(1, 3, 2, 2))
    moved = Batch(*[torch.zeros(1, 2)] * 3, torch.zeros(1, 2).bool(), videos=(video,), positions=torch.ones(1, 2)).to(
        "meta"
    )
    tensors = [moved.input_ids, moved.labels, moved.attention_mask, moved.video_mask, moved.positions]
    assert {tensor.device.type for tensor in (*tensors, moved.videos[0].pixels)} == {"meta"}
    assert moved.blocks is None
    assert moved.videos[0].times == (0.5,)


def test_a_budget_limits_the_tokens_of_its_places():
    assert TokenBudget(per_frame=16).bound(400) == TokenBudget(per_frame=16)(400) == 6400
    assert TokenBudget(per_frame=16, most=100).bound(400) == 100
    assert TokenBudget(per_frame=16, most=100).bound(2) == 32
