"""The connector of InternVL and SmolVLM: squares of patches become one long vector each, then linear layers."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.connectors.blocks import init_linear, projection, reduced_tokens
from tinyvid.models.pooling import pooled_patches
from tinyvid.protocols import Reducer, UsesTower
from tinyvid.registry import CONNECTORS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, TokenSpec, VideoTokens


@CONNECTORS.register("pixel_shuffle")
class PixelShuffle(nn.Module):
    """Concatenate the patches of each square to one video token. No patch is averaged or dropped.

    Source: Chen et al., InternVL 1.5, arXiv:2404.16821 (``factor`` 2, ``depth`` 2); Marafioti et al., SmolVLM,
    arXiv:2504.05299 (``depth`` 1 without ``norm`` and ``bias``).

    Args:
        reducer: Reduces the concatenated squares of a clip first.
        factor: Side, in patches, of the squares that become one token.
        depth: Linear layers, with GELU between them.
        norm: Normalize the concatenated patches first.
        bias: Give the linear layers a bias.

    Raises:
        ConfigError: The tower's patches do not form a grid, it cannot be divided into such squares, or the reducer
            needs the patches themselves.
    """

    text_decoder = None
    attention = None

    def __init__(
        self,
        *,
        features: FeatureSpec,
        llm_dim: int,
        reducer: Callable[..., Reducer] | None = None,
        factor: PositiveInt = 2,
        depth: NumLayers = 2,
        norm: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if features.grid is None:
            raise ConfigError(
                f"connector 'pixel_shuffle' needs a grid of patches, but the {features.num_patches} patches of this "
                "tower do not form one; use vision_tower.select=all if it is 'patch', or connector=mlp"
            )
        per_frame = pooled_patches(features, factor, part="connector 'pixel_shuffle'", option="factor")
        self.grid = features.grid
        self.factor = factor
        width = features.dim * factor**2
        self.reducer = None
        self.tokens = TokenSpec(TokenBudget(per_frame=per_frame), in_pieces=True)
        if reducer is not None:
            rows, columns = (side // factor for side in features.grid)
            self.reducer = SquareReducer(
                reducer(features=FeatureSpec(width, per_frame, (rows, columns))), features.grid, factor
            )
            self.tokens = reduced_tokens(self.reducer)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.layers = projection(width, llm_dim, depth, bias=bias)
        self.layers.apply(init_linear)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features must have."""
        return self.get_parameter("layers.0.weight").dtype

    def forward(self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None) -> Tensor:
        """Map the features (T, P, Dv) of one clip to tokens (T * P / factor^2, D), frame by frame, row by row.

        With a reducer, the features are its output, (K, 1, factor^2 * Dv).
        """
        squares = features if self.reducer is not None else concatenated(features, self.grid, self.factor)
        return self.layers(self.norm(squares)).flatten(0, 1)


class SquareReducer(nn.Module):
    """A reducer of squares of patches instead of patches; see ``protocols.Reducer``.

    Args:
        reducer: Its patches are the squares.
        grid: Rows and columns of the vision tower's patches.
        factor: Side of a square, in patches.

    Raises:
        ConfigError: The reducer needs the patches themselves.
    """

    def __init__(self, reducer: Any, grid: tuple[int, int], factor: int) -> None:
        super().__init__()
        if isinstance(reducer, UsesTower):
            raise ConfigError(
                "connector 'pixel_shuffle' concatenates patches before the reducer, but this reducer compares the "
                "patches with the question; use another one, such as reducer=drop or reducer=prune"
            )
        self.reducer = reducer
        self.grid = grid
        self.factor = factor
        self.budget: TokenBudget = reducer.budget
        self.causal: bool = reducer.causal
        self.positions: Literal["kept", "closed"] = reducer.positions
        self.weightless: bool = reducer.weightless
        self.reads_question: bool = reducer.reads_question
        self.reads_times: bool = reducer.reads_times

    def forward(
        self, features: Tensor, state: Any = None, *, times: Tensor | None = None, question: Question | None = None
    ) -> tuple[VideoTokens, Any]:
        """Reduce the features (T, P, Dv) of a clip, or of the next piece of it."""
        squares = concatenated(features, self.grid, self.factor)  # (T, P / factor^2, factor^2 * Dv)
        return self.reducer(squares, state, times=times, question=question)


def concatenated(features: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Concatenate squares of patches row by row: (T, P, Dv) to (T, P / factor^2, factor^2 * Dv)."""
    rows, columns = (side // factor for side in grid)
    cells = features.unflatten(1, (rows, factor, columns, factor))  # (T, rows, f, columns, f, Dv)
    return cells.transpose(2, 3).reshape(len(features), rows * columns, -1)
