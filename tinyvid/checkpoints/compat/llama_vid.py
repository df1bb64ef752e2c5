"""Read the connector of LLaMA-VID: the weights ``vlm_att_*`` and ``mm_projector`` of its checkpoints.

They are in the adapter file of its first stage (``mm_projector.bin``) or in the shards of a full model, as safetensors
or pickles of tensors. Its LLM (7B and larger) and its vision tower (EVA-G) are not read: use a tower and an LLM of the
same widths, or load only the text decoder with ``text_decoder=qformer text_decoder.path=``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from tinyvid.checkpoints.native import Overrides
from tinyvid.errors import CheckpointError
from tinyvid.files import expanded, read_json
from tinyvid.models.text_decoders.qformer_weights import PREFIXES, read_selected, rename
from tinyvid.models.weights import load_strict

MARKS = ("vlm_att_", "mm_projector")
NAMES = {
    "vlm_att_projector.": "context.query.",
    "vlm_att_key_projector.": "context.key.",
    "vlm_att_val_projector.": "context.out.",
    "mm_projector.": "content.layers.",
    "vlm_att_encoder.bert.": "text_decoder.model.",
    "vlm_att_bert_proj.": "text_decoder.project.",
}
_GRID = re.compile(r"grid:([1-9][0-9]{0,2})")


def recognizes(path: Path) -> bool:
    """Return whether a directory contains a LLaMA-VID model."""
    try:
        return "bert_type" in read_json(path / "config.json")
    except CheckpointError:
        return False


def load(path: Path, *, device: str, dtype: str, quant: str, overrides: Overrides) -> NoReturn:
    """Refuse a full LLaMA-VID model, and explain what can be loaded from it. Arguments are those of ``native.load``.

    Raises:
        CheckpointError: Always.
    """
    raise CheckpointError(
        f"{path} is a LLaMA-VID model, and only its connector can be loaded: build a model with connector=llamavid "
        "and call tinyvid.checkpoints.compat.llama_vid.load_connector(model.connector, path), or load its text "
        "decoder with text_decoder=qformer text_decoder.path=PATH (docs/llamavid.md)"
    )


def load_connector(connector: nn.Module, path: str | Path) -> None:
    """Load the weights of LLaMA-VID into a connector ``llamavid``; every key and every shape must match.

    Args:
        connector: A ``connectors.llamavid.LlamaVid`` with a text decoder ``qformer`` or ``bert``, changed in place.
            ``describe`` returns matching options.
        path: ``mm_projector.bin``, another file of tensors, or the folder of a full model.

    Raises:
        CheckpointError: The file cannot be read, keys are missing or unexpected, or shapes differ.
    """
    load_strict(connector, read_connector(path), part="connector", where=path)


def read_connector(path: str | Path) -> dict[str, Tensor]:
    """Return LLaMA-VID's weights under the names of ``connectors.llamavid.LlamaVid``.

    Raises:
        CheckpointError: The file cannot be read, or does not contain these weights.
    """
    place = expanded(path)
    found = read_selected(place, MARKS)
    if not found:
        raise CheckpointError(
            f"{place} contains no LLaMA-VID connector; expected weights named vlm_att_* or mm_projector*"
        )
    renamed = {}
    if any(key.endswith("vlm_att_query") for key in found):  # BERT's names are those of transformers already
        decoder = {key: found.pop(key) for key in [*found] if key.removeprefix("model.").startswith(tuple(PREFIXES))}
        renamed = {f"text_decoder.{key}": value for key, value in rename(decoder).items()}
    return renamed | {_name(key): value for key, value in found.items() if not key.endswith("position_ids")}


def describe(path: str | Path, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the groups ``connector`` and ``text_decoder`` that match LLaMA-VID's weights.

    Sizes are taken from the weights. Heads are assumed to be 64 wide, as in every BERT, and paths are not set.

    Args:
        path: As for ``load_connector``.
        config: The model's ``config.json``: ``bert_type`` and ``compress_type`` are read.

    Raises:
        CheckpointError: The weights do not match ``bert_type``, or ``compress_type`` is unknown.
    """
    tensors = read_connector(path)
    kind = "qformer" if "qformer" in str(config.get("bert_type")) else "bert"
    first = "text_decoder.model.encoder.layer.0."
    try:
        vocab_size, dim = tensors["text_decoder.model.embeddings.word_embeddings.weight"].shape
        positions = len(tensors["text_decoder.model.embeddings.position_embeddings.weight"])
        mlp_dim = len(tensors[f"{first}intermediate.dense.weight"])
        attention = "attention" if kind == "qformer" else "self"
        width = tensors[f"{first}crossattention.{attention}.key.weight"].shape[1]
        num_queries = tensors["text_decoder.queries"].shape[1] if kind == "qformer" else 0
    except KeyError as error:
        raise CheckpointError(
            f"{path}: the weights lack {error}, which bert_type={config.get('bert_type')!r} requires"
        ) from error
    sizes = {
        "dim": dim,
        "num_layers": len({key.split(".")[4] for key in tensors if ".encoder.layer." in key}),
        "num_heads": max(1, dim // 64),
        "mlp_dim": mlp_dim,
        "vocab_size": vocab_size,
        "num_positions": positions,
        "max_length": min(256, positions),
    }
    if kind == "qformer":
        norm = "text_decoder.norm.weight" in tensors
        sizes |= {"num_queries": num_queries, "encoder_dim": width, "norm": norm}
    depth = len([key for key in tensors if key.startswith("content.layers.") and key.endswith(".weight")])
    connector = {"name": "llamavid", **_content(config.get("compress_type")), "depth": depth}
    return {"connector": connector, "text_decoder": {"name": kind, "path": None, **sizes}}


def _content(compress_type: object) -> dict[str, Any]:
    """Translate ``compress_type`` into options. The original matches substrings of it."""
    if compress_type is None:
        return {"content": "none"}
    text = str(compress_type)
    if text in ("mean", "mean_concat"):  # published configurations have the second; the original treats both alike
        return {"content": "mean"}
    if found := _GRID.fullmatch(text):
        return {"content": "grid", "grid": int(found[1]), "legacy_grid": True}
    raise CheckpointError(f"config.json: compress_type={text!r:.80} is unknown. Available: mean, grid:K, null.")


def _name(key: str) -> str:
    name = key.removeprefix("model.")
    prefix = next((prefix for prefix in NAMES if name.startswith(prefix)), None)
    if prefix is None:
        return name  # unknown; the strict loading reports it
    rest = name.removeprefix(prefix)
    if prefix == "mm_projector." and not rest[:1].isdigit():
        rest = f"0.{rest}"  # a single linear layer is not numbered
    return NAMES[prefix] + rest
