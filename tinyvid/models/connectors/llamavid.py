"""The connector of LLaMA-VID: a frame becomes one context token, which the question chooses, and content tokens.

``context.py`` and ``content.py`` hold the two kinds of token; the text decoder, a part of its own, reads the question.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinyvid.errors import DataError
from tinyvid.models.connectors.content import ContentTokens, Kind
from tinyvid.models.connectors.context import ContextAttention
from tinyvid.protocols import TextDecoder
from tinyvid.registry import CONNECTORS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, TokenSpec


@CONNECTORS.register("llamavid")
class LlamaVid(nn.Module):
    """Give each frame one token that answers the question, followed by tokens of what it shows.

    Frames do not see each other, so memory does not grow with them: they pass in blocks, and where gradients are
    needed the blocks are computed again in the backward pass. Source: Li et al., LLaMA-VID, arXiv:2311.17043.

    Args:
        features: What the vision tower returns.
        llm_dim: D, width of the LLM.
        text_decoder: Fulfills ``protocols.TextDecoder``.
        content: ``mean`` (one token), ``grid`` (``grid`` x ``grid`` tokens), ``none`` (no pooling: every patch a token)
            or ``drop`` (no content token: the context token alone).
        grid: K, side of the grid of content tokens, with ``content=grid``.
        legacy_grid: Pool grids as LLaMA-VID does, which may leave out patches and make more than K x K tokens.
        depth: Linear layers that translate content tokens, with GELU between them.
        scale: ``sqrt_dim`` divides the scores of the context attention by sqrt(Dv); ``none`` does not.
        key_proj: Whether patches pass a linear layer before they are compared with the question.
        values: ``raw`` patches are averaged, or ``projected`` ones, which pass a linear layer first.
        choices: Whether the choices of a multiple-choice question guide the context token, or its stem alone.
        chunk: Frames that pass at once; bounds memory, changes no number.

    Raises:
        ConfigError: The tower's grid cannot be pooled as asked.
    """

    def __init__(  # noqa: PLR0913 - each is a choice of its own
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
        """What features must be cast to."""
        return self.context.query.weight.dtype

    def forward(self, features: Tensor, question: Question | None = None, *, per_frame: int | None = None) -> Tensor:
        """Map the features of one clip to video tokens.

        Args:
            features: (T, P, Dv).
            question: What the clip is asked.
            per_frame: Tokens of a frame, one of ``tokens.smaller``; those of the budget if not given.

        Returns:
            (T * (1 + n), D): of each frame the context token, then the content tokens.
        """
        asked, blocks = (question, per_frame), features.split(self.chunk)
        if len(blocks) > 1 and self._keeps_graph(features):
            tokens = [checkpoint(self.frame_tokens, block, *asked, use_reentrant=False) for block in blocks]
        else:
            tokens = [self.frame_tokens(block, *asked) for block in blocks]
        return torch.cat(tokens).flatten(0, 1)

    def frame_tokens(self, features: Tensor, question: Question | None, per_frame: int | None = None) -> Tensor:
        """Return the tokens of frames: (T, P, Dv) to (T, 1 + n, D)."""
        return self.combine(features, *self.read(features, question), per_frame)

    def read(self, features: Tensor, question: Question | None) -> tuple[Tensor, Tensor]:
        """Return the rows (T, M, R) that the text decoder makes of frames (T, P, Dv), and which are real, bool (M,)."""
        if question is None:
            raise DataError("the connector 'llamavid' reads the question, and was given none")
        dtype = self.text_decoder.dtype  # frozen, it may lie in another than what trains
        if question.embeddings is not None:
            question = Question(question.text, question.ids, question.embeddings.to(dtype), question.mask)
        rows, mask = self.text_decoder(features.to(dtype), question)
        return rows.to(features.dtype), mask

    def combine(self, patches: Tensor, rows: Tensor, mask: Tensor, per_frame: int | None = None) -> Tensor:
        """Return the tokens (T, 1 + n, D) of frames: what the rows choose of the patches, then what these show."""
        context = self.context(rows, mask, patches).unsqueeze(1)  # (T, 1, D)
        if not self.content.num_tokens:
            return context
        return torch.cat([context, self.content(patches, None if per_frame is None else per_frame - 1)], dim=1)

    @torch.no_grad()
    def attention(self, features: Tensor, question: Question) -> Tensor:
        """Return how much of each frame's context token comes from each patch: (T, P, Dv) to (T, P), rows sum to 1."""
        return torch.cat(
            [self.context.weights(*self.read(block, question), block) for block in features.split(self.chunk)]
        )

    def train(self, mode: bool = True) -> "LlamaVid":
        """Switch to training mode, except a frozen text decoder: its dropout stays off."""
        super().train(mode)
        decoder = self.get_submodule("text_decoder")
        if not any(p.requires_grad for p in decoder.parameters()):
            decoder.eval()
        return self

    def _keeps_graph(self, features: Tensor) -> bool:
        learns = features.requires_grad or any(p.requires_grad for p in self.parameters())
        return torch.is_grad_enabled() and learns
