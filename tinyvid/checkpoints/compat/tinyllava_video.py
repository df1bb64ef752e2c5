"""Read checkpoints of TinyLLaVA-Video offline, in all three layouts.

Full checkpoints are one state dict. Stage-1 checkpoints are three folders. LoRA checkpoints are three folders, with
keys renamed by peft, and an adapter, which is merged on loading. Hub ids in the configuration are not used: the
checkpoint alone provides configuration and weights. The format does not store the sampler and the template; defaults
of the LLM family are used and logged.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tinyvid.build import check
from tinyvid.checkpoints.compat.assembly import (
    count,
    join,
    presets,
    report_guesses,
    section,
    text_config,
    tower_model,
)
from tinyvid.checkpoints.compat.keys import split
from tinyvid.checkpoints.native import Loaded, Overrides, apply_overrides
from tinyvid.errors import CheckpointError, suggest
from tinyvid.files import read_json
from tinyvid.models.vision_towers.siglip import SiglipTower, default_image_spec
from tinyvid.models.weights import few, read_tensors, read_weights

PREFIXES = {
    "language_model.": "llm.",
    "vision_tower._vision_tower.": "vision_tower.",
    "connector._connector.": "connector.",
}
FOLDERS = {"llm": "language_model", "vision_tower": "vision_tower", "connector": "connector"}
FOLDER_PREFIXES = {"llm": "language_model.", "vision_tower": "vision_tower._vision_tower.", "connector": "connector."}
# The registered LLM and the template of each family, from the original's launch scripts.
FAMILIES = {"qwen2": ("qwen2_5", "qwen2_base"), "phi": ("phi2", "phi"), "gemma": ("auto", "gemma")}
# Options of an adapter that change the computation, and their supported values.
PLAIN_LORA: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "modules_to_save": (None, []),
}


def recognizes(path: Path) -> bool:
    """Return whether a directory contains a TinyLLaVA-Video checkpoint."""
    config = path / "config.json"
    return config.exists() and read_json(config).get("model_type") == "tinyllava"


def load(path: Path, *, device: str, dtype: str, quant: str, overrides: Overrides) -> Loaded:
    """Read a checkpoint of TinyLLaVA-Video. Arguments and errors are those of ``native.load``."""
    config = read_json(path / "config.json")
    groups = check(apply_overrides(_groups(config), overrides))
    report_guesses(path, groups, overrides, template=FAMILIES[config["text_config"]["model_type"]][1])
    weights = _read_parts(path)
    return join(
        path,
        groups,
        text_config=text_config(path, config["text_config"]),
        vision_tower=_vision_tower(path, config, groups["vision_tower"], weights["vision_tower"]),
        weights=weights,
        device=device,
        dtype=dtype,
        quant=quant,
    )


def _groups(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Translate the original's configuration into component groups."""
    text = section(config, "text_config")
    family = str(text.get("model_type"))
    if family not in FAMILIES:
        raise CheckpointError(f"text_config.model_type={family!r} is not supported. {suggest(family, FAMILIES)}")
    llm, template = FAMILIES[family]
    return {
        "llm": {
            "name": llm,
            "path": "llm",
            "max_length": min(
                count(config, "tokenizer_model_max_length", 2048), count(text, "max_position_embeddings", 2048)
            ),
        },
        "vision_tower": {
            "name": "siglip",
            "path": "vision_tower",
            "layer": config.get("vision_feature_layer", -2),
            "select": _select(config.get("vision_feature_select_strategy", "patch")),
        },
        "connector": _connector(config),
        **presets(template=template, sampler="uniform"),
    }


def _select(strategy: object) -> str:
    names = {"patch": "patch", "cls_patch": "all"}
    if not isinstance(strategy, str) or strategy not in names:
        raise CheckpointError(
            f"vision_feature_select_strategy={strategy!r} is unknown. {suggest(str(strategy), names)}"
        )
    return names[strategy]


