"""BERT as a text decoder: the words of the question read the frame, layer by layer."""

from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.text_decoders.hub_weights import SIZES, start_from
from tinyvid.registry import TEXT_DECODERS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question


@TEXT_DECODERS.register("bert")
class Bert(nn.Module):
    """Let BERT read the question while every layer looks at the frame: one row per word piece.

    Words see only earlier words, as in LLaMA-VID's ``raw`` variant. BERT itself has no cross attention; where the
    weights bring none, it is new. Source: Devlin et al., arXiv:1810.04805; Li et al., LLaMA-VID, arXiv:2311.17043.

    Args:
        path: BERT to start from, a directory or a hub id; ``null`` for new weights.
        tokenizer: Directory or hub id of its tokenizer.
        dim: R, width of a row.
        num_layers: Layers.
        num_heads: Heads of each attention.
        mlp_dim: Width inside the feed-forward blocks.
        vocab_size: Rows of the table of words.
        num_positions: Rows of the table of positions.
        max_length: Most tokens of a question; a longer one loses its beginning.
        dropout: While it trains.

    Raises:
        ConfigError: ``max_length`` exceeds the positions, or ``path`` holds a BERT of other sizes.
        CheckpointError: ``path`` cannot be reached, or its weights do not fit.
    """

    reads_embeddings = False
    pretrained = True

    def __init__(  # noqa: PLR0913 - sizes, which a checkpoint must state
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
                f"text_decoder.max_length={max_length} exceeds the {num_positions} positions of this BERT"
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
        self.project = nn.Linear(features.dim, dim)  # patches to the width that the layers' cross attention reads
        sizes = SIZES | {"max_position_embeddings": "num_positions"}
        self.model = start_from(path, _bert_class(), config, compare=sizes)

    @property
    def dtype(self) -> torch.dtype:
        """What features and embeddings must be cast to."""
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
    """Return transformers' BERT without its pooler; its files hold heads, which are left, and no cross attention."""
    from transformers import BertModel

    class Decoder(BertModel):
        _keys_to_ignore_on_load_missing = (r"\.crossattention\.",)
        _keys_to_ignore_on_load_unexpected = (r"^cls\.", r"pooler\.", r"position_ids$")

        def __init__(self, config: Any) -> None:
            super().__init__(config, add_pooling_layer=False)

    return Decoder
