"""SmolVLM2: SigLIP with its final norm, ``pixel_shuffle`` with one matrix, and a Llama."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tinyvid.checkpoints.compat.smolvlm import PREFIXES, VISION  # noqa: F401 - PREFIXES is read by ``writing``
from tinyvid.checkpoints.native import Loaded

ARCHITECTURE = "SmolVLMForConditionalGeneration"
UNIT = "video"
PLACEHOLDERS = {"image": "<image>"}
LLMS: tuple[str, ...] = ("llama",)
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "vision_tower": {"siglip": {"select": "all", "final_norm": True}},
    "connector": {"pixel_shuffle": {"depth": 1, "norm": False, "bias": False}},
}
# What the processor writes: it has its own chat template for videos.
TEMPLATE: dict[str, tuple[Any, ...]] = {
    "system": ("",),
    "start": ("<|im_start|>",),
    "user_prefix": ("User: ",),
    "heading": ("You are provided the following series of {count_words} frames from a {duration} [H:MM:SS] video.\n",),
    "frame": tuple(
        f"\nFrame from {{clock}}:<fake_token_around_image><global-img>{{video}}<fake_token_around_image>{subtitle}"
        for subtitle in ("", "{subtitle}")
    ),
    "video_suffix": ("\n\n",),
    "user_suffix": ("<end_of_utterance>\n",),
    "assistant_prefix": ("Assistant:",),
    "end": ("<end_of_utterance>",),
}
IMAGE_PROCESSORS = {"siglip": "SmolVLMImageProcessor"}
RESIZED_TWICE = True  # frames, first to a longest edge
FPS, MAX_FRAMES = 1, 64  # of the processor, if the sampler has no such options


def config(loaded: Loaded, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the settings of the model next to those of its LLM."""
    tower: Any = loaded.model.vision_tower
    return {
        "model_type": "smolvlm",
        "image_token_id": ids["image"],
        "scale_factor": loaded.groups["connector"]["factor"],
        "vision_config": {"model_type": "smolvlm_vision", **{key: getattr(tower.model.config, key) for key in VISION}},
    }


def processors(loaded: Loaded, texts: Mapping[str, str], image: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the files of the processor and their content; ``image`` is that of the image processor."""
    sampler, edge = loaded.groups["sampler"], {"longest_edge": loaded.model.vision_tower.image.size}
    image = {**image, "image_processor_type": "SmolVLMImageProcessor", "max_image_size": edge}
    video = {key: value for key, value in image.items() if key != "image_processor_type"}
    sampling = {
        "fps": sampler.get("fps", FPS),
        "max_frames": sampler.get("max_frames", sampler.get("num_frames", MAX_FRAMES)),
        "video_size": image["size"],
    }
    return {
        "processor_config.json": {
            "processor_class": "SmolVLMProcessor",
            "image_seq_len": loaded.model.connector.tokens.budget.per_frame,
        },
        "preprocessor_config.json": {**image, "do_image_splitting": False, "video_sampling": sampling},
        "video_preprocessor_config.json": {
            **video,
            "video_processor_type": "SmolVLMVideoProcessor",
            "video_sampling": sampling,
        },
    }


def names(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the names of tokens that the processor asks its tokenizer for."""
    return {"image_token": texts["image"]}


def suffix(template: Any) -> str:
    """Return the text behind a video: the processor writes it."""
    return ""


def inputs(pixels: Tensor) -> dict[str, Tensor]:
    """Return the argument of the model for the pixels (T, 3, S, S) of a clip."""
    return {"pixel_values": pixels[None]}


def media(frames: np.ndarray, times: Sequence[float], duration: float) -> dict[str, Any]:
    """Return the arguments of the processor for the frames (T, H, W, 3) of a clip; its times are frames / fps."""
    indices = [round(1000 * time) for time in times]
    metadata = {"total_num_frames": len(frames), "fps": 1000.0, "duration": duration, "frames_indices": indices}
    return {"videos": [frames], "video_metadata": [metadata], "do_sample_frames": False}


def pixels(made: Mapping[str, Tensor]) -> Tensor:
    """Return the pixels (T, 3, S, S) that the processor made."""
    return made["pixel_values"][0]
