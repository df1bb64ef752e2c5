"""Read LLaVA in the layout of transformers: SigLIP or CLIP, an MLP of two layers, and any causal LLM.

LLaVA shows images. A clip is shown as a sequence of them, one per frame, and text may stand between frames. The format
does not store a sampler, and its prompt only as a program, which is not run: both are guessed and logged.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from tinyvid.build import check
from tinyvid.checkpoints.compat.assembly import (
    TOKENIZER_CONFIG,
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
from tinyvid.checkpoints.compat.keys import canonical, split
from tinyvid.checkpoints.native import Loaded, Overrides, apply_overrides
from tinyvid.errors import CheckpointError, suggest
from tinyvid.files import read_json
from tinyvid.models.folders import loading
from tinyvid.models.vision_towers import clip, siglip
from tinyvid.models.vision_towers.preprocessor import find_processor, from_processor
from tinyvid.types import ImageSpec

logger = logging.getLogger(__name__)

PREFIXES = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.linear_1.": "connector.layers.0.",
    "model.multi_modal_projector.linear_2.": "connector.layers.2.",
    "model.language_model.": "llm.model.",
    "lm_head.": "llm.lm_head.",
}
TOWERS = {"siglip_vision_model": "siglip", "clip_vision_model": "clip"}
# Options of each tower for the values of vision_feature_select_strategy: ``default`` drops the first row.
CHOICES: dict[str, dict[str, dict[str, str]]] = {
    "siglip": {"full": {"select": "all"}, "default": {"select": "patch"}},
    "clip": {"default": {}},  # the class token is that row
}
# Settings that change what the connector computes: supported values, and what another one means.
PROJECTOR: dict[str, tuple[tuple[Any, ...], str]] = {
    "projector_hidden_act": (("gelu",), "the connector has exact GELU"),
    "multimodal_projector_bias": ((True,), "the layers of the connector have biases"),
}
FRAMES, TEXT = 8, 1024  # frames to show by default, as far as this number of tokens is left for text


def recognizes(path: Path) -> bool:
    """Return whether a directory contains a LLaVA model in the layout of transformers."""
    config = read_json(path / "config.json")
    return config.get("model_type") == "llava" and "mm_vision_tower" not in config  # as in the original layout


def load(path: Path, *, device: str, dtype: str, quant: str, overrides: Overrides) -> Loaded:
    """Read a LLaVA model. Arguments and errors are those of ``native.load``."""
    config = read_json(path / "config.json")
    tower = tower_group(config, default="clip_vision_model", layer=-2, strategy="default")
    refuse_unsupported(config, PROJECTOR)
    weights = split(path, canonical(complete_weights(path)), PREFIXES)
    text = {"model_type": "llama", **section(config, "text_config")}
    groups = check(apply_overrides(_groups(path, config, text, tower, overrides), overrides))
    report_guesses(path, groups, overrides, template=None if "template" in overrides else _template(path))
    return join(
        path,
        groups,
        text_config=text_config(path, with_rows(text, weights["llm"], tied=tied(config, text))),
        vision_tower=vision_tower(path, section(config, "vision_config"), tower, weights["vision_tower"], ("image",)),
        weights=weights,
        device=device,
        dtype=dtype,
        quant=quant,
    )


def _groups(
    path: Path, config: Mapping[str, Any], text: Mapping[str, Any], tower: dict[str, Any], overrides: Overrides
) -> dict[str, dict[str, Any]]:
    """Translate the configuration into component groups."""
    vision, max_length = section(config, "vision_config"), longest(path, text)
    per_frame = max(1, count(vision, "image_size", 224) // count(vision, "patch_size", 32)) ** 2
    frames = max(1, min(FRAMES, (max_length - TEXT) // per_frame))
    chosen = "name" in (overrides.get("template") or {})  # it replaces the whole template
    groups = presets(template="llava" if chosen else _template(path), sampler="uniform")
    groups["sampler"]["num_frames"] = frames
    return {
        "llm": {"name": "auto", "path": "llm", "max_length": max_length},
        "vision_tower": tower,
        "connector": {"name": "mlp"},
        **groups,
    }


def _template(path: Path) -> str:
    """Return the name of the template that the end-of-sequence token suggests.

    Raises:
        CheckpointError: It suggests none.
    """
    file = path / TOKENIZER_CONFIG
    end = read_json(file).get("eos_token") if file.is_file() else None
    end = end.get("content") if isinstance(end, dict) else end
    templates = {"<|im_end|>": "chatml_no_system", "</s>": "llava"}
    if not isinstance(end, str) or end not in templates:
        stated = f"eos_token={end!r:.40} in {TOKENIZER_CONFIG}" if file.is_file() else f"the missing {TOKENIZER_CONFIG}"
        raise CheckpointError(
            f"{path} does not say how its prompt is written, and {stated} does not suggest it; choose a template, such "
            "as template=llava"
        )
    return templates[end]


def tower_group(config: Mapping[str, Any], *, default: str, layer: int, strategy: str) -> dict[str, Any]:
    """Return the group of the vision tower.

    Args:
        config: The configuration of the model.
        default: The ``model_type`` of a tower whose configuration has none.
        layer: The layer of a configuration that has none.
        strategy: The strategy of a configuration that has none.

    Raises:
        CheckpointError: The tower, its layer or the choice of its patches is not supported.
    """
    kind = section(config, "vision_config").get("model_type", default)
    if not isinstance(kind, str) or kind not in TOWERS:
        raise CheckpointError(f"vision_config.model_type={kind!r:.80} is not supported. {suggest(str(kind), TOWERS)}")
    layer = config.get("vision_feature_layer", layer)
    if type(layer) is not int:
        raise CheckpointError(
            f"config.json: vision_feature_layer={layer!r:.80} is not supported: features of several layers side by "
            "side need a wider connector; only one layer is supported"
        )
    strategy = config.get("vision_feature_select_strategy", strategy)
    options = CHOICES[TOWERS[kind]]
    if not isinstance(strategy, str) or strategy not in options:
        raise CheckpointError(
            f"config.json: vision_feature_select_strategy={strategy!r:.80} is not supported for a {TOWERS[kind]} "
            f"tower, which returns patches only. {suggest(str(strategy), options)}"
        )
    return {"name": TOWERS[kind], "path": "vision_tower", "layer": layer, **options[strategy]}


def vision_tower(
    path: Path,
    settings: Mapping[str, Any],
    group: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    processors: Sequence[Literal["image", "video"]],
) -> siglip.SiglipTower | clip.ClipTower:
    """Return the vision tower of a group with its weights.

    Args:
        path: The checkpoint.
        settings: The settings of the tower.
        group: See ``tower_group``.
        weights: The weights of the tower.
        processors: Whose settings say how frames become pixels, in order of preference. Without any, or if the
            checkpoint contains none, these are the settings of the tower's own training.

    Raises:
        CheckpointError: Weights do not match the settings, or the preprocessing is not supported.
    """
    from transformers import CLIPVisionModel, SiglipVisionModel

    if group["name"] == "clip":
        model = tower_model(path, CLIPVisionModel, settings, weights)
        image = _image_spec(path, processors, clip.default_image_spec(model.config))
        return clip.ClipTower(model, image, layer=group["layer"])
    model = tower_model(path, SiglipVisionModel, settings, weights)
    image = _image_spec(path, processors, siglip.default_image_spec(model.config))
    return siglip.SiglipTower(model, image, layer=group["layer"], select=group["select"])


def _image_spec(path: Path, processors: Sequence[Literal["image", "video"]], default: ImageSpec) -> ImageSpec:
    found = [find_processor(path, kind) for kind in processors]
    settings, file = next(((settings, file) for settings, file in found if settings is not None), (None, ""))
    if settings is None:
        if processors:
            logger.warning("%s has no preprocessor_config.json; using the preprocessing of its vision tower", path)
        return default
    with loading("vision_tower", str(path)):
        name = str(settings.get("image_processor_type") or settings.get("video_processor_type") or "Siglip")
        if not name.startswith("Siglip"):  # the other processors of LLaVA default to CLIP's values
            default = replace(default, mean=clip.MEAN, std=clip.STD)
        image = from_processor(settings, default, f"{file} of {path}")
        padded = name.startswith("LlavaImageProcessor") and settings.get("do_pad")
        return replace(image, resize="pad", crop_pct=1.0) if padded else image
