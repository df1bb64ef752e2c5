"""The steps that all readers share: read the configuration, build the parts from tensors, and join them.

A reader translates another project's ``config.json`` into groups, and its weights into one state dict per part
(``keys.split``). What follows is the same for every project, and the result is a checkpoint like any other.
"""

import logging
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from tinyvid.build import assemble, make_connector, resolve_device, resolve_dtype, resolve_quant, settled
from tinyvid.checkpoints.native import Loaded, refuse_learned_reducers
from tinyvid.config import compose
from tinyvid.errors import CheckpointError
from tinyvid.files import read_json
from tinyvid.models.folders import ADAPTER, cleaned, loading
from tinyvid.models.llms.loading import from_weights, load_tokenizer
from tinyvid.models.llms.rope import Rope, scale_positions
from tinyvid.models.weights import check_sizes, load_pretrained, read_weights

logger = logging.getLogger(__name__)

TOKENIZER_CONFIG = "tokenizer_config.json"


def section(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the JSON object under a key of ``config.json``.

    Raises:
        CheckpointError: It is missing or of another type.
    """
    found = config.get(key)
    if not isinstance(found, dict):
        raise CheckpointError(f"config.json: {key} must be a JSON object, got {found!r:.80}")
    return found


def count(config: Mapping[str, Any], key: str, default: int) -> int:
    """Return the integer from 1 to 10^6 under a key of ``config.json``.

    Raises:
        CheckpointError: It is out of range or of another type.
    """
    value = config.get(key, default)
    if type(value) is not int or not 1 <= value <= 10**6:
        raise CheckpointError(f"config.json: {key}={value!r:.80} must be an integer from 1 to 10^6")
    return value


def refuse_unsupported(
    settings: Mapping[str, Any], supported: Mapping[str, tuple[tuple[Any, ...], str]], *, prefix: str = ""
) -> None:
    """Raise ``CheckpointError`` if a setting has a value that would change what the model computes.

    Args:
        settings: Settings of ``config.json``.
        supported: For each key, the supported values, the first of which is the default; and what another one means.
        prefix: Place of the settings in the file, such as ``text_config.``.
    """
    for key, (values, reason) in supported.items():
        value = settings.get(key, values[0])
        if not isinstance(value, str | int | None) or value not in values:
            raise CheckpointError(f"config.json: {prefix}{key}={value!r:.80} is not supported: {reason}")


def tied(*settings: Mapping[str, Any]) -> bool | None:
    """Return whether any of the settings of a model ties the head of its LLM; ``None`` if none of them says."""
    stated = [each["tie_word_embeddings"] for each in settings if each.get("tie_word_embeddings") is not None]
    return any(stated) if stated else None


def presets(*, template: str, sampler: str) -> dict[str, dict[str, Any]]:
    """Return the groups ``template``, ``sampler`` and ``video_reader`` with these options of ``conf/``."""
    return deepcopy(_presets(template, sampler))


@cache  # composing takes longer than reading a small checkpoint
def _presets(template: str, sampler: str) -> dict[str, dict[str, Any]]:
    composed = compose([f"template={template}", f"sampler={sampler}"])
    found: Any = OmegaConf.to_container(composed, resolve=True)
    return {kind: found[kind] for kind in ("sampler", "template", "video_reader")}


def longest(path: Path, settings: Mapping[str, Any]) -> int:
    """Return the longest sequence of an LLM: its positions, or fewer if the tokenizer states a maximum length.

    Args:
        path: The checkpoint.
        settings: Of the LLM.
    """
    positions = count(settings, "max_position_embeddings", 2048)
    file = path / TOKENIZER_CONFIG
    stated = read_json(file).get("model_max_length") if file.is_file() else None
    return min(positions, stated) if type(stated) is int and stated > 0 else positions


def with_rows(settings: Mapping[str, Any], weights: Mapping[str, Tensor], *, tied: object) -> dict[str, Any]:
    """Return the settings of an LLM with the vocabulary and the tying of its weights.

    The tensors decide: programs resize the vocabulary, and several configurations of one checkpoint state different
    ties. A stored head that differs from the embeddings is not tied to them.

    Args:
        settings: Of the LLM.
        weights: As ``model.embed_tokens.weight`` and ``lm_head.weight``.
        tied: What the configuration states; ``None`` if it does not, which is tied only without a stored head.
    """
    rows, head = weights.get("model.embed_tokens.weight"), weights.get("lm_head.weight")
    if rows is None:
        return dict(settings)  # reported as a missing key
    if head is not None and not rows.is_meta and (tied or tied is None):
        tied = torch.equal(rows, head)
    return {**settings, "vocab_size": len(rows), "tie_word_embeddings": head is None if tied is None else bool(tied)}


def complete_weights(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint.

    Raises:
        CheckpointError: They cannot be read, or an adapter beside them would change what the model computes.
    """
    if (path / ADAPTER).exists():
        raise CheckpointError(f"{path} has {ADAPTER} beside its weights; merge the adapter, or remove this file")
    return read_weights(path)


def text_config(path: Path, settings: Mapping[str, Any]) -> Any:
    """Return the configuration of transformers for an LLM: settings with a ``model_type``.

    Settings that choose code, other files or quantization are left out: the stored weights are not quantized, even if
    the training run quantized them in memory.

    Raises:
        CheckpointError: The settings are not those of a model of transformers, or a size is too large.
    """
    from transformers import AutoConfig

    text = cleaned(dict(settings))
    check_sizes("llm", path, text)
    with loading("llm", str(path)):
        return AutoConfig.for_model(**text)


def tower_model(path: Path, model_class: Any, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Return a vision model of transformers with the given settings and weights.

    Raises:
        CheckpointError: The settings are invalid or too large, or the weights do not match them.
    """
    vision = cleaned(dict(settings))
    check_sizes("vision_tower", path, vision)
    with loading("vision_tower", str(path)):
        config = model_class.config_class(**vision)
    return load_pretrained("vision_tower", str(path), model_class, config=config, state_dict=dict(weights))


def join(
    path: Path,
    groups: dict[str, dict[str, Any]],
    *,
    text_config: Any,
    vision_tower: Any,
    weights: Mapping[str, Mapping[str, Tensor]],
    device: str,
    dtype: str,
    quant: str,
) -> Loaded:
    """Build the LLM and the connector from their weights, and join the parts into a model.

    Args:
        path: The checkpoint, which contains the tokenizer.
        groups: As ``build.check`` returns them.
        text_config: See ``text_config``.
        vision_tower: The vision tower with its weights.
        weights: As ``keys.split`` returns them.
        device: See ``native.load``.
        dtype: See ``native.load``.
        quant: See ``native.load``.

    Raises:
        CheckpointError: Weights do not match the configuration, or the tokenizer is not that of the LLM.
        ConfigError: The device, the dtype or the quantization is not available, a reducer with weights is added, or the
            parts do not fit together.
    """
    refuse_learned_reducers(None, groups.get("reducer"), path)
    device, quant = resolve_device(device), resolve_quant(quant)
    torch_dtype = resolve_dtype(dtype, device)
    scale_positions(text_config, Rope(groups["llm"]["rope_scaling"], groups["llm"]["rope_factor"]))
    _refuse_tokenizer_code(path)
    llm = from_weights(
        text_config,
        path=str(path),
        state_dict=weights["llm"],
        tokenizer=load_tokenizer(str(path), config=text_config),
        attention=groups["llm"]["attention"],
        max_length=groups["llm"]["max_length"],
        dtype=torch_dtype,
        quant=quant,
        device=device,
    )
    vision_tower = vision_tower.to(device, torch_dtype)
    connector = make_connector(
        groups["connector"],
        reducer=groups.get("reducer"),
        features=vision_tower.features,
        llm_dim=llm.dim,
        tensors=weights["connector"],
        where=path,
    )
    groups = settled(groups, llm)
    model, processor = assemble(groups, llm, vision_tower, connector.to(device, torch_dtype))
    return Loaded(model, processor, groups, frozenset({"llm", "vision_tower"}))


def report_guesses(
    path: Path, groups: Mapping[str, Any], overrides: Mapping[str, Any], *, template: str | None = None
) -> None:
    """Log the sampler, and the name of the template if it is a guess, unless the user has chosen them."""
    sampler = groups["sampler"]
    numbers = {key: value for key, value in sampler.items() if isinstance(value, int | float)}
    guesses = {"sampler": f"{sampler['name']} {numbers}", "template": template}
    for kind, guess in guesses.items():
        if guess is not None and kind not in overrides:
            logger.warning("%s does not store a %s; using %s. Choose another with %s=...", path, kind, guess, kind)


def _refuse_tokenizer_code(path: Path) -> None:
    """Raise ``CheckpointError`` if only code of the checkpoint can read its vocabulary."""
    file = path / TOKENIZER_CONFIG
    if not file.is_file() or (path / "tokenizer.json").is_file():
        return
    import transformers  # heavy: only for a checkpoint without tokenizer.json

    settings = read_json(file)
    known = hasattr(transformers, str(settings.get("tokenizer_class")))
    if "auto_map" in settings and not known:
        raise CheckpointError(
            f"{path}: the tokenizer {settings.get('tokenizer_class')!r:.80} needs code of the checkpoint, which "
            "tinyvid does not run; convert it once, if you trust this code, and add the tokenizer.json that results: "
            "AutoTokenizer.from_pretrained(path, trust_remote_code=True).save_pretrained(folder)"
        )
