"""The content tokens of LLaMA-VID: what a frame shows, whatever the question, in as few tokens as one likes."""

import itertools
import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.types import FeatureSpec

Kind = Literal["none", "mean", "grid", "drop"]


class ContentTokens(nn.Module):
    """Pool the patches of a frame, and translate them into the LLM's space.

    Args:
        features: What the vision tower returns.
        llm_dim: D, width of the LLM.
        kind: ``mean``: one token; ``grid``: ``grid`` x ``grid`` tokens; ``none``: no pooling, every patch a token, as
            LLaMA-VID's ``compress_type`` of that name; ``drop``: no content token at all.
        grid: K, with ``kind=grid``.
        legacy: Pool as LLaMA-VID does: squares of side // K patches, so that the last rows and columns may be left out
            and the tokens may be more than K x K.
        depth: Linear layers of the translation, with GELU between them.

    Attributes:
        num_tokens: Content tokens of a frame.
        smaller: Numbers of them that the same weights can make instead, in falling order: grids down to the mean.

    Raises:
        ConfigError: The tower's patches fill no rectangle, or it is smaller than K x K.
    """

    def __init__(
        self, features: FeatureSpec, llm_dim: int, *, kind: Kind, grid: int, legacy: bool = False, depth: int = 2
    ) -> None:
        super().__init__()
        self.kind = kind
        self.grid = grid
        self.stride = 0  # side of the squares, where they are the original's
        self.shape = features.grid
        if kind == "grid":
            rows, columns = _check_grid(features, grid)
            if legacy:
                self.stride = _legacy_stride(rows, columns, grid)
        sides = math.prod((side - self.stride) // self.stride + 1 for side in features.grid or ()) if self.stride else 0
        self.num_tokens = {"none": features.num_patches, "mean": 1, "grid": sides or grid * grid, "drop": 0}[kind]
        finest = 0 if legacy else {"none": min(features.grid or (0,)), "grid": grid}.get(kind, 0)
        self.smaller = tuple(side**2 for side in range(finest, 0, -1) if side**2 < self.num_tokens)
        widths = [features.dim, *[llm_dim] * depth]
        linears = [] if kind == "drop" else [nn.Linear(wide, narrow) for wide, narrow in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*[m for linear in linears for m in (linear, nn.GELU())][:-1])

    def forward(self, patches: Tensor, num_tokens: int | None = None) -> Tensor:
        """Map the patches (T, P, Dv) of frames to content tokens (T, n, D), grids row by row.

        Args:
            patches: Of frames.
            num_tokens: Tokens of a frame, one of ``smaller``, in place of ``num_tokens``.
        """
        return self.layers(self.pool(patches, num_tokens))

    def pool(self, patches: Tensor, num_tokens: int | None = None) -> Tensor:
        """Return the pooled patches of each frame: (T, P, Dv) to (T, n, Dv)."""
        if self.kind == "mean":
            return patches.mean(1, keepdim=True)
        if self.kind == "grid" or num_tokens is not None:
            assert self.shape is not None  # checked when built
            side = self.grid if num_tokens is None else math.isqrt(num_tokens)
            maps = patches.unflatten(1, self.shape).permute(0, 3, 1, 2)  # (T, Dv, rows, columns)
            pooled = F.avg_pool2d(maps, self.stride) if self.stride else F.adaptive_avg_pool2d(maps, side)
            return pooled.flatten(2).transpose(1, 2)
        return patches


def _check_grid(features: FeatureSpec, grid: int) -> tuple[int, int]:
    if features.grid is None:
        raise ConfigError(
            f"connector.content=grid needs a rectangle of patches, but the {features.num_patches} patches of this "
            "tower do not fill one; use connector.content=mean, or vision_tower.select=all if it is 'patch'"
        )
    if grid > min(features.grid):
        rows, columns = features.grid
        raise ConfigError(
            f"connector.grid={grid} is larger than the tower's grid of {rows} x {columns} patches; "
            f"use at most {min(features.grid)}"
        )
    return features.grid


def _legacy_stride(rows: int, columns: int, grid: int) -> int:
    if rows != columns or grid < 2:
        raise ConfigError(
            f"connector.legacy_grid=true takes a square of patches and connector.grid of at least 2, got {rows} x "
            f"{columns} patches and grid={grid}; use legacy_grid=false, which takes any"
        )
    return rows // grid
