"""The two resamplers of TinyLLaVA-Video: a fixed number of video tokens, whatever the number of frames.

``naive`` lets every query look at the whole video; ``group`` cuts the video into groups that are summarized one by one.
Source: Zhang et al., TinyLLaVA-Video, arXiv:2501.15513. Parameter names equal those of its published weights.
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

WAVES = 8  # sines and cosines of the time code: the shortest wave spans a quarter of the clip
LayerCount = Annotated[int, AtLeast(0)]


class _Resampler(nn.Module):
    """What both are built of: latents that look at patches in the LLM's width, and positions."""

    text_decoder = None
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
        """What features must be cast to."""
        return self.latents.dtype

    def forward(self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None) -> Tensor:
        """Map the features (T, P, Dv) of one clip to video tokens (num_queries, D)."""
        return self._resample(self.linear(features.flatten(0, 1)))

    def _resample(self, media: Tensor) -> Tensor:
        """Map the patches of a clip (T * P, D) to video tokens (num_queries, D)."""
        raise NotImplementedError


@CONNECTORS.register("naive")
class NaiveResampler(_Resampler):
    """Summarize a whole video with learned queries, all of which look at all patches.

    Args:
        num_queries: Video tokens of a clip.
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
    """Cut a video into groups of consecutive patches and summarize each with the same few queries.

    The groups differ in length by one patch at most, the first ones being the longer; when the number of frames is
    divisible by the number of groups, cuts fall between frames. Positions are added to the video tokens. A group knows
    nothing of the others unless ``mixer_layers`` lets the tokens look at each other (``TemporalMixer``): what
    moves, in which direction, and what happens first are then in the tokens, where a small LLM finds them.

    Args:
        num_queries: Video tokens of a clip, divisible by ``num_groups``.
        num_groups: Groups of a clip.
        depth: Perceiver blocks.
        heads: Attention heads of a block, and of a layer of the mixer.
        head_dim: Width of a head.
        mixer_layers: Layers in which the tokens of all groups look at each other; 0 for none, as published.

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
                f"connector.num_groups={num_groups}; the nearest num_queries that are: {nearest}"
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
        """Split (N, D) into groups of equal length: (G, N / G, D), or the longer groups and then the shorter ones."""
        short, num_long = divmod(len(media), self.num_groups)
        lengths = [(num_long, short + 1), (self.num_groups - num_long, short)]
        parts = media.split([count * length for count, length in lengths])
        return [part.view(*shape, media.shape[1]) for part, shape in zip(parts, lengths, strict=True) if shape[0]]

    def _summarize(self, media: Tensor) -> Tensor:
        """Map groups (g, n, D) to their video tokens (g * q, D)."""
        latents = self.latents.expand(len(media), -1, -1)  # (g, q, D)
        return refine(self.layers, latents, media).flatten(0, 1)


class SelfAttention(nn.Module):
    """Let the tokens of a clip look at each other, in both directions of time."""

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
