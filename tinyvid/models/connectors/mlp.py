"""The connector of LLaVA: an MLP turns every patch into a video token, after optional pooling."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.connectors.blocks import init_linear, projection, reduced_tokens
from tinyvid.models.pooling import pooled, pooled_patches, resized, resized_patches
from tinyvid.protocols import Reducer
from tinyvid.registry import CONNECTORS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, TokenSpec


@CONNECTORS.register("mlp")
class MLP(nn.Module):
    """Project each patch to a video token with a small MLP. The number of tokens grows with the number of frames.

    Sources: Liu et al., LLaVA-1.5, arXiv:2310.03744 (``depth`` 2, no pooling); Li et al., LLaVA-OneVision,
    arXiv:2408.03326 (``pool_after`` 2, ``newline``).

    Args:
        reducer: Reduces the patches of a clip first.
        depth: Linear layers, with GELU between them.
        pool: Side, in patches, of the squares that are averaged before the MLP; 1 for no pooling.
        pool_after: Factor by which bilinear interpolation shrinks both sides of the grid after the MLP, rounded up; 1
            for no pooling.
        newline: Add a learned token after the last frame of a clip.

    Raises:
        ConfigError: The tower's grid does not suit ``pool`` or ``pool_after``, both are set, or they or ``newline`` are
            combined with a reducer.
    """

    text_decoder = None
    attention = None

    def __init__(
        self,
        *,
        features: FeatureSpec,
        llm_dim: int,
        reducer: Callable[..., Reducer] | None = None,
        depth: NumLayers = 2,
        pool: PositiveInt = 1,
        pool_after: PositiveInt = 1,
        newline: bool = False,
    ) -> None:
        super().__init__()
        if reducer is not None:
            _refuse_with_reducer(pool, pool_after, newline)
        if pool > 1 and pool_after > 1:
            raise ConfigError(
                f"connector 'mlp': connector.pool={pool} and connector.pool_after={pool_after} pool the same patches "
                "before and after the MLP; set one of them to 1"
            )
        self.grid = features.grid
        self.pool = pool
        self.pool_after = pool_after
        self.reducer = None if reducer is None else reducer(features=features)
        if self.reducer is None:
            per_frame = pooled_patches(features, pool, part="connector 'mlp'")
            if pool_after > 1:
                per_frame = resized_patches(features, pool_after, part="connector 'mlp'")
            self.tokens = TokenSpec(TokenBudget(fixed=int(newline), per_frame=per_frame), in_pieces=True)
        else:
            self.tokens = reduced_tokens(self.reducer)
        self.layers = projection(features.dim, llm_dim, depth)
        self.layers.apply(init_linear)
        self.newline = nn.Parameter(torch.randn(llm_dim) / math.sqrt(llm_dim)) if newline else None  # (D,)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features must have."""
        return self.get_parameter("layers.0.weight").dtype

    def forward(self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None) -> Tensor:
        """Map the features (T, P, Dv) of one clip to tokens (K, D), frame by frame, row by row.

        With a reducer, the features are its output, (K, 1, Dv).
        """
        tokens = self.layers(pooled(features, self.grid, self.pool).flatten(0, 1))  # (T * P / pool^2, D)
        if self.pool_after > 1:
            frames = tokens.unflatten(0, (len(features), -1))  # (T, P, D)
            tokens = resized(frames, self.grid, self.pool_after).flatten(0, 1)
        return tokens if self.newline is None else torch.cat([tokens, self.newline[None]])


def _refuse_with_reducer(pool: int, pool_after: int, newline: bool) -> None:
    """Raise ``ConfigError`` if options need full frames, which a reducer does not leave."""
    for option, value in (("pool", pool), ("pool_after", pool_after)):
        if value > 1:
            raise ConfigError(
                f"connector 'mlp': connector.{option}={value} pools patches after the reducer, which leaves no full "
                f"frames; use connector.{option}=1, and reducer.pool or reducer=views to average patches"
            )
    if newline:
        raise ConfigError(
            "connector 'mlp': connector.newline=true adds a token after the last frame, which is not possible with a "
            "reducer; use connector.newline=false, or remove reducer"
        )
