"""Show a clip in several views: many frames with few tokens each, and a few frames with many."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.reducers.grids import read_grid, to_grid
from tinyvid.registry import REDUCERS
from tinyvid.types import FeatureSpec, Question, TokenBudget, VideoTokens


@REDUCERS.register("views")
class Views(nn.Module):
    """Show a clip in several views, each with its own number of frames and its own grid of tokens per frame.

    If every view shows all frames, the tokens of a frame are next to each other, view by view, and a clip can come in
    pieces. Otherwise, the views follow each other.

    Examples, as ``frames`` and ``grids``: ``[10, 50]`` and ``[12x24, 4x4]`` are the 3,680 tokens of SlowFast-LLaVA (Xu
    et al., arXiv:2407.15841), ``[3, 5, 50]`` and three grids those of Free Video-LLM (Han et al., arXiv:2410.10441)
    without the question, ``[0, 0]`` and ``[1x1, 3x3]`` the ten tokens per frame of VideoLLM-online (Chen et al.,
    arXiv:2406.11816), ``[0]`` and ``[4x4]`` plain pooling. A view of six frames is not TS-LLaVA's thumbnail, which the
    vision tower sees as one image; ``tinyvid.thumbnail`` makes that.

    Args:
        frames: Frames of each view, evenly spaced from the first to the last; 0 for all.
        grids: Rows and columns of each view's tokens per frame, such as ``12x24``.

    Raises:
        ConfigError: The lists are empty or of different lengths, a number is negative, a grid is malformed or larger
            than the tower's, or the tower's patches do not form a rectangle.
    """

    positions = "closed"
    weightless = True
    reads_question = False
    reads_times = False

    def __init__(
        self, *, features: FeatureSpec, frames: Sequence[int] = (10, 0), grids: Sequence[str] = ("12x12", "4x4")
    ) -> None:
        super().__init__()
        if not frames or len(frames) != len(grids) or min(frames) < 0:
            raise ConfigError(
                f"reducer 'views': reducer.frames={list(frames)} and reducer.grids={list(grids)} must list the frames "
                "(0 for all) and the grid of each view; use for example frames=[10,0] grids=[12x12,4x4]"
            )
        self.grid = features.grid
        self.frames = tuple(frames)
        self.grids = [read_grid(grid, features, "reducer 'views': reducer.grids") for grid in grids]
        self.causal = not any(frames)
        sizes = [(count, rows * columns) for count, (rows, columns) in zip(frames, self.grids, strict=True)]
        self.budget = TokenBudget(
            fixed=sum(count * size for count, size in sizes), per_frame=sum(size for count, size in sizes if not count)
        )

    def forward(
        self, features: Tensor, state: Any = None, *, times: Tensor | None = None, question: Question | None = None
    ) -> tuple[VideoTokens, Any]:
        """Map the features (T, P, Dv) of a clip, or of a piece if ``causal``, to the tokens of its views."""
        parts, frames = [], []
        for count, grid in zip(self.frames, self.grids, strict=True):
            shown = _spread(count or len(features), len(features)).to(features.device)  # (n,)
            x = to_grid(features[shown] if count else features, self.grid, grid)  # (n, Q, Dv)
            parts.append(x)
            frames.append(shown[:, None].expand(x.shape[:2]))  # (n, Q)
        if self.causal:
            x, frame = torch.cat(parts, 1).flatten(0, 1), torch.cat(frames, 1).flatten()
        else:
            x, frame = torch.cat([p.flatten(0, 1) for p in parts]), torch.cat([f.flatten() for f in frames])
        return VideoTokens(x, frame, torch.arange(len(x), device=x.device)), None


def _spread(count: int, num_frames: int) -> Tensor:
    """Return ``count`` indices from the first frame to the last, rounded down, or all frames if there are fewer."""
    count = min(count, num_frames)
    return torch.arange(count) * (num_frames - 1) // max(count - 1, 1)
