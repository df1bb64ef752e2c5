"""The temporal mixer: the video tokens of all groups look at each other, so that they can say what changes in time."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.models.connectors.blocks import feed_forward, split_heads

WAVES = 8  # sines and cosines of the time code: the shortest wave spans a quarter of the clip


class SelfAttention(nn.Module):
    """Let the tokens of a clip look at each other, in both directions of time.

    Args:
        dim: D, width of the tokens.
        heads: Attention heads.
        head_dim: Dh, width of a head.
    """

    def __init__(self, dim: int, *, heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, K, D) to what each has gathered, (B, K, D)."""
        parts = self.to_qkv(self.norm(tokens)).chunk(3, dim=-1)
        query, key, value = (split_heads(part, self.head_dim) for part in parts)  # (B, heads, K, Dh)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(attended.transpose(1, 2).flatten(2))


class TemporalMixer(nn.Module):
    """A small bidirectional transformer over the video tokens of all groups of a clip.

    Each group is summarized without the others, and a small LLM finds it hard to subtract what two tokens say. Layers
    between the groups put velocities, orders and times into the tokens themselves. A token is told the time of its
    group, the middle of the group as a share of the clip, by a learned projection of a Fourier code.

    Args:
        dim: D, width of the tokens.
        layers: Pre-norm transformer layers.
        heads: Attention heads.
        head_dim: Width of a head.
    """

    def __init__(self, dim: int, *, layers: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.time = nn.Linear(2 * WAVES, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([SelfAttention(dim, heads=heads, head_dim=head_dim), feed_forward(dim)])
            for _ in range(layers)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map the tokens of G groups in order, (..., G, q, D), to the same shape."""
        shape = tokens.shape
        code = self.time(time_code(shape[-3]).to(tokens))  # (G, D)
        tokens = (tokens + code[:, None]).reshape(-1, shape[-3] * shape[-2], shape[-1])  # (B, K, D)
        layers: Any = self.layers  # pairs, which the type of a ModuleList does not tell
        for attention, feed in layers:
            tokens = tokens + attention(tokens)
            tokens = tokens + feed(tokens)
        return tokens.view(shape)


def time_code(num_groups: int) -> Tensor:
    """Return sin(pi k t) and cos(pi k t), k = 1 .. WAVES, of the middles t of ``num_groups`` equal parts of [0, 1]."""
    times = (torch.arange(num_groups, dtype=torch.float32) + 0.5) / num_groups  # (G,)
    angles = math.pi * times[:, None] * torch.arange(1, WAVES + 1)  # (G, WAVES)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
