"""LLaVA: SigLIP or CLIP, an MLP of two layers, and any LLM. Each frame is an image, and text may stand between them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from tinyvid.checkpoints.compat.llava import PREFIXES  # noqa: F401 - read by ``writing``
from tinyvid.checkpoints.native import Loaded

ARCHITECTURE = "LlavaForConditionalGeneration"
UNIT = "image"
PLACEHOLDERS = {"image": "<image>"}
LLMS: tuple[str, ...] = ()  # any
# Parts with this layout, and the options that it has.
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "vision_tower": {"siglip": {"select": "all", "final_norm": False}, "clip": {}},
    "connector": {"mlp": {"depth": 2, "pool": 1, "pool_after": 1, "newline": False}},
}
TEMPLATE: dict[str, tuple[Any, ...]] = {}  # the chat template writes all texts
IMAGE_PROCESSORS = {"siglip": "SiglipImageProcessor", "clip": "CLIPImageProcessor"}
RESIZED_TWICE = False  # frames, first to a longest edge


def config(loaded: Loaded, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the settings of the model next to those of its LLM and vision tower."""
    return {
        "model_type": "llava",
        "image_token_index": ids["image"],
        "image_seq_length": loaded.model.vision_tower.features.num_patches,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": loaded.groups["vision_tower"]["layer"],
        "vision_feature_select_strategy": _strategy(loaded),
    }


def processors(loaded: Loaded, texts: Mapping[str, str], image: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the files of the processor and their content; ``image`` is that of the image processor."""
    tower: Any = loaded.model.vision_tower
    return {
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": texts["image"],
            "patch_size": tower.model.config.patch_size,
            "num_additional_image_tokens": int(_strategy(loaded) == "default"),
            "vision_feature_select_strategy": _strategy(loaded),
        }
    }


def names(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the names of tokens that the processor asks its tokenizer for: none."""
    return {}


def suffix(template: Any) -> str:
    """Return the text behind a video."""
    return template.video_suffix


def inputs(pixels: Tensor) -> dict[str, Tensor]:
    """Return the argument of the model for the pixels (T, 3, S, S) of a clip."""
    return {"pixel_values": pixels}


def media(frames: np.ndarray, times: Sequence[float], duration: float) -> dict[str, Any]:
    """Return the arguments of the processor for the frames (T, H, W, 3) of a clip."""
    return {"images": [Image.fromarray(frame) for frame in frames]}


def pixels(made: Mapping[str, Tensor]) -> Tensor:
    """Return the pixels (T, 3, S, S) that the processor made."""
    return made["pixel_values"]


def _strategy(loaded: Loaded) -> str:
    return "default" if loaded.groups["vision_tower"]["name"] == "clip" else "full"  # without the class token
