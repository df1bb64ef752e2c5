"""Read the connector of LLaMA-VID: what its checkpoints call ``vlm_att_*`` and ``mm_projector``.

They lie in the adapter file of its first stage (``mm_projector.bin``) or among the shards of a full model, in
safetensors or as pickles of tensors. Its LLM (7B and more) and its vision tower (EVA-G) are not read: give the
connector a tower and an LLM of the same widths, or take the text decoder alone with ``text_decoder=qformer
text_decoder.path=``.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from tinyvid.errors import CheckpointError
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
    """Return whether a directory holds a model of LLaMA-VID."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "bert_type" in config


def load(path: Path, *, device: str, dtype: str, quant: str, overrides: Mapping[str, Mapping[str, Any]]) -> NoReturn:
    """Refuse a whole model of LLaMA-VID, and say what can be used of it; arguments as in ``checkpoint.load``.

    Raises:
        CheckpointError: Always.
    """
    raise CheckpointError(
        f"{path} is a model of LLaMA-VID, of which only the connector can be read: build a model with "
        "connector=llamavid and call tinyvid.checkpoints.compat.llama_vid.load_connector(model.connector, path), or "
        "take its text decoder with text_decoder=qformer text_decoder.path=PATH (docs/llamavid.md)"
    )


def load_connector(connector: nn.Module, path: str | Path) -> None:
    """Put the weights of LLaMA-VID into a connector ``llamavid``; every key and every shape must fit.

    Args:
        connector: A ``connectors.llamavid.LlamaVid`` with a text decoder ``qformer`` or ``bert``; changed in place.
            ``describe`` tells the options that fit.
        path: ``mm_projector.bin``, another file of tensors, or the folder of a full model.

    Raises:
        CheckpointError: The file cannot be read, or keys are missing, left over, or of other shapes.
    """
    load_strict(connector, read_connector(path), part="connector", where=path)


def read_connector(path: str | Path) -> dict[str, Tensor]:
    """Return LLaMA-VID's weights under the names of ``connectors.llamavid.LlamaVid``.

    Raises:
        CheckpointError: The file cannot be read, or holds no such weights.
    """
    place = Path(path).expanduser()
    found = read_selected(place, MARKS)
    if not found:
        raise CheckpointError(
            f"{place} holds no connector of LLaMA-VID: no weight is called vlm_att_* or mm_projector*"
        )
    renamed = {}
    if any(key.endswith("vlm_att_query") for key in found):  # else BERT, whose names transformers has kept
        decoder = {key: found.pop(key) for key in [*found] if key.removeprefix("model.").startswith(tuple(PREFIXES))}
        renamed = {f"text_decoder.{key}": value for key, value in rename(decoder).items()}
    return renamed | {_name(key): value for key, value in found.items() if not key.endswith("position_ids")}


def describe(path: str | Path, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the groups ``connector`` and ``text_decoder`` that the weights of LLaMA-VID fit.

    Sizes are read off the weights; heads are taken to be 64 wide, as in every BERT, and paths are left open.

    Args:
        path: As for ``load_connector``.
        config: The model's ``config.json``: ``bert_type`` and ``compress_type`` are read.

    Raises:
        CheckpointError: The weights are not those of ``bert_type``, or ``compress_type`` is unknown.
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
            f"{path}: the weights lack {error}, which bert_type={config.get('bert_type')!r} has"
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
    """Translate ``compress_type``, of which the original reads substrings, into options of their own."""
    if compress_type is None:
        return {"content": "none"}
    text = str(compress_type)
    if text in ("mean", "mean_concat"):  # published configurations hold the second; the program makes no difference
        return {"content": "mean"}
    if found := _GRID.fullmatch(text):
        return {"content": "grid", "grid": int(found[1]), "legacy_grid": True}
    raise CheckpointError(f"config.json: compress_type={text!r:.80} is unknown. Available: mean, grid:K, null.")


def _name(key: str) -> str:
    name = key.removeprefix("model.")
    prefix = next((prefix for prefix in NAMES if name.startswith(prefix)), None)
    if prefix is None:
        return name  # unknown: the strict loading will name it
    rest = name.removeprefix(prefix)
    if prefix == "mm_projector." and not rest[:1].isdigit():
        rest = f"0.{rest}"  # a single linear layer has no number
    return NAMES[prefix] + rest
