"""The connector of LLaVA: an MLP turns every patch into a video token, after optional pooling."""

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.connectors.blocks import init_linear, projection
from tinyvid.models.pooling import pooled, pooled_patches
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
        if pool > 1 and reducer is not None:
            raise ConfigError(
                f"connector 'mlp': connector.pool={pool} averages patches after the reducer, which leaves no full "
                "frames; use connector.pool=1, and reducer.pool or reducer=views to average patches"
            )
        self.grid = features.grid
        self.pool = pool
        self.reducer = reducer
        if reducer is None:
            self.tokens = TokenSpec(
                TokenBudget(per_frame=pooled_patches(features, pool, part="connector 'mlp'")), in_pieces=True
            )
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
        return self.layers(pooled(features, self.grid, self.pool).flatten(0, 1))
