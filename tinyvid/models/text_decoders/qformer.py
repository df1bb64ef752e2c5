"""The Q-Former of InstructBLIP and LLaMA-VID: learned queries attend to the question and the frame."""

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.text_decoders.qformer_weights import read_qformer
from tinyvid.models.weights import without_weights
from tinyvid.registry import TEXT_DECODERS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question


@TEXT_DECODERS.register("qformer")
class QFormer(nn.Module):
    """Learned queries that attend to the question and the frame: always ``num_queries`` rows.

    In every layer, queries and tokens attend to each other; in every second layer, only the queries attend to the
    frame. Queries and tokens have separate feed-forward blocks. Source: Dai et al., InstructBLIP, arXiv:2305.06500; Li
    et al., LLaMA-VID, arXiv:2311.17043.

    Args:
        path: Weights to start from: a file of InstructBLIP (with the key ``model``), or a file or folder of
            LLaMA-VID, as safetensors or as a pickle of tensors; ``null`` for new weights.
        tokenizer: Directory or hub id of the tokenizer.
        num_queries: M, number of rows.
        dim: R, width of a row.
        num_layers: Layers; only the first layers of the weights are used if they have more.
        num_heads: Heads of each attention.
        mlp_dim: Width of the feed-forward blocks.
        vocab_size: Size of the vocabulary.
        num_positions: Number of position embeddings.
        encoder_dim: Width of the patches that the weights were trained on; ``null`` for the tower's width. Features
            of another width pass through a linear layer, which is new unless ``path`` contains it.
        norm: Whether patches are normalized before the queries attend to them.
        max_length: Longest question, in tokens; the beginning of a longer one is dropped.
        dropout: Dropout during training.

    Raises:
        ConfigError: ``max_length`` exceeds the positions.
        CheckpointError: ``path`` cannot be read, or its weights do not match.
    """

    reads_embeddings = False
    pretrained = True

    def __init__(  # noqa: PLR0913 - sizes that a checkpoint must record
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
                f"text_decoder.max_length={max_length} exceeds text_decoder.num_positions={num_positions}; lower it"
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
        """The dtype that features and embeddings must have."""
        return self.queries.dtype

    def forward(self, features: Tensor, question: Question) -> tuple[Tensor, Tensor]:
        """Map features (T, P, Dv) to the rows of the queries (T, M, R), all of which are real, (M,)."""
        count, num_queries = len(features), self.queries.shape[1]
        ones = self.queries.new_ones(num_queries, dtype=torch.bool)
        seen = torch.cat([ones, question.real])  # (M + L,)
        out = self.model(
            input_ids=question.ids.expand(count, -1),  # (T, L)
            attention_mask=seen.expand(count, -1).long(),
            query_embeds=self.queries.expand(count, -1, -1),  # (T, M, R)
            encoder_hidden_states=self.norm(self.project(features)),  # (T, P, width)
        )
        return out.last_hidden_state[:, :num_queries], ones
