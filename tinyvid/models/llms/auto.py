"""Any causal LM that transformers knows by itself."""

import torch

from tinyvid.models.llms.loading import Attention, load
from tinyvid.models.llms.rope import Rope, Scaling
from tinyvid.protocols import LanguageModel
from tinyvid.registry import LLMS, PositiveFloat, PositiveInt


@LLMS.register("auto")
def auto(
    *,
    path: str,
    revision: str | None = None,
    tokenizer: str | None = None,
    attention: Attention = "sdpa",
    max_length: PositiveInt = 2048,
    rope_scaling: Scaling = "none",
    rope_factor: PositiveFloat = 1.0,
    dtype: torch.dtype,
    quant: str,
    device: str,
) -> LanguageModel:
    """Load any causal LM; see ``tinyvid.models.llms.loading.load``."""
    return load(
        path=path,
        revision=revision,
        tokenizer=tokenizer,
        attention=attention,
        max_length=max_length,
        rope=Rope(rope_scaling, rope_factor),
        model_type=None,
        dtype=dtype,
        quant=quant,
        device=device,
    )
