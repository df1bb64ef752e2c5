"""What reducers that keep some of the patches of each frame share."""

import torch
from torch import Tensor

from tinyvid.types import VideoTokens


def picked(features: Tensor, kept: Tensor) -> VideoTokens:
    """Return the patches (T, P, Dv) where ``kept``, bool (T, P), is true. They keep their places."""
    frame, patch = kept.nonzero(as_tuple=True)  # each (K,)
    return VideoTokens(features[frame, patch], frame, frame * features.shape[1] + patch)


def most_of(scores: Tensor, kept: Tensor, most: int | None) -> Tensor:
    """Return ``kept``, bool (T, P), with only the ``most`` highest ``scores``; earlier patches win ties."""
    if most is None or int(kept.sum()) <= most:
        return kept
    ranked = torch.where(kept, scores, scores.new_tensor(-torch.inf)).flatten()  # (T * P,)
    first = ranked.argsort(descending=True, stable=True)[:most]
    return torch.zeros_like(kept).flatten().index_fill(0, first, True).view_as(kept)
