"""The text tower of SigLIP as a text decoder: its text features are aligned with images, and it sees no frame."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.text_decoders.hub_weights import SIZES, start_from
from tinyvid.registry import TEXT_DECODERS, NumLayers, PositiveInt
from tinyvid.types import FeatureSpec, Question


@TEXT_DECODERS.register("siglip_text")
class SiglipText(nn.Module):
    """Encode the question with SigLIP's text tower: one row per token, the same for every frame.

    SigLIP was trained on texts padded to its 64 positions, without masking the padding. Questions are therefore padded
    in the same way, and the rows of the padding are dropped. Source: Zhai et al., arXiv:2303.15343.

    Args:
        path: SigLIP to start from, whole or its text tower, a directory or a hub id; ``null`` for new weights.
        tokenizer: Directory or hub id of the tokenizer.
        dim: R, width of a row.
        num_layers: Layers.
        num_heads: Heads of each attention.
        mlp_dim: Width of the feed-forward blocks.
        vocab_size: Size of the vocabulary.
        max_length: Number of positions; the beginning of a longer question is dropped.
        pad_id: Token id of the padding.

    Raises:
        ConfigError: ``pad_id`` is not a token, or the sizes of the model in ``path`` differ.
        CheckpointError: ``path`` cannot be read, or its weights do not match.
    """

    reads_embeddings = False
    pretrained = True

    def __init__(  # noqa: PLR0913 - sizes that a checkpoint must record
        self,
        *,
        features: FeatureSpec,
        llm_dim: int,
        path: str | None = "google/siglip-base-patch16-224",
        tokenizer: str | None = "google/siglip-base-patch16-224",
        dim: PositiveInt = 768,
        num_layers: NumLayers = 12,
        num_heads: PositiveInt = 12,
        mlp_dim: PositiveInt = 3072,
        vocab_size: PositiveInt = 32000,
        max_length: PositiveInt = 64,
        pad_id: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= pad_id < vocab_size:
            raise ConfigError(f"text_decoder.pad_id={pad_id} must be a token id from 0 to {vocab_size - 1}")
        from transformers import SiglipTextConfig, SiglipTextModel

        config = SiglipTextConfig(
            vocab_size=vocab_size,
            hidden_size=dim,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=mlp_dim,
            max_position_embeddings=max_length,
            projection_size=dim,
            pad_token_id=pad_id,
        )
        whole = {"_keys_to_ignore_on_load_unexpected": [r"^vision_model\.", r"^logit_(scale|bias)$", r"position_ids$"]}
        text_half = type(SiglipTextModel.__name__, (SiglipTextModel,), whole)
        self.dim, self.max_length, self.vocab_size = dim, max_length, vocab_size
        self.pad_id = pad_id
        sizes = SIZES | {"max_position_embeddings": "max_length"}
        self.model = start_from(path, text_half, config, compare=sizes, section="text_config")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that features and embeddings must have."""
        return self.model.dtype

    def forward(self, features: Tensor, question: Question) -> tuple[Tensor, Tensor]:
        """Return rows (T, L, R), one per token of the question and the same in each frame, and which are real, (L,)."""
        length = len(question.ids)
        ids = question.ids.masked_fill(~question.real, self.pad_id)
        ids = F.pad(ids, (0, self.max_length - length), value=self.pad_id)
        rows = self.model(input_ids=ids[None]).last_hidden_state[:, :length]  # (1, L, R)
        return rows.expand(len(features), -1, -1), question.real
