"""Qwen2 and Qwen2.5, base and Instruct."""

import torch

from tinyvid.models.llms.loading import Attention, load
from tinyvid.models.llms.rope import Rope, Scaling
from tinyvid.protocols import LanguageModel
from tinyvid.registry import LLMS, PositiveFloat, PositiveInt


@LLMS.register("qwen2_5")
def qwen2_5(
    *,
    path: str = "Qwen/Qwen2.5-0.5B",
    revision: str | None = None,
    tokenizer: str | None = None,
    attention: Attention = "sdpa",
    max_length: PositiveInt = 3072,
    rope_scaling: Scaling = "none",
    rope_factor: PositiveFloat = 1.0,
    dtype: torch.dtype,
    quant: str,
    device: str,
) -> LanguageModel:
    """Load a Qwen2 or Qwen2.5 model; see ``tinyvid.models.llms.loading.load``."""
    return load(
        path=path,
        revision=revision,
        tokenizer=tokenizer,
        attention=attention,
        max_length=max_length,
        rope=Rope(rope_scaling, rope_factor),
        model_type="qwen2",
        dtype=dtype,
        quant=quant,
        device=device,
    )
