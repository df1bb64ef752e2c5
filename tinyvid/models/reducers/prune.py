"""Keep the patches of each frame that stand out from it and from the frames before."""

from collections import deque
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.pooling import pooled, pooled_patches
from tinyvid.registry import REDUCERS, AtLeast, AtMost, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, VideoTokens


@REDUCERS.register("prune")
class Prune(nn.Module):
    """Keep the ``keep`` patches of each frame that differ most from two anchors.

    The temporal anchor is the mean of the last ``window`` frames, the spatial anchor the mean of the frame itself. The
    score of a patch is ``alpha`` times its cosine distance to the first plus ``1 - alpha`` times its cosine distance to
    the second. The first frame of a clip uses the spatial anchor for both. Source: Wang et al., STC, arXiv:2512.00891.

    Args:
        keep: Patches of a frame that are left, after pooling.
        alpha: Weight of the temporal anchor, from 0 to 1.
        window: Frames of the temporal anchor.
        pool: Side, in patches, of the squares that are averaged first; 1 for no pooling.
        positions: Whether tokens keep the positions that they have among all patches (``kept``), or are counted anew.

    Raises:
        ConfigError: A frame has fewer than ``keep`` patches, or ``pool`` does not divide the tower's grid.
    """

    causal = True
    weightless = True
    reads_question = False
    reads_times = False

    def __init__(
        self,
        *,
        features: FeatureSpec,
        keep: PositiveInt = 49,
        alpha: Annotated[float, AtLeast(0), AtMost(1)] = 0.5,
        window: PositiveInt = 4,
        pool: PositiveInt = 1,
        positions: Literal["kept", "closed"] = "kept",
    ) -> None:
        super().__init__()
        num_patches = pooled_patches(features, pool, part="reducer 'prune'")
        if keep > num_patches:
            raise ConfigError(
                f"reducer 'prune': reducer.keep={keep} is more than the {num_patches} patches of a frame; use at most "
                f"{num_patches}, which keeps all"
            )
        self.grid, self.pool = features.grid, pool
        self.keep, self.alpha, self.window, self.positions = keep, alpha, window, positions
        self.budget = TokenBudget(per_frame=num_patches if positions == "kept" else keep)

    def forward(
        self, features: Tensor, state: Any = None, *, times: Tensor | None = None, question: Question | None = None
    ) -> tuple[VideoTokens, Any]:
        """Map the features (T, P, Dv) of a clip, or of its next piece, to ``keep`` tokens per frame.

        The state contains the means (Dv,) of the last ``window`` frames.
        """
        features = pooled(features, self.grid, self.pool)
        means = deque(state or (), maxlen=self.window)
        patches = []
        for row in features.detach():  # frame by frame, so that the result does not depend on the pieces
            frame = row.float()  # (P, Dv)
            mean = frame.mean(0)  # (Dv,)
            before = torch.stack(list(means)).mean(0) if means else mean
            score = self.alpha * _distance(frame, before) + (1 - self.alpha) * _distance(frame, mean)  # (P,)
            patches.append(score.topk(self.keep).indices.sort().values)
            means.append(mean)
        patch = torch.stack(patches)  # (T, keep)
        frame_numbers = torch.arange(len(features), device=patch.device)[:, None].expand_as(patch)
        x = features[frame_numbers, patch].flatten(0, 1)  # (T * keep, Dv)
        places = torch.arange(len(x), device=x.device)
        if self.positions == "kept":
            places = (frame_numbers * features.shape[1] + patch).flatten()
        return VideoTokens(x, frame_numbers.flatten(), places), tuple(means)


def _distance(x: Tensor, anchor: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(x, anchor[None], dim=-1)
