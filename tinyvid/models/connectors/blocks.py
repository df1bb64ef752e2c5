"""Building blocks of the resamplers: the Perceiver block, the sinusoid table, and the initialization.

Layer names match TinyLLaVA-Video's published weights, so its tensors load without renaming.
"""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.protocols import Reducer
from tinyvid.types import TokenSpec

HEADS = 8  # as in the published models, independent of D
HEAD_DIM = 64


class CrossAttention(nn.Module):
    """Cross-attention of latents to media and to themselves (Perceiver resampler, Flamingo, arXiv:2204.14198)."""

    def __init__(self, dim: int, *, heads: int = HEADS, head_dim: int = HEAD_DIM) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, latents: Tensor, media: Tensor) -> Tensor:
        """Map the latents (G, q, D) and the media (G, N, D) of G independent groups to (G, q, D)."""
        latents = self.norm_latents(latents)
        kv = torch.cat([self.to_kv(self.norm_media(media)), self.to_kv(latents)], dim=1)  # (G, N + q, 2 * heads * Dh)
        query, key, value = (split_heads(x, self.head_dim) for x in (self.to_q(latents), *kv.chunk(2, dim=-1)))
        attended = F.scaled_dot_product_attention(query, key, value)  # (G, heads, q, Dh)
        return self.to_out(attended.transpose(1, 2).flatten(2))


def projection(dim: int, llm_dim: int, depth: int, *, bias: bool = True) -> nn.Sequential:
    """Return ``depth`` linear layers from the width of a patch to the LLM's, with GELU between them."""
    widths = [dim, *[llm_dim] * depth]
    linears = [nn.Linear(wide, narrow, bias=bias) for wide, narrow in itertools.pairwise(widths)]
    return nn.Sequential(*[m for linear in linears for m in (linear, nn.GELU())][:-1])


def reduced_tokens(reducer: Reducer) -> TokenSpec:
    """Return the tokens of a connector that turns every vector of a reducer into one token."""
    return TokenSpec(
        reducer.budget,
        reads_question=reducer.reads_question,
        in_pieces=reducer.causal,
        kept_positions=reducer.positions == "kept",
    )


def feed_forward(dim: int) -> nn.Sequential:
    """Return the feed-forward half of a block: norm, D to 4D, exact GELU, and back to D."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 4 * dim, bias=False), nn.GELU(), nn.Linear(4 * dim, dim, bias=False)
    )


def perceiver_layers(dim: int, depth: int, *, heads: int = HEADS, head_dim: int = HEAD_DIM) -> nn.ModuleList:
    """Return ``depth`` blocks, each a pair of cross-attention and feed-forward."""
    return nn.ModuleList(
        nn.ModuleList([CrossAttention(dim, heads=heads, head_dim=head_dim), feed_forward(dim)]) for _ in range(depth)
    )


def refine(layers: Iterable[Any], latents: Tensor, media: Tensor) -> Tensor:
    """Run latents (G, q, D) through the blocks, with the same media (G, N, D) in every block."""
    for attention, feed in layers:
        latents = latents + attention(latents, media)
        latents = latents + feed(latents)
    return latents


class Sinusoids:
    """Position table of a resampler: row p contains sin and cos of p times D/2 decreasing frequencies, interleaved.

    Values are rounded to float16, as in the training of the published weights. They are computed on the CPU, so every
    device uses the same values, and cached until a longer table or another device is needed. The table is not a
    buffer, because casting the connector must not round it again.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._table = torch.empty(0, dim, dtype=torch.float16)

    def __call__(self, num_rows: int, like: Tensor) -> Tensor:
        """Return rows 0 .. ``num_rows`` - 1 as (num_rows, D), in the dtype and on the device of ``like``."""
        if len(self._table) < num_rows:
            self._table = sinusoid_table(num_rows, self.dim)
        self._table = self._table.to(like.device)
        return self._table[:num_rows].to(like.dtype)


def sinusoid_table(num_rows: int, dim: int) -> Tensor:
    """Return PE[p, 2i] = sin(p w_i), PE[p, 2i + 1] = cos(p w_i), w_i = 10000^(-2i/D), as float16 (num_rows, D).

    Source: Vaswani et al. 2017, section 3.5.
    """
    frequencies = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))  # (D/2,)
    angles = torch.arange(num_rows, dtype=torch.float32)[:, None] * frequencies  # (num_rows, D/2)
    table = torch.empty(num_rows, dim, dtype=torch.float16)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table


def init_linear(module: nn.Module) -> None:
    """Initialize a linear layer as in language models: weights normal(0, 0.02), biases 0. For ``nn.Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """Reshape (G, N, heads * Dh) to (G, heads, N, Dh)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)
