"""The connector of LLaVA: an MLP turns every patch into a video token, after optional pooling."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.connectors.blocks import init_linear, projection
from tinyvid.protocols import Reducer
from tinyvid.registry import CONNECTORS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, TokenSpec


@CONNECTORS.register("mlp")
class MLP(nn.Module):
    """Project each patch to a video token with a small MLP. The number of tokens grows with the number of frames.

    Source: Liu et al., LLaVA-1.5, arXiv:2310.03744 (``depth`` 2, no pooling).

    Args:
        reducer: Reduces the patches of a clip first.
        depth: Linear layers, with GELU between them.
        pool: Side, in patches, of the squares that are averaged into one token; 1 for no pooling.

    Raises:
        ConfigError: The tower's grid cannot be divided into such squares, or ``pool`` is combined with a reducer.
    """

    text_decoder = None
    attention = None

    def __init__(
        self,
        *,
        features: FeatureSpec,
        llm_dim: int,
        reducer: Reducer | None = None,
        depth: NumLayers = 2,
        pool: PositiveInt = 1,
    ) -> None:
        super().__init__()
        if pool > 1:
            _check_pool(features, pool, reducer)
        self.grid = features.grid
        self.pool = pool
        self.reducer = reducer
        if reducer is None:
            self.tokens = TokenSpec(TokenBudget(per_frame=features.num_patches // pool**2), in_pieces=True)
        else:
            self.tokens = TokenSpec(
                reducer.budget,
                reads_question=reducer.reads_question,
                in_pieces=reducer.causal,
                kept_positions=reducer.positions == "kept",
            )
        self.layers = projection(features.dim, llm_dim, depth)
        self.layers.apply(init_linear)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features must have."""
        return self.get_parameter("layers.0.weight").dtype

    def forward(self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None) -> Tensor:
        """Map the features (T, P, Dv) of one clip to tokens (T * P / pool^2, D), frame by frame, row by row.

        With a reducer, the features are its output, (K, 1, Dv).
        """
        if self.pool > 1 and self.grid is not None:
            maps = features.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (T, Dv, h, w)
            features = F.avg_pool2d(maps, self.pool).flatten(2).transpose(1, 2)  # (T, P / pool^2, Dv)
        return self.layers(features.flatten(0, 1))


def _check_pool(features: FeatureSpec, pool: int, reducer: Reducer | None) -> None:
    if reducer is not None:
        raise ConfigError(
            f"connector 'mlp': connector.pool={pool} averages patches after the reducer, which leaves no full frames; "
            "use connector.pool=1, and reducer.pool or reducer=views to average patches"
        )
    if features.grid is None:
        raise ConfigError(
            f"connector 'mlp': connector.pool={pool} needs a rectangle of patches, but the {features.num_patches} "
            "patches of this tower do not form one; use connector.pool=1, or vision_tower.select=all if it is 'patch'"
        )
    rows, columns = features.grid
    if rows % pool or columns % pool:
        fitting = [n for n in range(1, min(rows, columns) + 1) if rows % n == columns % n == 0]
        raise ConfigError(
            f"connector 'mlp': connector.pool={pool} does not divide the tower's grid of {rows} x {columns} patches; "
            f"use one of {', '.join(map(str, fitting))}"
        )
