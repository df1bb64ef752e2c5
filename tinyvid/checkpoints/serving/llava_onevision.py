"""LLaVA-OneVision: SigLIP, an MLP with pooling behind it and a last token, and any LLM, as transformers has it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tinyvid.checkpoints.compat.llava_onevision import PREFIXES  # noqa: F401 - read by ``writing``
from tinyvid.checkpoints.native import Loaded

ARCHITECTURE = "LlavaOnevisionForConditionalGeneration"
UNIT = "video"
PLACEHOLDERS = {"image": "<image>", "video": "<video>"}
LLMS: tuple[str, ...] = ()  # any
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "vision_tower": {"siglip": {"select": "all", "final_norm": False}},
    "connector": {"mlp": {"depth": 2, "pool": 1, "pool_after": 2, "newline": True}},
}
TEMPLATE: dict[str, tuple[Any, ...]] = {"frame": ("{video}", "{video}{subtitle}"), "heading": ("",)}
IMAGE_PROCESSORS = {"siglip": "LlavaOnevisionImageProcessor"}
RESIZED_TWICE = False  # frames, first to a longest edge


def config(loaded: Loaded, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the settings of the model next to those of its LLM and vision tower."""
    size = loaded.model.vision_tower.image.size
    return {
        "model_type": "llava_onevision",
        "image_token_index": ids["image"],
        "video_token_index": ids["video"],
        "image_grid_pinpoints": [[size, size]],  # of stills
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_layer": loaded.groups["vision_tower"]["layer"],
        "vision_feature_select_strategy": "full",
    }


def processors(loaded: Loaded, texts: Mapping[str, str], image: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the files of the processor and their content; ``image`` is that of the image processor."""
    size = loaded.model.vision_tower.image.size
    video = {key: value for key, value in image.items() if key != "image_processor_type"}
    return {
        "processor_config.json": {
            "processor_class": "LlavaOnevisionProcessor",
            "image_token": texts["image"],
            "video_token": texts["video"],
            "num_image_tokens": loaded.model.vision_tower.features.num_patches,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
        },
        "preprocessor_config.json": {**image, "image_grid_pinpoints": [[size, size]]},
        "video_preprocessor_config.json": {**video, "video_processor_type": "LlavaOnevisionVideoProcessor"},
    }


def names(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the names of tokens that the processor asks its tokenizer for: none."""
    return {}


def suffix(template: Any) -> str:
    """Return the text behind a video."""
    return template.video_suffix


def inputs(pixels: Tensor) -> dict[str, Tensor]:
    """Return the argument of the model for the pixels (T, 3, S, S) of a clip."""
    return {"pixel_values_videos": pixels[None]}


def media(frames: np.ndarray, times: Sequence[float], duration: float) -> dict[str, Any]:
    """Return the arguments of the processor for the frames (T, H, W, 3) of a clip."""
    return {"videos": [frames]}


def pixels(made: Mapping[str, Tensor]) -> Tensor:
    """Return the pixels (T, 3, S, S) that the processor made."""
    return made["pixel_values_videos"][0]
