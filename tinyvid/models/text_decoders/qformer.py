"""The Q-Former of InstructBLIP and LLaMA-VID: learned queries read the question and the frame."""

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.text_decoders.qformer_weights import read_qformer
from tinyvid.models.weights import without_weights
from tinyvid.registry import TEXT_DECODERS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question


@TEXT_DECODERS.register("qformer")
class QFormer(nn.Module):
    """Let learned queries read the question and look at the frame: always ``num_queries`` rows.

    Queries and words see each other in every layer; every second layer the queries, and they alone, look at the frame.
    Queries and words have feed-forward blocks of their own. Source: Dai et al., InstructBLIP, arXiv:2305.06500; Li et
    al., LLaMA-VID, arXiv:2311.17043.

    Args:
        path: Weights to start from: a file of InstructBLIP (``model`` at the top), or a file or folder of LLaMA-VID,
            in safetensors or as a pickle of tensors; ``null`` for new weights.
        tokenizer: Directory or hub id of its tokenizer.
        num_queries: M, rows.
        dim: R, width of a row.
        num_layers: Layers; fewer than the weights have takes the first ones.
        num_heads: Heads of each attention.
        mlp_dim: Width inside the feed-forward blocks.
        vocab_size: Rows of the table of words.
        num_positions: Rows of the table of positions.
        encoder_dim: Width of patches that the weights look at. A tower of another width gets a linear layer in
            between, which is new where ``path`` brings none; ``null`` for the tower's own.
        norm: Whether patches are normalized before the queries look at them.
        max_length: Most tokens of a question; a longer one loses its beginning.
        dropout: While it trains.

    Raises:
        ConfigError: ``max_length`` exceeds the positions.
        CheckpointError: ``path`` cannot be read, or its weights do not fit.
    """

    reads_embeddings = False
    pretrained = True

    def __init__(  # noqa: PLR0913 - sizes, which a checkpoint must state
        self,
        *,
        features: FeatureSpec,
        llm_dim: int,
        path: str | None,
        tokenizer: str | None = "bert-base-uncased",
        num_queries: PositiveInt = 32,
        dim: PositiveInt = 768,
        num_layers: NumLayers = 12,
        num_heads: PositiveInt = 12,
        mlp_dim: PositiveInt = 3072,
        vocab_size: PositiveInt = 30523,
        num_positions: PositiveInt = 512,
        encoder_dim: PositiveInt | None = 1408,
        norm: bool = True,
        max_length: PositiveInt = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if max_length > num_positions:
            raise ConfigError(
                f"text_decoder.max_length={max_length} exceeds the {num_positions} positions of this Q-Former"
            )
        from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

        width = encoder_dim or features.dim
        config = InstructBlipQFormerConfig(
            vocab_size=vocab_size,
            hidden_size=dim,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=mlp_dim,
            max_position_embeddings=num_positions,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            encoder_hidden_size=width,
        )
        self.dim, self.max_length, self.vocab_size = dim, max_length, vocab_size
        self.queries = nn.Parameter(torch.randn(1, num_queries, dim) * config.initializer_range)
        self.project = nn.Linear(features.dim, width) if width != features.dim else nn.Identity()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.model = InstructBlipQFormerModel(config)
        if path is not None and not without_weights():
            read_qformer(self, path)

    @property
    def dtype(self) -> torch.dtype:
        """What features and embeddings must be cast to."""
        return self.queries.dtype

    def forward(self, features: Tensor, question: Question) -> tuple[Tensor, Tensor]:
        """Map features (T, P, Dv) to the rows of the queries (T, M, R), all of which are real, (M,)."""
        count, num_queries = len(features), self.queries.shape[1]
        ones = self.queries.new_ones(num_queries, dtype=torch.bool)
        seen = torch.cat([ones, question.real])  # (M + L,): words that are padding are not
        out = self.model(
            input_ids=question.ids.expand(count, -1),  # (T, L)
            attention_mask=seen.expand(count, -1).long(),
            query_embeds=self.queries.expand(count, -1, -1),  # (T, M, R)
            encoder_hidden_states=self.norm(self.project(features)),  # (T, P, width)
        )
        return out.last_hidden_state[:, :num_queries], ones
