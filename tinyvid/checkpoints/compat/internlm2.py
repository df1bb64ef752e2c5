"""InternLM2, the LLM of some InternVL models, as a Llama: transformers reads it only with the checkpoint's code."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tinyvid.checkpoints.compat.assembly import count
from tinyvid.checkpoints.compat.keys import renamed
from tinyvid.errors import CheckpointError

_NAMES = (
    (re.compile(r"model\.tok_embeddings\."), "model.embed_tokens."),
    (re.compile(r"output\."), "lm_head."),
    (re.compile(r"(model\.layers\.\d+\.)attention\.wo\."), r"\1self_attn.o_proj."),
    (re.compile(r"(model\.layers\.\d+\.)feed_forward\.w1\."), r"\1mlp.gate_proj."),
    (re.compile(r"(model\.layers\.\d+\.)feed_forward\.w2\."), r"\1mlp.down_proj."),
    (re.compile(r"(model\.layers\.\d+\.)feed_forward\.w3\."), r"\1mlp.up_proj."),
    (re.compile(r"(model\.layers\.\d+\.)attention_norm\."), r"\1input_layernorm."),
    (re.compile(r"(model\.layers\.\d+\.)ffn_norm\."), r"\1post_attention_layernorm."),
)
_SAME = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("hidden_act", "rms_norm_eps", "rope_theta", "max_position_embeddings", "tie_word_embeddings"),
    *("rope_scaling", "rope_parameters"),
)


def as_llama(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an InternLM2 as those of a Llama.

    Raises:
        CheckpointError: A setting is not supported.
    """
    if settings.get("bias", True):  # as the original's code, if it is missing
        raise CheckpointError(f"config.json: bias={settings.get('bias')!r:.80} of InternLM2 must be false")
    return {"model_type": "llama", **{key: settings[key] for key in _SAME if key in settings}}


def llama_weights(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of an InternLM2 under the names of a Llama, with queries, keys and values apart.

    They are packed by key head: the queries of its group, its key and its value, each of the size of a head.

    Args:
        tensors: The weights.
        settings: Of the InternLM2.

    Raises:
        CheckpointError: The packed weights do not have the shape of the settings.
    """
    heads = count(settings, "num_attention_heads", 1)
    groups = count(settings, "num_key_value_heads", heads)
    found = {}
    for key, packed in renamed(tensors, _NAMES).items():
        if not key.endswith(".attention.wqkv.weight"):
            found[key] = packed
            continue
        rows = groups * (heads // groups + 2)
        if heads % groups or packed.ndim != 2 or len(packed) % rows:
            raise CheckpointError(
                f"{key} has the shape {tuple(packed.shape)}, which does not match num_attention_heads={heads} and "
                f"num_key_value_heads={groups}"
            )
        split = packed.unflatten(0, (groups, heads // groups + 2, len(packed) // rows))  # (G, heads / G + 2, Dh, D)
        name = key.replace(".attention.wqkv.", ".self_attn.{}_proj.")
        for part, rows_of in (("q", split[:, :-2]), ("k", split[:, -2]), ("v", split[:, -1])):
            found[name.format(part)] = rows_of.reshape(-1, packed.shape[1])
    return found
