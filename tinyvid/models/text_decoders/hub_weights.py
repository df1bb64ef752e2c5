"""Load the text model of transformers from a directory or the hub, and check its sizes against the options."""

from collections.abc import Mapping
from typing import Any

import torch

from tinyvid.errors import ConfigError
from tinyvid.models.weights import load_pretrained, read_config, without_weights

SIZES = {  # keys in a configuration of transformers to the options of a text decoder
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_dim",
}


def start_from(
    path: str | None, model_class: Any, config: Any, *, compare: Mapping[str, str], section: str = ""
) -> Any:
    """Return the model of ``config`` with the weights of ``path``, or with new weights if ``path`` is ``None``.

    ``path`` is a directory or a hub id. ``compare`` maps keys of ``config`` to the options that set them; their values
    must match those in ``path``. ``section`` is the key of the text model in the configuration of ``path``.

    Raises:
        ConfigError: The sizes of the model in ``path`` differ from the options.
        CheckpointError: ``path`` cannot be read, or its weights do not match.
    """
    if path is None or without_weights():
        return model_class(config)
    stored = read_config("text_decoder", path)
    stored = {**model_class.config_class().to_dict(), **stored.get(section, stored)}
    wanted = config.to_dict()
    wrong = [
        f"text_decoder.{option}={wanted[key]} must be {stored[key]}"
        for key, option in compare.items()
        if stored[key] != wanted[key]
    ]
    if wrong:
        raise ConfigError(f"text_decoder.path={path!r} contains a model of other sizes: {', '.join(wrong)}")
    return load_pretrained("text_decoder", path, model_class, config=config, dtype=torch.get_default_dtype())
