"""Read LLaVA-OneVision: the original layout (LLaVA-NeXT), and that of transformers.

A frame is an image of the tower's size. Its projected patches are pooled to half the side, and one learned token closes
the clip. Only this path for videos is read: stills are shown as clips of one frame, not as tiles (anyres).

The original layout stores neither sizes of its tower nor its image settings; they follow from the name of the tower,
which must be a SigLIP model, and from the shapes of the weights. The original program deletes the last block of the
tower and uses the output of the new last one, whatever ``mm_vision_select_layer`` says, so blocks are counted.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from tinyvid.build import check
from tinyvid.checkpoints.compat import llava
from tinyvid.checkpoints.compat.assembly import (
    complete_weights,
    count,
    join,
    longest,
    presets,
    refuse_unsupported,
    report_guesses,
    section,
    text_config,
    tied,
    with_rows,
)
from tinyvid.checkpoints.compat.keys import canonical, split
from tinyvid.checkpoints.native import Loaded, Overrides, apply_overrides
from tinyvid.errors import CheckpointError
from tinyvid.files import read_json

logger = logging.getLogger(__name__)

PREFIXES = {**llava.PREFIXES, "model.image_newline": "connector.newline"}
ORIGINAL_PREFIXES = {
    "model.vision_tower.vision_tower.vision_model.": "vision_tower.",
    "model.mm_projector.0.": "connector.layers.0.",
    "model.mm_projector.2.": "connector.layers.2.",
    "model.image_newline": "connector.newline",
    **{f"model.{name}.": f"llm.model.{name}." for name in ("embed_tokens", "layers", "norm")},
    "lm_head.": "llm.lm_head.",
}
# Attention heads and blocks of the published sizes of SigLIP; the name states patch and image size.
SIGLIP = {"base": (12, 12), "large": (16, 24), "so400m": (16, 27)}
_NAME = re.compile(r"siglip2?-(\w+)-patch(\d{1,3})-(\d{1,4})$")
# Settings of the original that change what a video becomes: supported values, and what another one means.
SUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "mm_projector_type": (("mlp2x_gelu", None), "the connector has two layers, with GELU between them"),
    "mm_resampler_type": ((None,), "a resampler changes the patches before the connector"),
    "mm_spatial_pool_mode": (("bilinear", None), "of the ways to pool patches, only 'bilinear' is read"),
    "mm_newline_position": (("one_token", "no_token", None), "only 'one_token' or 'no_token' is read"),
    "mm_patch_merge_type": (("flat", "spatial", "spatial_unpad", None), "images are merged in another way"),
    "add_faster_video": ((False, None), "frames with fewer tokens follow the others"),
}
TEXT = (  # settings of Qwen2, which the original writes next to its own
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling"),
    *("max_window_layers", "use_sliding_window", "sliding_window", "attention_dropout", "initializer_range"),
    "tie_word_embeddings",
)
FRAMES = 32


def recognizes(path: Path) -> bool:
    """Return whether a directory contains LLaVA-OneVision, or another model in the layout of LLaVA-NeXT."""
    config = read_json(path / "config.json")
    original = "mm_vision_tower" in config and str(config.get("model_type")).startswith("llava")
    return original or config.get("model_type") == "llava_onevision"


def load(path: Path, *, device: str, dtype: str, quant: str, overrides: Overrides) -> Loaded:
    """Read a LLaVA-OneVision model. Arguments and errors are those of ``native.load``."""
    config = read_json(path / "config.json")
    original = "mm_vision_tower" in config
    parts, weights, text, vision = (_original if original else _transformers)(path, config)
    groups = {
        **presets(template="chatml" if original else "chatml_no_system", sampler="uniform"),
        "llm": {"name": "auto", "path": "llm", "max_length": longest(path, text)},
        **parts,
    }
    groups["sampler"]["num_frames"] = FRAMES
    groups = check(apply_overrides(groups, overrides))
    processors: tuple[Literal["video", "image"], ...] = () if original else ("video", "image")
    report_guesses(path, groups, overrides)
    logger.warning("%s is read for videos: a still is shown as one frame, not as tiles (anyres)", path)
    return join(
        path,
        groups,
        text_config=text_config(path, with_rows(text, weights["llm"], tied=tied(config, text))),
        vision_tower=llava.vision_tower(path, vision, groups["vision_tower"], weights["vision_tower"], processors),
        weights=weights,
        device=device,
        dtype=dtype,
        quant=quant,
    )


Parts = tuple[dict[str, Any], dict[str, dict[str, Tensor]], dict[str, Any], dict[str, Any]]


def _transformers(path: Path, config: Mapping[str, Any]) -> Parts:
    """Return groups, weights, and the settings of LLM and tower, of a model in the layout of transformers."""
    tower = llava.tower_group(config, default="siglip_vision_model", layer=-1, strategy="full")
    if tower != {**tower, "name": "siglip", "select": "all"}:
        raise CheckpointError(
            f"{path}: LLaVA-OneVision needs a SigLIP tower with all patches, but the configuration chooses {tower}"
        )
    refuse_unsupported(config, llava.PROJECTOR)
    parts = {"vision_tower": tower, "connector": {"name": "mlp", "pool_after": 2, "newline": True}}
    weights = split(path, canonical(complete_weights(path)), PREFIXES)
    return parts, weights, {"model_type": "qwen2", **section(config, "text_config")}, section(config, "vision_config")


def _original(path: Path, config: Mapping[str, Any]) -> Parts:
    """Return groups, weights, and the settings of LLM and tower, of a model in the original layout."""
    names = config.get("architectures")
    if names != ["LlavaQwenForCausalLM"]:
        raise CheckpointError(
            f"{path}: architectures={names!r:.80} is not supported: in the layout of LLaVA-NeXT, only "
            "LlavaQwenForCausalLM is read; use the model in the layout of transformers"
        )
    refuse_unsupported(config, SUPPORTED)
    newline = config.get("mm_newline_position") != "no_token" and config.get("mm_patch_merge_type") == "spatial_unpad"
    stride = 2 if config.get("mm_spatial_pool_stride") is None else count(config, "mm_spatial_pool_stride", 2)
    unused = "(?!)" if newline else r"model\.image_newline$"
    weights = split(path, complete_weights(path), ORIGINAL_PREFIXES, unused=unused)
    vision, layer = _tower(path, config, weights["vision_tower"])
    parts = {
        "vision_tower": {"name": "siglip", "path": "vision_tower", "layer": layer},
        "connector": {"name": "mlp", "pool_after": stride, "newline": newline},
    }
    return parts, weights, {"model_type": "qwen2", **{key: config[key] for key in TEXT if key in config}}, vision


def _tower(path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], int]:
    """Return the settings of the tower, and the layer whose output the original uses.

    Raises:
        CheckpointError: The tower is not a known SigLIP model, or its weights are not those of its name.
    """
    name = config["mm_vision_tower"]
    found = _NAME.search(name) if isinstance(name, str) else None
    if found is None or found[1] not in SIGLIP:
        raise CheckpointError(
            f"config.json: mm_vision_tower={name!r:.80} is not supported; only SigLIP towers are, such as "
            "google/siglip-so400m-patch14-384"
        )
    if not weights:
        raise CheckpointError(f"{path} contains no weights of its vision tower {name!r}; use the complete checkpoint")
    heads, depth = SIGLIP[found[1]]
    stored = len({key.split(".")[2] for key in weights if key.startswith("encoder.layers.")})
    if stored not in (depth, depth - 1):
        raise CheckpointError(f"{path} contains {stored} blocks of its vision tower {name!r}, which has {depth}")
    mlp = weights.get("encoder.layers.0.mlp.fc1.weight")
    if mlp is None or mlp.ndim != 2:
        raise CheckpointError(f"{path}: the weights of the vision tower lack encoder.layers.0.mlp.fc1.weight")
    settings = {
        "hidden_size": mlp.shape[1],
        "intermediate_size": mlp.shape[0],
        "num_hidden_layers": stored,
        "num_attention_heads": heads,
        "patch_size": int(found[2]),
        "image_size": int(found[3]),
        "vision_use_head": False,
    }
    return settings, -1 if stored == depth - 1 else -2
