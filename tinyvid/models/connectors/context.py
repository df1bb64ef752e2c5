"""The context token of LLaMA-VID: one token of a frame that holds what the question asks for."""

import math
from typing import Literal

import torch
from torch import Tensor, nn


class ContextAttention(nn.Module):
    """Average the patches of a frame by how much the rows of a text decoder look at them.

    One head: ``S = softmax(Q K^T / sqrt(Dv))`` over the patches, ``c = mean over real rows of S V``, then to the LLM's
    width. Source: Li et al., LLaMA-VID, arXiv:2311.17043, equation 1, and its program, which has the scale and the key
    projection that the equation leaves out.

    Args:
        dim: Dv, width of a patch.
        row_dim: R, width of a row.
        llm_dim: D, width of the LLM.
        scale: ``sqrt_dim`` divides the scores by sqrt(Dv); ``none`` does not.
        key_proj: Whether the patches that are compared pass a linear layer first.
        values: ``raw``: the patches themselves are averaged; ``projected``: they pass a linear layer first.
    """

    def __init__(
        self,
        *,
        dim: int,
        row_dim: int,
        llm_dim: int,
        scale: Literal["sqrt_dim", "none"] = "sqrt_dim",
        key_proj: bool = True,
        values: Literal["raw", "projected"] = "raw",
    ) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(dim) if scale == "sqrt_dim" else 1.0
        self.query = nn.Linear(row_dim, dim)
        self.key = nn.Linear(dim, dim) if key_proj else nn.Identity()
        self.value = nn.Linear(dim, dim) if values == "projected" else nn.Identity()
        self.out = nn.Linear(dim, llm_dim)

    def forward(self, rows: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
        """Return the context token of each frame.

        Args:
            rows: (T, M, R), from the text decoder.
            mask: bool (M,), which rows are real.
            patches: (T, P, Dv).

        Returns:
            (T, D).
        """
        weights = self.weights(rows, mask, patches)  # (T, P)
        # The mean over rows of S V is the mean of S, times V: one row instead of M.
        return self.out((weights.unsqueeze(1) @ self.value(patches)).squeeze(1))

    def weights(self, rows: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
        """Return how much each patch counts, (T, P): the mean of the real rows' attention; even if no row is real."""
        scores = self.query(rows) @ self.key(patches).transpose(1, 2) * self.scale  # (T, M, P)
        attention = scores.softmax(-1)
        real = mask.to(attention.dtype)[:, None]  # (M, 1)
        count = real.sum()
        even = torch.full_like(patches[..., 0], 1 / patches.shape[1])  # (T, P)
        return torch.where(count > 0, (attention * real).sum(1) / count.clamp(min=1), even)
