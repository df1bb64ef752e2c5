"""Drop the patches that hardly change from frame to frame (TimeChat-Online)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.models.pooling import pooled, pooled_patches
from tinyvid.models.reducers.picking import most_of, picked
from tinyvid.registry import REDUCERS, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, VideoTokens


@REDUCERS.register("drop")
class Drop(nn.Module):
    """Keep the patches of the first frame, and those of later frames that differ from the frame before.

    A patch is compared with the same patch of the previous frame, kept or not. The kept share depends on the clip: a
    static clip keeps 1 / T. The right threshold depends on the vision tower; measure it with ``perf/tokens.py``.
    Source: Yao et al., TimeChat-Online, arXiv:2504.17343 (differential token dropping on features).

    Args:
        features: What the vision tower returns.
        threshold: Cosine similarity above which a patch is dropped; above 1, none is dropped.
        pool: Side, in patches, of the squares that are averaged first; 1 for no pooling.
        most: Maximum number of tokens of a clip; if more patches differ, those that differ most are kept. ``None`` for
            no maximum; only then, a clip can be passed in pieces.
        positions: ``closed``: positions are counted without gaps; ``kept``: tokens have the positions that they would
            have without dropping, as in TimeChat-Online, whose positions have three dimensions. In one dimension, a
            static clip would leave a long gap before the question.

    Raises:
        ConfigError: ``pool`` does not divide the grid of the vision tower.
    """

    weightless = True
    reads_question = False
    reads_times = False

    def __init__(
        self,
        *,
        features: FeatureSpec,
        threshold: float = 0.9,
        pool: PositiveInt = 1,
        most: PositiveInt | None = None,
        positions: Literal["kept", "closed"] = "closed",
    ) -> None:
        super().__init__()
        self.grid, self.pool = features.grid, pool
        self.threshold, self.most = threshold, most
        self.positions = positions
        self.causal = most is None
        self.budget = TokenBudget(per_frame=pooled_patches(features, pool, part="reducer 'drop'"), most=most)

    def forward(
        self, features: Tensor, state: Any = None, *, times: Tensor | None = None, question: Question | None = None
    ) -> tuple[VideoTokens, Any]:
        """Reduce the features (T, P, Dv) of a clip or its next piece; the state is the last frame before, (P, Dv)."""
        patches = pooled(features, self.grid, self.pool)
        if self.threshold > 1:  # the cosine of equal vectors can exceed 1 by rounding
            return picked(patches, torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)), patches[-1]
        before = patches.roll(1, 0)  # (T, P, Dv)
        if state is not None:
            before = torch.cat([state[None], patches[:-1]])
        change = 1 - F.cosine_similarity(patches.float(), before.float(), dim=-1)  # (T, P)
        if state is None:
            change[0] = torch.inf  # the first frame is kept
        kept = most_of(change, change >= 1 - self.threshold, self.most)  # (T, P)
        return picked(patches, kept), patches[-1]
