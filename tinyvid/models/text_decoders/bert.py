"""BERT as a text decoder: the question attends to the frame in every layer."""

from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.text_decoders.hub_weights import SIZES, start_from
from tinyvid.registry import TEXT_DECODERS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question


@TEXT_DECODERS.register("bert")
class Bert(nn.Module):
    """BERT with cross-attention to the frame in every layer: one row per token of the question.

    Self-attention is causal, as in LLaMA-VID's ``raw`` variant. BERT itself has no cross-attention, so it is new unless
    the weights include it. Source: Devlin et al., arXiv:1810.04805; Li et al., LLaMA-VID, arXiv:2311.17043.

    Args:
        path: BERT to start from, a directory or a hub id; ``null`` for new weights.
        tokenizer: Directory or hub id of the tokenizer.
        dim: R, width of a row.
        num_layers: Layers.
        num_heads: Heads of each attention.
        mlp_dim: Width of the feed-forward blocks.
        vocab_size: Size of the vocabulary.
        num_positions: Number of position embeddings.
        max_length: Longest question, in tokens; the beginning of a longer one is dropped.
        dropout: Dropout during training.

    Raises:
        ConfigError: ``max_length`` exceeds the positions, or the sizes of the model in ``path`` differ.
        CheckpointError: ``path`` cannot be read, or its weights do not match.
    """

    reads_embeddings = False
    pretrained = True

    def __init__(  # noqa: PLR0913 - sizes that a checkpoint must record
        self,
        *,
        features: FeatureSpec,
        llm_dim: int,
        path: str | None = "bert-base-uncased",
        tokenizer: str | None = "bert-base-uncased",
        dim: PositiveInt = 768,
        num_layers: NumLayers = 12,
        num_heads: PositiveInt = 12,
        mlp_dim: PositiveInt = 3072,
        vocab_size: PositiveInt = 30522,
        num_positions: PositiveInt = 512,
        max_length: PositiveInt = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if max_length > num_positions:
            raise ConfigError(
                f"text_decoder.max_length={max_length} exceeds text_decoder.num_positions={num_positions}; lower it"
            )
        from transformers import BertConfig

        config = BertConfig(
            vocab_size=vocab_size,
            hidden_size=dim,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=mlp_dim,
            max_position_embeddings=num_positions,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            is_decoder=True,
            add_cross_attention=True,
            use_cache=False,
        )
        self.dim, self.max_length, self.vocab_size = dim, max_length, vocab_size
        self.project = nn.Linear(features.dim, dim)  # patches to the width of the cross-attention
        sizes = SIZES | {"max_position_embeddings": "num_positions"}
        self.model = start_from(path, _bert_class(), config, compare=sizes)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features and embeddings must have."""
        return self.project.weight.dtype

    def forward(self, features: Tensor, question: Question) -> tuple[Tensor, Tensor]:
        """Map features (T, P, Dv) to rows (T, L, R), one per token of the question, and which are real, (L,)."""
        out = self.model(
            input_ids=question.ids.expand(len(features), -1),  # (T, L)
            attention_mask=question.real.expand(len(features), -1).long(),
            encoder_hidden_states=self.project(features),  # (T, P, R)
        )
        return out.last_hidden_state, question.real


def _bert_class() -> Any:
    """Return transformers' BERT without the pooler. Files contain heads, which are skipped, and no cross-attention."""
    from transformers import BertModel

    class Decoder(BertModel):
        _keys_to_ignore_on_load_missing = (r"\.crossattention\.",)
        _keys_to_ignore_on_load_unexpected = (r"^cls\.", r"pooler\.", r"position_ids$")

        def __init__(self, config: Any) -> None:
            super().__init__(config, add_pooling_layer=False)

    return Decoder
