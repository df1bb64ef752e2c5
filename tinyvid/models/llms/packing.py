"""Refuse ``recipe.pack`` for LLMs in which the questions of a packed sample would influence each other.

A packed sample separates its questions by an attention mask and by positions that start again. That is exact only if
attention is the only operation between tokens, every layer reads the mask as it is, and distances come from positions.
"""

import inspect
from typing import Any

from tinyvid.errors import ConfigError
from tinyvid.models.adapters import base

ATTENTION = {"full_attention", "sliding_attention"}  # kinds of layers whose only operation between tokens is attention


def check_packing(llm: Any, max_length: int) -> None:
    """Check that an LLM keeps the questions of packed samples apart.

    Args:
        llm: A causal LLM of transformers, possibly with an adapter.
        max_length: Length of the longest packed sample, in tokens.

    Raises:
        ConfigError: It does not, or not with its attention implementation or at this length.
    """
    model, config = base(llm), llm.config
    kind = f"a model of type '{config.model_type}'"
    others = sorted({*(getattr(config, "layer_types", None) or [])} - ATTENTION)
    if others or model._is_stateful:
        layers = f" ({', '.join(others)})" if others else ""
        raise ConfigError(
            f"recipe.pack above 1 does not work with {kind}: its convolutional or recurrent layers{layers} ignore the "
            "mask between packed questions; set recipe.pack=1"
        )
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ConfigError(
            f"recipe.pack above 1 does not work with {kind}: it takes no positions, so packed questions would not "
            "start at the same one; set recipe.pack=1"
        )
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in config.layer_types if getattr(config, "layer_types", None) else window is not None
    if slides and window is not None and max_length > window:
        raise ConfigError(
            f"recipe.pack above 1 does not work with {kind} beyond its attention window of {window} tokens; set "
            f"recipe.pack=1, or llm.max_length={window} if all rows fit"
        )
    attention = config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ConfigError(f"recipe.pack above 1 needs llm.attention=sdpa or eager, not {attention!r}")
