"""Merge similar patches of each segment of a clip."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.registry import REDUCERS, AtLeast, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, VideoTokens

ROWS = 1024  # of the similarity matrix at once; limits the memory of long segments


@REDUCERS.register("merge")
class Merge(nn.Module):
    """Divide a clip into segments and merge the most similar patches of each, after a few tokens that average the clip.

    A clip becomes ``overview + segments * tokens`` tokens, 305 by default, or fewer if it has fewer patches. If it has
    fewer frames than segments, every frame is a segment, and these share the tokens.
    Source: Weng et al., LongVLM, arXiv:2404.03384; matching of Bolya et al., ToMe, arXiv:2210.09461. LongVLM's overview
    averages the class tokens of five layers. Here it averages equal bands of patches of the one layer that the tower
    returns. LongVLM compares patches after averaging the channels of 16 heads; here, all channels count.

    Args:
        segments: Segments of a clip.
        tokens: Tokens of a segment.
        overview: Tokens of the whole clip; 0 for none.

    Raises:
        ConfigError: ``overview`` is larger than the number of patches of a frame.
    """

    causal = False
    positions = "closed"
    weightless = True
    reads_question = False
    reads_times = False

    def __init__(
        self,
        *,
        features: FeatureSpec,
        segments: PositiveInt = 10,
        tokens: PositiveInt = 30,
        overview: Annotated[int, AtLeast(0)] = 5,
    ) -> None:
        super().__init__()
        if overview > features.num_patches:
            raise ConfigError(
                f"reducer 'merge': reducer.overview={overview} is more than the {features.num_patches} patches of a "
                f"frame; use at most {features.num_patches}"
            )
        self.segments, self.tokens, self.overview = segments, tokens, overview
        self.budget = TokenBudget(fixed=overview + segments * tokens)

    def forward(
        self, features: Tensor, state: Any = None, *, times: Tensor | None = None, question: Question | None = None
    ) -> tuple[VideoTokens, Any]:
        """Map the features (T, P, Dv) of a whole clip to tokens in the order of their first patches."""
        num_frames, num_patches, _ = features.shape
        segments = min(self.segments, num_frames)
        counts = [len(part) for part in torch.arange(self.segments * self.tokens).tensor_split(segments)]
        parts, firsts, start = [], [], 0
        if self.overview:
            parts.append(
                F.adaptive_avg_pool1d(features.mean(0, dtype=torch.float32).T, self.overview).T
            )  # (overview, Dv)
            firsts.append(torch.zeros(self.overview, dtype=torch.long, device=features.device))
        for segment, count in zip(features.tensor_split(segments), counts, strict=True):
            merged, _, first = merge(segment.flatten(0, 1), count)
            parts.append(merged)
            firsts.append(start + first)
            start += len(segment) * num_patches
        x = torch.cat(parts).to(features.dtype)  # (K, Dv)
        places = torch.arange(len(x), device=x.device)
        return VideoTokens(x, torch.cat(firsts) // num_patches, places), None


def merge(x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Merge tokens (N, Dv) until ``count`` are left, the most similar first.

    Every round pairs tokens at even places with tokens at odd places, and merges at most half of all tokens.

    Returns:
        The means of the merged tokens, float32 (min(N, count), Dv); how many tokens each averages; and the place of the
        first of them, increasing.
    """
    x = x.float()
    sizes = torch.ones(len(x), device=x.device)
    first = torch.arange(len(x), device=x.device)
    while len(x) > count:
        best, to = _most_similar(x[1::2], x[::2])
        merged = best.argsort(descending=True, stable=True)[: len(x) - count]  # among the odd ones
        source, target = 2 * merged + 1, 2 * to[merged]
        sums = (x * sizes[:, None]).index_add(0, target, (x * sizes[:, None])[source])
        sizes = sizes.index_add(0, target, sizes[source])
        first = first.scatter_reduce(0, target, first[source], "amin")
        left = torch.ones(len(x), dtype=torch.bool, device=x.device).index_fill(0, source, False)
        x, sizes, first = (sums / sizes[:, None])[left], sizes[left], first[left]
    order = first.argsort()
    return x[order], sizes[order], first[order]


@torch.no_grad()
def _most_similar(x: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest cosine of each row (N, Dv) with the rows ``others`` (M, Dv), and which it is: (N,) each."""
    others = F.normalize(others, dim=-1)
    with torch.autocast(x.device.type, enabled=False):  # the same tokens merge in training and inference
        found = [(rows @ others.T).max(-1) for rows in F.normalize(x, dim=-1).split(ROWS)]
    return torch.cat([pair.values for pair in found]), torch.cat([pair.indices for pair in found])
