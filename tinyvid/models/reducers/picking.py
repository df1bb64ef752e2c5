"""What reducers that keep some of the patches of each frame share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tinyvid.errors import ConfigError
from tinyvid.types import FeatureSpec, VideoTokens


def pooled_patches(features: FeatureSpec, pool: int, *, reducer: str) -> int:
    """Return the number of patches of a frame after averaging squares of ``pool`` x ``pool`` patches.

    Raises:
        ConfigError: The grid of the vision tower cannot be divided into such squares.
    """
    if pool == 1:
        return features.num_patches
    if features.grid is None or features.grid[0] % pool or features.grid[1] % pool:
        grid = "no grid" if features.grid is None else f"a grid of {features.grid[0]} x {features.grid[1]} patches"
        raise ConfigError(
            f"reducer '{reducer}': reducer.pool={pool} does not fit this vision tower, which has {grid}; use "
            "reducer.pool=1 or a divisor of both sides"
        )
    return features.num_patches // pool**2


def pooled(features: Tensor, grid: tuple[int, int] | None, pool: int) -> Tensor:
    """Average squares of ``pool`` x ``pool`` patches: (T, P, Dv) to (T, P / pool^2, Dv)."""
    if pool == 1 or grid is None:
        return features
    maps = features.unflatten(1, grid).permute(0, 3, 1, 2)  # (T, Dv, h, w)
    return F.avg_pool2d(maps, pool).flatten(2).transpose(1, 2)  # (T, P / pool^2, Dv)


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
