"""Keep evenly spaced patches of a clip."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from tinyvid.models.pooling import pooled, pooled_patches
from tinyvid.registry import REDUCERS, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, VideoTokens


@REDUCERS.register("sample")
class StridedSample(nn.Module):
    """Keep ``tokens`` patches of a clip at evenly spaced positions, from its first patch to its last.

    A clip with fewer patches keeps all. Source: Qu et al., TS-LLaVA, arXiv:2411.11066, which keeps 2,880 of 28,800
    patches and adds a thumbnail of six frames (``tinyvid.thumbnail``) as a second video, 3,456 tokens together.

    Args:
        tokens: Patches of a clip that are left.
        pool: Side, in patches, of the squares that are averaged first; 1 for no pooling.
        positions: Whether tokens keep the positions that they have among all patches (``kept``), or are counted anew.

    Raises:
        ConfigError: ``pool`` does not divide the tower's grid.
    """

    causal = False
    weightless = True
    reads_question = False
    reads_times = False

    def __init__(
        self,
        *,
        features: FeatureSpec,
        tokens: PositiveInt = 2880,
        pool: PositiveInt = 1,
        positions: Literal["kept", "closed"] = "kept",
    ) -> None:
        super().__init__()
        self.grid, self.pool = features.grid, pool
        self.tokens, self.positions = tokens, positions
        self.budget = TokenBudget(per_frame=pooled_patches(features, pool, part="reducer 'sample'"), most=tokens)
        if positions == "closed":
            self.budget = TokenBudget(fixed=tokens)

    def forward(
        self, features: Tensor, state: Any = None, *, times: Tensor | None = None, question: Question | None = None
    ) -> tuple[VideoTokens, Any]:
        """Map the features (T, P, Dv) of a whole clip to at most ``tokens`` tokens."""
        features = pooled(features, self.grid, self.pool)
        total = features.shape[0] * features.shape[1]
        count = min(self.tokens, total)
        # In integers, rounded to the nearest: float32 would shift some positions of long clips.
        step = max(count - 1, 1)
        kept = (2 * torch.arange(count, device=features.device) * (total - 1) + step) // (2 * step)  # (K,)
        places = kept if self.positions == "kept" else torch.arange(count, device=features.device)
        return VideoTokens(features.flatten(0, 1)[kept], kept // features.shape[1], places), None
