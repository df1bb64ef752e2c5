"""The connector of LLaMA-VID: each frame becomes a context token, which depends on the question, and content tokens.

A text decoder, which is a separate part, reads the question.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinyvid.errors import ConfigError, DataError
from tinyvid.models.connectors.blocks import projection
from tinyvid.protocols import TextDecoder
from tinyvid.registry import CONNECTORS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, TokenSpec

Kind = Literal["none", "mean", "grid", "drop"]  # how content tokens are pooled


@CONNECTORS.register("llamavid")
class LlamaVid(nn.Module):
    """Map each frame to a context token, which depends on the question, and to content tokens.

    Frames are independent and are processed in blocks. With gradients, the blocks are checkpointed, so memory does not
    grow with the number of frames. Source: Li et al., LLaMA-VID, arXiv:2311.17043.

    Args:
        text_decoder: Implements ``protocols.TextDecoder``.
        content: ``mean`` (one token), ``grid`` (``grid`` x ``grid`` tokens), ``none`` (no pooling: one token per patch)
            or ``drop`` (no content tokens, only the context token).
        grid: K, side of the grid of content tokens, with ``content=grid``.
        legacy_grid: Pool grids as LLaMA-VID does, which may skip patches and return more than K x K tokens.
        depth: Linear layers that project content tokens, with GELU between them.
        scale: ``sqrt_dim`` divides the scores of the context attention by sqrt(Dv); ``none`` does not.
        key_proj: Whether a linear layer projects patches before they are compared with the question.
        values: Whether ``raw`` patches are averaged, or patches ``projected`` by a linear layer.
        choices: Whether the text decoder reads the choices of a multiple-choice question, or only its stem.
        chunk: Frames per block; limits memory and does not change the result.

    Raises:
        ConfigError: The tower's grid does not support the pooling.
    """

    reducer = None

    def __init__(  # noqa: PLR0913 - independent options
        self,
        *,
        features: FeatureSpec,
        llm_dim: int,
        text_decoder: TextDecoder,
        content: Kind = "mean",
        grid: PositiveInt = 2,
        legacy_grid: bool = False,
        depth: NumLayers = 2,
        scale: Literal["sqrt_dim", "none"] = "sqrt_dim",
        key_proj: bool = True,
        values: Literal["raw", "projected"] = "raw",
        choices: bool = True,
        chunk: PositiveInt = 64,
    ) -> None:
        super().__init__()
        self.context = ContextAttention(
            dim=features.dim,
            row_dim=text_decoder.dim,
            llm_dim=llm_dim,
            scale=scale,
            key_proj=key_proj,
            values=values,
        )
        self.content = ContentTokens(features, llm_dim, kind=content, grid=grid, legacy=legacy_grid, depth=depth)
        self.text_decoder = text_decoder
        self.chunk = chunk
        self.tokens = TokenSpec(
            TokenBudget(per_frame=1 + self.content.num_tokens),
            reads_question=True,
            reads_choices=choices,
            in_pieces=True,
            smaller=tuple(1 + count for count in self.content.smaller),
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features must have."""
        return self.context.query.weight.dtype

    def forward(self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None) -> Tensor:
        """Map the features (T, P, Dv) of one clip to tokens (T * (1 + n), D): for each frame context, then content."""
        asked, blocks = (question, per_frame), features.split(self.chunk)
        if len(blocks) > 1 and self._keeps_graph(features):
            tokens = [checkpoint(self.frame_tokens, block, *asked, use_reentrant=False) for block in blocks]
        else:
            tokens = [self.frame_tokens(block, *asked) for block in blocks]
        return torch.cat(tokens).flatten(0, 1)

    def frame_tokens(self, features: Tensor, question: Question | None, per_frame: int | None = None) -> Tensor:
        """Map the features of frames (T, P, Dv) to their tokens (T, 1 + n, D)."""
        return self.combine(features, *self.read(features, question), per_frame)

    def read(self, features: Tensor, question: Question | None) -> tuple[Tensor, Tensor]:
        """Map features (T, P, Dv) to the rows (T, M, R) of the text decoder, and a mask (M,) of the real rows."""
        if question is None:
            raise DataError("the connector 'llamavid' got no question; pass the question of the clip")
        dtype = self.text_decoder.dtype  # a frozen text decoder may have another dtype than the trained weights
        if question.embeddings is not None:
            question = Question(question.text, question.ids, question.embeddings.to(dtype), question.mask)
        rows, mask = self.text_decoder(features.to(dtype), question)
        return rows.to(features.dtype), mask

    def combine(self, patches: Tensor, rows: Tensor, mask: Tensor, per_frame: int | None = None) -> Tensor:
        """Return the tokens (T, 1 + n, D) of frames: the context token, then the content tokens."""
        context = self.context(rows, mask, patches).unsqueeze(1)  # (T, 1, D)
        if not self.content.num_tokens:
            return context
        return torch.cat([context, self.content(patches, None if per_frame is None else per_frame - 1)], dim=1)

    @torch.no_grad()
    def attention(self, features: Tensor, question: Question) -> Tensor:
        """Return the weight of each patch in its frame's context token: (T, P, Dv) to (T, P). Rows sum to 1."""
        return torch.cat(
            [self.context.weights(*self.read(block, question), block) for block in features.split(self.chunk)]
        )

    def train(self, mode: bool = True) -> "LlamaVid":
        """Switch to training mode. A frozen text decoder stays in eval mode, so its dropout stays off."""
        super().train(mode)
        decoder = self.get_submodule("text_decoder")
        if not any(p.requires_grad for p in decoder.parameters()):
            decoder.eval()
        return self

    def _keeps_graph(self, features: Tensor) -> bool:
        learns = features.requires_grad or any(p.requires_grad for p in self.parameters())
        return torch.is_grad_enabled() and learns


