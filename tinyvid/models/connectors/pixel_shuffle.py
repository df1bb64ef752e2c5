"""The connector of InternVL and SmolVLM: squares of patches become one long vector each, then linear layers."""

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.connectors.blocks import init_linear, projection
from tinyvid.models.pooling import pooled_patches
from tinyvid.registry import CONNECTORS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, TokenSpec


@CONNECTORS.register("pixel_shuffle")
class PixelShuffle(nn.Module):
    """Concatenate the patches of each square to one video token. No patch is averaged or dropped.

    Source: Chen et al., InternVL 1.5, arXiv:2404.16821 (``factor`` 2, ``depth`` 2); Marafioti et al., SmolVLM,
    arXiv:2504.05299 (``depth`` 1 without ``norm`` and ``bias``).

    Args:
        factor: Side, in patches, of the squares that become one token.
        depth: Linear layers, with GELU between them.
        norm: Normalize the concatenated patches first.
        bias: Give the linear layers a bias.

    Raises:
        ConfigError: The tower's patches do not form a grid, or it cannot be divided into such squares.
    """

    text_decoder = None
    attention = None
    reducer = None  # it would leave no grid to take squares from

    def __init__(
        self,
        *,
        features: FeatureSpec,
        llm_dim: int,
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
        self.tokens = TokenSpec(TokenBudget(per_frame=per_frame), in_pieces=True)
        self.grid = features.grid
        self.factor = factor
        width = features.dim * factor**2
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.layers = projection(width, llm_dim, depth, bias=bias)
        self.layers.apply(init_linear)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features must have."""
        return self.get_parameter("layers.0.weight").dtype

    def forward(self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None) -> Tensor:
        """Map the features (T, P, Dv) of one clip to tokens (T * P / factor^2, D), frame by frame, row by row."""
        return self.layers(self.norm(self._squares(features))).flatten(0, 1)

    def _squares(self, features: Tensor) -> Tensor:
        """Concatenate squares of patches row by row: (T, P, Dv) to (T, P / factor^2, factor^2 * Dv)."""
        rows, columns = (side // self.factor for side in self.grid)
        cells = features.unflatten(1, (rows, self.factor, columns, self.factor))  # (T, rows, f, columns, f, Dv)
        return cells.transpose(2, 3).reshape(len(features), rows * columns, -1)
