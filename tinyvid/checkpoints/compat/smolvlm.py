"""Read SmolVLM2 (``model_type`` ``smolvlm``) and SmolVLM (``idefics3``) offline: SigLIP, ``pixel_shuffle`` and a Llama.

Both have the same network and the same names of weights. SmolVLM2 has a prompt for videos; SmolVLM has one for images,
so that its clips are sequences of images, and its sampler is a guess. Frames are read as one tile each.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyvid.build import check
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
    tower_model,
    with_rows,
)
from tinyvid.checkpoints.compat.keys import split
from tinyvid.checkpoints.native import Loaded, Overrides, apply_overrides
from tinyvid.errors import CheckpointError, ConfigError, suggest
from tinyvid.files import read_json, read_text
from tinyvid.models.folders import loading
from tinyvid.models.vision_towers.metadata import square
from tinyvid.models.vision_towers.preprocessor import find_processor, from_processor
from tinyvid.models.vision_towers.siglip import SiglipTower
from tinyvid.registry import SAMPLERS
from tinyvid.types import ImageSpec

logger = logging.getLogger(__name__)

TEMPLATES = {"smolvlm": "smolvlm", "idefics3": "idefics3"}  # by model_type
PREFIXES = {
    "model.vision_model.": "vision_tower.",
    "model.connector.modality_projection.proj.": "connector.layers.0.",
    "model.text_model.": "llm.model.",
    "lm_head.": "llm.lm_head.",
}
# Settings of the vision tower, and their values if they are not stated: those of SmolVLM, not of SigLIP.
VISION: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}
# Settings that change the computation: supported values, and what another value means.
SUPPORTED: dict[str, dict[str, tuple[tuple[Any, ...], str]]] = {
    "text_config": {
        "qk_layer_norms": ((False, None), "the queries and keys of the LLM are normalized"),
        "rope_interleaved": ((False, None), "its positions rotate neighboring values"),
        "use_resampler": ((False, None), "a resampler replaces the concatenated patches"),
    },
    "vision_config": {
        "qk_layer_norms": ((False, None), "the queries and keys of the vision tower are normalized"),
        "num_channels": ((3,), "frames have three channels"),
    },
}
START = "<|im_start|>"
MAX_FRAMES, TEXT = 64, 1024  # frames of a model that states none, if this number of tokens is left for text
LABEL = 16  # tokens next to a frame, at most


def recognizes(path: Path) -> bool:
    """Return whether a directory contains a SmolVLM or SmolVLM2 checkpoint."""
    return str(read_json(path / "config.json").get("model_type")) in TEMPLATES


def load(path: Path, *, device: str, dtype: str, quant: str, overrides: Overrides) -> Loaded:
    """Read a checkpoint of SmolVLM or SmolVLM2. Arguments and errors are those of ``native.load``."""
    config = read_json(path / "config.json")
    text, vision = _sections(config)
    processor, file = _video_processor(path)
    groups = _groups(config, vision, processor, file, longest(path, text))
    if config["model_type"] == "idefics3" and not _has_start(path):
        # Idefics3-8B is a Llama 3, whose tokenizer writes the first token.
        groups["template"]["start"] = ""
        groups["template"]["control_tokens"].remove(START)
    groups = check(apply_overrides(groups, overrides))
    if config["model_type"] == "idefics3":
        report_guesses(path, groups, overrides, template=TEMPLATES["idefics3"])
    elif "video_sampling" not in processor:
        report_guesses(path, groups, overrides)
    weights = split(path, complete_weights(path), PREFIXES)
    vision_tower = _vision_tower(path, vision, groups["vision_tower"], weights["vision_tower"], processor, file)
    size = vision_tower.image.size
    logger.warning("%s: an image is shown as one tile of %d x %d pixels", path, size, size)
    return join(
        path,
        groups,
        text_config=text_config(path, with_rows(text, weights["llm"], tied=tied(config, text))),
        vision_tower=vision_tower,
        weights=weights,
        device=device,
        dtype=dtype,
        quant=quant,
    )


def _sections(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the LLM and of the vision tower, after checking that they are supported."""
    sections = {key: section(config, key) for key in SUPPORTED}
    for key, options in SUPPORTED.items():
        refuse_unsupported(sections[key], options, prefix=f"{key}.")
    text, vision = sections["text_config"], sections["vision_config"]
    if (kind := text.get("model_type", "llama")) != "llama":
        raise CheckpointError(
            f"config.json: text_config.model_type={kind!r:.80} is not supported. {suggest(str(kind), ['llama'])}"
        )
    shuffle, factor = text.get("pixel_shuffle_factor"), config.get("scale_factor", 2)
    if shuffle not in (None, factor):
        raise CheckpointError(
            f"config.json: text_config.pixel_shuffle_factor={shuffle!r:.80} differs from scale_factor={factor!r:.80}"
        )
    vision = {option: vision.get(option, default) for option, default in VISION.items()}
    for option in ("image_size", "patch_size"):
        vision[option] = square(vision[option], f"config.json: vision_config.{option}: the vision tower")
    _check_positions(vision["image_size"] // vision["patch_size"])
    return {"model_type": "llama", **text}, vision


def _has_start(path: Path) -> bool:
    """Return whether the tokenizer has the token at the beginning of SmolVLM's prompts."""
    file = path / "tokenizer.json"
    return not file.is_file() or json.dumps(START) in read_text(file)


def _check_positions(side: int) -> None:
    """Raise ``CheckpointError`` if the original's positions of patches are not in reading order.

    It sorts the fraction r / n of row r into n buckets, and for some n, rounding puts two rows into the same bucket.
    """
    with torch.device("cpu"):  # even if the model is built on the meta device
        borders = torch.arange(1 / max(side, 1), 1.0, 1 / max(side, 1))
        fractions = (torch.arange(side, dtype=torch.float32) * (1.0 / torch.tensor(side))).clamp(max=1.0 - 1e-6)
        ordered = torch.equal(torch.bucketize(fractions, borders, right=True), torch.arange(side))
    if not side or not ordered:
        raise CheckpointError(
            f"config.json: vision_config has a grid of {side} x {side} patches, for which the original's positions are "
            "not in reading order because of rounding; only grids without this are supported, such as 26, 27 and 32"
        )


def _groups(
    config: Mapping[str, Any], vision: Mapping[str, Any], processor: Mapping[str, Any], file: str, length: int
) -> dict[str, dict[str, Any]]:
    """Translate the configuration into component groups; ``length`` is that of the longest sequence."""
    groups = presets(template=TEMPLATES[config["model_type"]], sampler="smolvlm")
    factor, sampler = count(config, "scale_factor", 2), groups["sampler"]
    per_frame = (vision["image_size"] // vision["patch_size"] // factor) ** 2
    sampler["max_frames"] = max(1, min(MAX_FRAMES, (length - TEXT) // (per_frame + LABEL)))
    sampler |= _sampling(processor, file)
    return groups | {
        "llm": {"name": "auto", "path": "llm", "max_length": length},
        "vision_tower": {"name": "siglip", "path": "vision_tower", "layer": -1, "final_norm": True},
        "connector": {"name": "pixel_shuffle", "factor": factor, "depth": 1, "norm": False, "bias": False},
    }


def _video_processor(path: Path) -> tuple[dict[str, Any], str]:
    """Return the settings for videos, or else for images, and their file; empty without any."""
    for kind in ("video", "image"):
        settings, file = find_processor(path, kind)
        if isinstance(settings, dict):
            return settings, file
    logger.warning("%s has no preprocessor_config.json; using the preprocessing of its family", path)
    return {}, ""


def _sampling(processor: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return the options of the sampler that a processor states; empty without any."""
    stated = processor.get("video_sampling")
    if not isinstance(stated, dict):
        return {}
    found = {key: stated[key] for key in ("fps", "max_frames") if key in stated}
    try:
        SAMPLERS.check({"name": "smolvlm", **found}, key="video_sampling")
    except ConfigError as error:  # the user did not set this sampler
        raise CheckpointError(f"{file}: {error}; correct the file") from error
    return found


def _image_spec(path: Path, size: int, processor: Mapping[str, Any], file: str) -> ImageSpec:
    """Return the image specification of a processor, with the values of SmolVLM for missing settings.

    ``video_sampling.video_size`` is the first size of video frames; ``size`` is that of images, which are cut in tiles.
    """
    default = ImageSpec(size, (0.5,) * 3, (0.5,) * 3, "lanczos", longest_edge=size)
    if not processor:
        return default
    edge = {"longest_edge": size}
    with loading("vision_tower", str(path)):
        first = (processor.get("video_sampling") or {}).get("video_size") or processor.get("size") or edge
        settings = {"resample": 1, "max_image_size": edge, **processor, "size": first}
        return from_processor(settings, default, f"{file} of {path}")


def _vision_tower(
    path: Path,
    settings: Mapping[str, Any],
    group: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    processor: Mapping[str, Any],
    file: str,
) -> SiglipTower:
    from transformers import SiglipVisionModel  # heavy: only when a model is loaded

    model = tower_model(path, SiglipVisionModel, {**settings, "vision_use_head": False}, weights)
    image = _image_spec(path, model.config.image_size, processor, file)
    return SiglipTower(model, image, layer=group["layer"], final_norm=group["final_norm"])