class ContextAttention(nn.Module):
    """Average the patches of a frame, weighted by the attention of a text decoder's rows.

    One head: ``S = softmax(Q K^T / sqrt(Dv))`` over the patches, ``c = mean of S V over the real rows``, projected to
    the LLM's width. Source: Li et al., LLaMA-VID, arXiv:2311.17043, equation 1, and its code, which has the scale and
    the key projection that the equation omits.

    Args:
        dim: Dv, width of a patch.
        row_dim: R, width of a row.
        llm_dim: D, width of the LLM.
        scale: ``sqrt_dim`` divides the scores by sqrt(Dv); ``none`` does not.
        key_proj: Whether a linear layer projects the keys.
        values: Whether ``raw`` patches are averaged, or patches ``projected`` by a linear layer.
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
        """Map rows (T, M, R), a mask of the real ones (M,) and patches (T, P, Dv) to context tokens (T, D)."""
        weights = self.weights(rows, mask, patches)  # (T, P)
        # The mean of S V over the rows equals (mean of S) V, which needs one row instead of M.
        return self.out((weights.unsqueeze(1) @ self.value(patches)).squeeze(1))

    def weights(self, rows: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
        """Return the weight of each patch (T, P): the mean attention of the real rows, or uniform without real rows."""
        scores = self.query(rows) @ self.key(patches).transpose(1, 2) * self.scale  # (T, M, P)
        attention = scores.softmax(-1)
        real = mask.to(attention.dtype)[:, None]  # (M, 1)
        count = real.sum()
        even = torch.full_like(patches[..., 0], 1 / patches.shape[1])  # (T, P)
        return torch.where(count > 0, (attention * real).sum(1) / count.clamp(min=1), even)


class ContentTokens(nn.Module):
    """Pool the patches of a frame, and project them to the LLM's width.

    Args:
        kind: ``content`` of ``LlamaVid``; ``none`` is the ``compress_type`` of that name in LLaMA-VID.
        grid: K, with ``kind=grid``.
        legacy: Pool as LLaMA-VID does: squares of side // K patches, so that the last rows and columns may be left out
            and the tokens may be more than K x K.
        depth: Linear layers of the projection, with GELU between them.

    Attributes:
        num_tokens: Content tokens of a frame.
        smaller: Numbers of them that the same weights can make instead, in falling order: grids down to the mean.

    Raises:
        ConfigError: The tower's patches do not form a rectangle, or it is smaller than K x K.
    """

    def __init__(
        self, features: FeatureSpec, llm_dim: int, *, kind: Kind, grid: int, legacy: bool = False, depth: int = 2
    ) -> None:
        super().__init__()
        self.kind = kind
        self.grid = grid
        self.stride = 0  # side of the pooled squares of a legacy grid
        self.shape = features.grid
        if kind == "grid":
            rows, columns = _check_grid(features, grid)
            if legacy:
                self.stride = _legacy_stride(rows, columns, grid)
        sides = math.prod((side - self.stride) // self.stride + 1 for side in features.grid or ()) if self.stride else 0
        self.num_tokens = {"none": features.num_patches, "mean": 1, "grid": sides or grid * grid, "drop": 0}[kind]
        finest = 0 if legacy else {"none": min(features.grid or (0,)), "grid": grid}.get(kind, 0)
        self.smaller = tuple(side**2 for side in range(finest, 0, -1) if side**2 < self.num_tokens)
        self.layers = nn.Sequential() if kind == "drop" else projection(features.dim, llm_dim, depth)

    def forward(self, patches: Tensor, num_tokens: int | None = None) -> Tensor:
        """Map patches (T, P, Dv) to content tokens (T, n, D), grids row by row; n may be one of ``smaller``."""
        return self.layers(self.pool(patches, num_tokens))

    def pool(self, patches: Tensor, num_tokens: int | None = None) -> Tensor:
        """Pool the patches of each frame: (T, P, Dv) to (T, n, Dv)."""
        if self.kind == "mean":
            return patches.mean(1, keepdim=True)
        if self.kind == "grid" or num_tokens is not None:
            assert self.shape is not None  # checked when built
            side = self.grid if num_tokens is None else math.isqrt(num_tokens)
            maps = patches.unflatten(1, self.shape).permute(0, 3, 1, 2)  # (T, Dv, rows, columns)
            pooled = F.avg_pool2d(maps, self.stride) if self.stride else F.adaptive_avg_pool2d(maps, side)
            return pooled.flatten(2).transpose(1, 2)
        return patches


def _check_grid(features: FeatureSpec, grid: int) -> tuple[int, int]:
    if features.grid is None:
        raise ConfigError(
            f"connector.content=grid needs a rectangle of patches, but the {features.num_patches} patches of this "
            "tower do not form one; use connector.content=mean, or vision_tower.select=all if it is 'patch'"
        )
    if grid > min(features.grid):
        rows, columns = features.grid
        raise ConfigError(
            f"connector.grid={grid} is larger than the tower's grid of {rows} x {columns} patches; "
            f"use at most {min(features.grid)}"
        )
    return features.grid


def _legacy_stride(rows: int, columns: int, grid: int) -> int:
    if rows != columns or grid < 2:
        raise ConfigError(
            f"connector.legacy_grid=true needs a square of patches and connector.grid of at least 2, got {rows} x "
            f"{columns} patches and grid={grid}; use legacy_grid=false, which supports any grid"
        )
    return rows // grid
