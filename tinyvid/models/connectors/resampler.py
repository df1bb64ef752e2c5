"""The resamplers of TinyLLaVA-Video: a fixed number of video tokens for any number of frames.

In ``naive``, every query attends to the whole video. ``group`` divides the video into groups and summarizes each.
Source: Zhang et al., TinyLLaVA-Video, arXiv:2501.15513. Parameter names match its published weights.
"""

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.connectors.blocks import (
    HEAD_DIM,
    HEADS,
    Sinusoids,
    feed_forward,
    init_linear,
    perceiver_layers,
    refine,
    split_heads,
)
from tinyvid.registry import CONNECTORS, AtLeast, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, TokenSpec

WAVES = 8  # sines and cosines of the time code; the shortest period is a quarter of the clip
LayerCount = Annotated[int, AtLeast(0)]


class _Resampler(nn.Module):
    """Base of the resamplers: latents that attend to patches projected to the LLM's width, and positions."""

    text_decoder = None
    reducer = None
    attention = None

    def __init__(
        self,
        features: FeatureSpec,
        llm_dim: int,
        *,
        num_queries: int,
        num_groups: int = 1,
        depth: int,
        heads: int = HEADS,
        head_dim: int = HEAD_DIM,
    ) -> None:
        super().__init__()
        self.tokens = TokenSpec(TokenBudget(fixed=num_queries))
        self.latents = nn.Parameter(torch.randn(num_queries // num_groups, llm_dim))  # q queries, shared by the groups
        self.linear = nn.Linear(features.dim, llm_dim)
        self.layers = perceiver_layers(llm_dim, depth, heads=heads, head_dim=head_dim)
        self.norm = nn.LayerNorm(llm_dim)
        self.positions = Sinusoids(llm_dim)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features must have."""
        return self.latents.dtype

    def forward(self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None) -> Tensor:
        """Map the features (T, P, Dv) of one clip to video tokens (num_queries, D)."""
        return self._resample(self.linear(features.flatten(0, 1)))

    def _resample(self, media: Tensor) -> Tensor:
        """Map the patches of a clip (T * P, D) to video tokens (num_queries, D)."""
        raise NotImplementedError


@CONNECTORS.register("naive")
class NaiveResampler(_Resampler):
    """Summarize a whole video with learned queries that attend to all patches.

    Args:
        num_queries: Video tokens per clip.
        depth: Perceiver blocks.
    """

    def __init__(
        self, *, features: FeatureSpec, llm_dim: int, num_queries: PositiveInt = 512, depth: NumLayers = 3
    ) -> None:
        super().__init__(features, llm_dim, num_queries=num_queries, depth=depth)
        self.apply(init_linear)

    def _resample(self, media: Tensor) -> Tensor:
        media = media + self.positions(len(media), like=media)
        latents = refine(self.layers, self.latents[None], media[None])  # one group: (1, num_queries, D)
        return self.norm(latents[0])


@CONNECTORS.register("group")
class GroupResampler(_Resampler):
    """Divide a video into groups of consecutive patches, and summarize each group with the same few queries.

    Group lengths differ by at most one patch, and the first groups are the longer ones. If the number of frames is
    divisible by the number of groups, every group consists of whole frames. Positions are added to the video tokens.
    Groups are independent unless ``mixer_layers`` adds attention between their tokens (``TemporalMixer``), which
    encodes motion, direction and order in the tokens themselves, where a small LLM can use them.

    Args:
        num_queries: Video tokens per clip, divisible by ``num_groups``.
        num_groups: Groups per clip.
        depth: Perceiver blocks.
        heads: Attention heads of a block and of a mixer layer.
        head_dim: Dh, width of a head.
        mixer_layers: Attention layers between the tokens of all groups; 0 for none, as published.

    Raises:
        ConfigError: ``num_queries`` is not divisible by ``num_groups``.
    """

    def __init__(
        self,
        *,
        features: FeatureSpec,
        llm_dim: int,
        num_queries: PositiveInt = 512,
        num_groups: PositiveInt = 16,
        depth: NumLayers = 3,
        heads: PositiveInt = HEADS,
        head_dim: PositiveInt = HEAD_DIM,
        mixer_layers: LayerCount = 0,
    ) -> None:
        if num_queries % num_groups:
            below = num_queries // num_groups * num_groups
            nearest = " or ".join(str(n) for n in (below, below + num_groups) if n)
            raise ConfigError(
                f"connector 'group': connector.num_queries={num_queries} is not divisible by "
                f"connector.num_groups={num_groups}; use num_queries={nearest}"
            )
        super().__init__(
            features,
            llm_dim,
            num_queries=num_queries,
            num_groups=num_groups,
            depth=depth,
            heads=heads,
            head_dim=head_dim,
        )
        self.num_groups = num_groups
        self.mixer = (
            TemporalMixer(llm_dim, layers=mixer_layers, heads=heads, head_dim=head_dim) if mixer_layers else None
        )
        self.apply(init_linear)

    def _resample(self, media: Tensor) -> Tensor:
        tokens = [self._summarize(groups) for groups in self._cut(media)]
        out = self.norm(torch.cat(tokens))
        out = out + self.positions(len(out), like=out)
        return out if self.mixer is None else self.mixer(out.unflatten(0, (self.num_groups, -1))).flatten(0, 1)

    def _cut(self, media: Tensor) -> list[Tensor]:
        """Split (N, D) into groups: (G, N / G, D), or the longer groups and then the shorter ones."""
        short, num_long = divmod(len(media), self.num_groups)
        lengths = [(num_long, short + 1), (self.num_groups - num_long, short)]
        parts = media.split([count * length for count, length in lengths])
        return [part.view(*shape, media.shape[1]) for part, shape in zip(parts, lengths, strict=True) if shape[0]]

    def _summarize(self, media: Tensor) -> Tensor:
        """Map groups (g, n, D) to their video tokens (g * q, D)."""
        latents = self.latents.expand(len(media), -1, -1)  # (g, q, D)
        return refine(self.layers, latents, media).flatten(0, 1)


class SelfAttention(nn.Module):
    """Bidirectional self-attention over the tokens of a clip."""

    def __init__(self, dim: int, *, heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, K, D) to the output of the attention (B, K, D)."""
        parts = self.to_qkv(self.norm(tokens)).chunk(3, dim=-1)
        query, key, value = (split_heads(part, self.head_dim) for part in parts)  # (B, heads, K, Dh)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(attended.transpose(1, 2).flatten(2))


class TemporalMixer(nn.Module):
    """A small bidirectional transformer over the video tokens of all groups of a clip.

    Groups are summarized independently, and a small LLM is poor at comparing two tokens. These layers encode
    velocity, order and time in the tokens themselves. A learned projection of a Fourier code tells each token the
    time of its group: the middle of the group, as a fraction of the clip.
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
        layers: Any = self.layers  # pairs, which the type of a ModuleList cannot express
        for attention, feed in layers:
            tokens = tokens + attention(tokens)
            tokens = tokens + feed(tokens)
        return tokens.view(shape)


def time_code(num_groups: int) -> Tensor:
    """Return sin(pi k t) and cos(pi k t), k = 1 .. WAVES, for the centers t of ``num_groups`` equal parts of [0, 1]."""
    times = (torch.arange(num_groups, dtype=torch.float32) + 0.5) / num_groups  # (G,)
    angles = math.pi * times[:, None] * torch.arange(1, WAVES + 1)  # (G, WAVES)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