def _connector(config: Mapping[str, Any]) -> dict[str, Any]:
    queries, depth = count(config, "num_queries", 512), count(config, "num_resampler_layers", 3)
    kind = config.get("connector_type")
    if kind in ("naiveresampler", "resamplerwithpe"):  # the second was its name until March 2025
        return {"name": "naive", "num_queries": queries, "depth": depth}
    if kind == "groupresampler":
        groups = count(config, "group", 16)
        # The original creates int(queries / groups) latents per group and ignores the remainder.
        return {"name": "group", "num_queries": queries // groups * groups, "num_groups": groups, "depth": depth}
    known = ["naiveresampler", "resamplerwithpe", "groupresampler"]
    raise CheckpointError(f"connector_type={kind!r} is not supported. {suggest(str(kind), known)}")


def _vision_tower(
    path: Path, config: Mapping[str, Any], group: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> SiglipTower:
    from transformers import SiglipVisionModel

    vision = section(config, "vision_config")
    kind = vision.get("model_type", "siglip_vision_model")
    if kind != "siglip_vision_model":
        raise CheckpointError(f"{path}: vision_config.model_type={kind!r} is not supported; only SigLIP towers are")
    settings = {k: v for k, v in vision.items() if k not in ("model_type", "model_name_or_path", "model_name_or_path2")}
    model = tower_model(path, SiglipVisionModel, settings, weights)
    options = {option: group[option] for option in ("layer", "select", "final_norm")}
    return SiglipTower(model, default_image_spec(model.config), **options)


def _read_parts(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the state dict of each part without its prefix, with the adapter merged if there is one."""
    if all((path / folder).is_dir() for folder in FOLDERS.values()):
        tensors = {
            FOLDER_PREFIXES[part] + key.replace(".base_layer.", "."): value
            for part, folder in FOLDERS.items()
            for key, value in read_weights(path / folder).items()
        }
    else:
        tensors = read_weights(path)
    if (path / "adapter_config.json").exists():
        _merge_adapter(path, tensors)
    return split(path, tensors, PREFIXES)


def _merge_adapter(path: Path, tensors: dict[str, Tensor]) -> None:
    """Merge a LoRA adapter into the weights it was trained on: W + alpha / r * B A (LoRA, equation 3).

    peft is not used, because its reader imports a module that the adapter's configuration may specify.
    """
    config = read_json(path / "adapter_config.json")
    for option, allowed in PLAIN_LORA.items():
        if config.get(option) not in allowed:
            raise CheckpointError(
                f"{path}: an adapter with {option}={config.get(option)!r} cannot be merged; only plain LoRA can"
            )
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckpointError(f"{path}: lora_alpha={alpha!r} of the adapter must be a number")
    adapter = read_tensors(path / "adapter_model.safetensors")
    for key in [key for key in adapter if key.endswith(".lora_A.weight")]:
        down = adapter.pop(key).float()  # (r, in)
        up = adapter.pop(key.replace(".lora_A.", ".lora_B."), None)  # (out, r)
        name = key.removeprefix("base_model.model.").replace(".lora_A.", ".")
        if up is None or name not in tensors:
            raise CheckpointError(f"{path}: {key} of the adapter has no matching weight, or no matching lora_B")
        weight, shapes = tensors[name], (tuple(up.shape), tuple(down.shape))
        rank = len(down) if down.ndim else 0
        if rank < 1 or weight.ndim != 2 or shapes != ((len(weight), rank), (rank, weight.shape[1])):
            raise CheckpointError(
                f"{path}: {key} of the adapter and its lora_B have the shapes {shapes[1]} and {shapes[0]}, which do "
                f"not match the shape {tuple(weight.shape)} of the weight"
            )
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        tensors[name] = (weight.float() + scale * (up.float() @ down)).to(weight.dtype)
    if adapter:
        raise CheckpointError(f"{path}: the adapter contains weights that are not LoRA: {few(adapter)}")
