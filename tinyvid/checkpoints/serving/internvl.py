"""InternVL in the layout of transformers: InternViT, ``pixel_shuffle`` and a Qwen2, Qwen3 or Llama."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tinyvid.checkpoints.compat import internvl
from tinyvid.checkpoints.native import Loaded

PREFIXES = internvl.PREFIXES[internvl.TRANSFORMERS]
ARCHITECTURE = "InternVLForConditionalGeneration"
UNIT = "video"
PLACEHOLDERS = {"image": "<IMG_CONTEXT>"}
LLMS: tuple[str, ...] = ("qwen2", "qwen3", "llama")
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "vision_tower": {"internvit": {}},
    "connector": {"pixel_shuffle": {"factor": 2, "depth": 2, "norm": True, "bias": True}},
}
# What the processor writes for a video.
TEMPLATE: dict[str, tuple[Any, ...]] = {
    "frame": ("Frame{i}: <img>{video}</img>\n", "Frame{i}: <img>{video}</img>{subtitle}\n"),
    "heading": ("",),
}
IMAGE_PROCESSORS = {"internvit": "GotOcr2ImageProcessor"}
RESIZED_TWICE = False  # frames, first to a longest edge


def config(loaded: Loaded, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the settings of the model next to those of its LLM and vision tower."""
    return {
        "model_type": "internvl",
        "image_token_id": ids["image"],
        "image_seq_length": loaded.model.connector.tokens.budget.per_frame,
        "downsample_ratio": 1 / loaded.groups["connector"]["factor"],
        "projector_hidden_act": "gelu",
        "vision_feature_layer": loaded.groups["vision_tower"]["layer"],
        "vision_feature_select_strategy": "default",
    }


def processors(loaded: Loaded, texts: Mapping[str, str], image: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the files of the processor and their content; ``image`` is that of the image processor."""
    per_frame = loaded.model.connector.tokens.budget.per_frame
    video = {key: value for key, value in image.items() if key != "image_processor_type"}
    return {
        "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": per_frame},
        "video_preprocessor_config.json": {**video, "video_processor_type": "InternVLVideoProcessor"},
    }


def names(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the names of tokens that the processor asks its tokenizer for."""
    tokens = {"start_image_token": "<img>", "end_image_token": "</img>", "video_token": texts["video"]}
    return {**tokens, "context_image_token": texts["image"]}


def suffix(template: Any) -> str:
    """Return the text behind a video: the processor does not write the newline behind the last frame."""
    return "\n" + template.video_suffix


def inputs(pixels: Tensor) -> dict[str, Tensor]:
    """Return the argument of the model for the pixels (T, 3, S, S) of a clip."""
    return {"pixel_values": pixels}


def media(frames: np.ndarray, times: Sequence[float], duration: float) -> dict[str, Any]:
    """Return the arguments of the processor for the frames (T, H, W, 3) of a clip."""
    return {"videos": [frames]}


def pixels(made: Mapping[str, Tensor]) -> Tensor:
    """Return the pixels (T, 3, S, S) that the processor made."""
    return made["pixel_values"]
