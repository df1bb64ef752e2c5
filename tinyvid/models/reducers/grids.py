"""Grids of patches: read from options and pooled."""

import re

import torch.nn.functional as F
from torch import Tensor

from tinyvid.errors import ConfigError
from tinyvid.types import FeatureSpec


def read_grid(text: str, features: FeatureSpec, where: str) -> tuple[int, int]:
    """Read ``ROWSxCOLUMNS``, such as ``12x24``.

    Raises:
        ConfigError: The text has another form, the grid is larger than the tower's, or the tower's patches do not form
            a rectangle.
    """
    if features.grid is None:
        raise ConfigError(
            f"{where} needs a rectangle of patches, but the {features.num_patches} patches of this tower do not form "
            "one; use vision_tower.select=all if it is 'patch'"
        )
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if match is None:
        raise ConfigError(f"{where}: {text!r} is not a grid; write rows and columns, such as 4x4")
    rows, columns = int(match[1]), int(match[2])
    if rows > features.grid[0] or columns > features.grid[1]:
        most = "{}x{}".format(*features.grid)
        raise ConfigError(f"{where}: {text} does not fit the tower's grid of {most} patches; use at most {most}")
    return rows, columns


def to_grid(features: Tensor, grid: tuple[int, int] | None, target: tuple[int, int]) -> Tensor:
    """Average features (T, P, Dv), whose patches form ``grid``, to ``target``: (T, rows * columns, Dv)."""
    if grid is None or target == grid:
        return features
    maps = features.unflatten(1, grid).permute(0, 3, 1, 2)  # (T, Dv, h, w)
    return F.adaptive_avg_pool2d(maps, target).flatten(2).transpose(1, 2)  # (T, rows * columns, Dv)
