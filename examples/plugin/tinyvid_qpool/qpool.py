"""A connector of 30 lines: each learned query takes a weighted mean of a frame's patches."""

import torch
from torch import Tensor, nn

from tinyvid import FeatureSpec, PositiveInt, Question, TokenBudget, TokenSpec


class QueryPool(nn.Module):
    """Pool the patches of every frame into ``num_queries`` video tokens by attention.

    Args:
        features: What the vision tower returns.
        llm_dim: D, width of the LLM.
        num_queries: Video tokens per frame.
    """

    text_decoder = None  # this connector does not read the question
    reducer = None  # and does not take a reducer
    attention = None  # so it has no attention map of the question

    def __init__(self, *, features: FeatureSpec, llm_dim: int, num_queries: PositiveInt = 4) -> None:
        super().__init__()
        self.tokens = TokenSpec(TokenBudget(per_frame=num_queries))
        self.queries = nn.Parameter(torch.randn(num_queries, features.dim) * features.dim**-0.5)
        self.out = nn.Linear(features.dim, llm_dim)

    @property
    def dtype(self) -> torch.dtype:
        """Data type that features must have."""
        return self.queries.dtype

    def forward(self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None) -> Tensor:
        """Map the features (T, P, Dv) of one clip to video tokens (T * num_queries, D)."""
        weights = (self.queries @ features.transpose(1, 2)).softmax(-1)  # (T, Q, P)
        return self.out(weights @ features).flatten(0, 1)  # (T * Q, D)
