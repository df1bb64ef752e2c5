"""Squares of neighboring patches: how many there are, their averages, and resized grids."""

import math

import torch.nn.functional as F
from torch import Tensor

from tinyvid.errors import ConfigError
from tinyvid.types import FeatureSpec


def pooled_patches(features: FeatureSpec, pool: int, *, part: str, option: str = "pool") -> int:
    """Return the number of squares of ``pool`` x ``pool`` patches in a frame.

    Args:
        features: What the vision tower returns.
        pool: Side of the squares, in patches; 1 for no pooling.
        part: Kind and name of the part with this option, for messages, such as ``connector 'mlp'``.
        option: Name of the option.

    Raises:
        ConfigError: The grid of the vision tower cannot be divided into such squares.
    """
    if pool == 1:
        return features.num_patches
    key = f"{part.split()[0]}.{option}"
    rows, columns = _grid(features, f"{part}: {key}={pool}", f"{key}=1")
    if rows % pool or columns % pool:
        fitting = [n for n in range(1, min(rows, columns) + 1) if rows % n == columns % n == 0]
        use = f"one of {', '.join(map(str, fitting))}" if len(fitting) > 1 else f"{key}=1"
        raise ConfigError(
            f"{part}: {key}={pool} does not divide the tower's grid of {rows} x {columns} patches; use {use}"
        )
    return features.num_patches // pool**2


def pooled(features: Tensor, grid: tuple[int, int] | None, pool: int) -> Tensor:
    """Average squares of ``pool`` x ``pool`` patches: (T, P, Dv) to (T, P / pool^2, Dv)."""
    if pool == 1 or grid is None:
        return features
    maps = features.unflatten(1, grid).permute(0, 3, 1, 2)  # (T, Dv, h, w)
    return F.avg_pool2d(maps, pool).flatten(2).transpose(1, 2)  # (T, P / pool^2, Dv)


def resized_patches(features: FeatureSpec, factor: int, *, part: str) -> int:
    """Return the number of patches of a frame after dividing both sides of the grid by ``factor``, rounded up.

    Args:
        features: What the vision tower returns.
        factor: At least 1.
        part: Kind and name of the part with the option ``pool_after``, for messages.

    Raises:
        ConfigError: The patches of the vision tower do not form a grid, or ``factor`` exceeds both of its sides.
    """
    key = f"{part.split()[0]}.pool_after"
    rows, columns = _grid(features, f"{part}: {key}={factor}", f"{key}=1")
    if factor > max(rows, columns):
        raise ConfigError(
            f"{part}: {key}={factor} exceeds both sides of the tower's grid of {rows} x {columns} patches; use at most "
            f"{max(rows, columns)}"
        )
    return math.ceil(rows / factor) * math.ceil(columns / factor)


def resized(features: Tensor, grid: tuple[int, int] | None, factor: int) -> Tensor:
    """Divide both sides of the grid by ``factor``, rounded up, with bilinear interpolation: (T, P, D) to (T, P', D)."""
    if grid is None:
        return features
    maps = features.unflatten(1, grid).permute(0, 3, 1, 2)  # (T, D, h, w)
    size = [math.ceil(side / factor) for side in grid]
    return F.interpolate(maps, size=size, mode="bilinear").flatten(2).transpose(1, 2)  # (T, P', D)


def _grid(features: FeatureSpec, option: str, off: str) -> tuple[int, int]:
    if features.grid is None:
        raise ConfigError(
            f"{option} needs a rectangle of patches, but the {features.num_patches} patches of this tower do not form "
            f"one; use {off}, or vision_tower.select=all if it is 'patch'"
        )
    return features.grid
