"""A small text decoder: the LLM's embeddings of the question, and a few layers that attend to the frame."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.registry import TEXT_DECODERS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question


class Attention(nn.Module):
    """Attention of rows to other rows or to each other."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, rows: Tensor, others: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map rows (T, L, R) to the output of their attention to ``others`` (T, N, R) where ``mask`` (N,) is true."""
        parts = (self.query(rows), *self.key_value(others).chunk(2, dim=-1))
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in parts)  # (T, heads, ., Rh)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A pre-norm Transformer decoder layer: self-attention, cross-attention to the patches, and feed-forward."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.words, self.patches = Attention(dim, num_heads), Attention(dim, num_heads)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, rows: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
        """Update rows (T, L, R), which are real where ``mask`` (L,) is true, with patches (T, P, R)."""
        before_words, before_patches, before_feed = self.norms
        normed = before_words(rows)
        rows = rows + self.words(normed, normed, mask.expand(1, 1, 1, -1))
        rows = rows + self.patches(before_patches(rows), patches)
        return rows + self.feed(before_feed(rows))


@TEXT_DECODERS.register("llm_embed")
class LLMEmbed(nn.Module):
    """Attention of the LLM's embeddings of a question to the frame: one row per token, with new weights.

    No second tokenizer is needed. The embeddings belong to the LLM and receive no gradient from here.

    Args:
        dim: R, width of a row.
        depth: Layers.
        num_heads: Heads of each attention.
        max_length: Longest question, in tokens; the beginning of a longer one is dropped.

    Raises:
        ConfigError: ``dim`` is not divisible by ``num_heads``.
    """

    reads_embeddings = True
    pretrained = False
    vocab_size = None

    def __init__(
        self,
        *,
        features: FeatureSpec,
        llm_dim: int,
        dim: PositiveInt = 512,
        depth: NumLayers = 2,
        num_heads: PositiveInt = 8,
        max_length: PositiveInt = 256,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigError(f"text_decoder.dim={dim} must be divisible by text_decoder.num_heads={num_heads}")
        self.dim = dim
        self.max_length = max_length
        self.words = nn.Linear(llm_dim, dim)
        self.positions = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        self.patches = nn.Sequential(nn.Linear(features.dim, dim), nn.LayerNorm(dim))
        self.layers = nn.ModuleList(Layer(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features and embeddings must have."""
        return self.words.weight.dtype

    def forward(self, features: Tensor, question: Question) -> tuple[Tensor, Tensor]:
        """Map features (T, P, Dv) to rows (T, L, R), one per token of the question, and which are real, (L,)."""
        assert question.embeddings is not None  # the model fills them in: reads_embeddings
        mask, length = question.real, len(question.embeddings)
        if length == 0:
            return features.new_zeros(len(features), 0, self.dim), mask
        rows = self.words(question.embeddings) + self.positions[:length]  # (L, R)
        rows = rows.expand(len(features), -1, -1)  # (T, L, R)
        patches = self.patches(features)  # (T, P, R)
        for layer in self.layers:
            rows = layer(rows, mask, patches)
        return self.norm(rows), mask
