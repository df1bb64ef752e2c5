"""Start the text half of a model of transformers from a directory or the hub, its sizes held against the options."""

from collections.abc import Mapping
from typing import Any

import torch

from tinyvid.errors import ConfigError
from tinyvid.models.weights import load_pretrained, read_config, without_weights

SIZES = {  # the key of a configuration of transformers, and the option of a text decoder that sets it
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_dim",
}


def start_from(
    path: str | None, model_class: Any, config: Any, *, compare: Mapping[str, str], section: str = ""
) -> Any:
    """Return a model with the weights in ``path``, a directory or hub id, or with new ones if it is ``None``.

    ``compare`` maps keys of ``config`` to the options that set them; the file must have the same values. ``section`` is
    the key of the text half in the file's configuration.

    Raises:
        ConfigError: ``path`` holds a model of other sizes.
        CheckpointError: ``path`` cannot be reached, or its weights do not fit.
    """
    if path is None or without_weights():
        return model_class(config)
    stored = read_config("text_decoder", path)
    stored = {**model_class.config_class().to_dict(), **stored.get(section, stored)}
    wanted = config.to_dict()
    wrong = [
        f"text_decoder.{option}={wanted[key]} where it has {stored[key]}"
        for key, option in compare.items()
        if stored[key] != wanted[key]
    ]
    if wrong:
        raise ConfigError(f"text_decoder.path={path!r} holds a model of other sizes: {', '.join(wrong)}")
    return load_pretrained("text_decoder", path, model_class, config=config, dtype=torch.get_default_dtype())
