"""The image settings of transformers in ``preprocessor_config.json``, read as and written from an ``ImageSpec``."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tinyvid.errors import CheckpointError, raised_as
from tinyvid.files import read_json
from tinyvid.models.vision_towers.metadata import image_spec
from tinyvid.types import ImageSpec

logger = logging.getLogger(__name__)

PREPROCESSOR, VIDEO_PREPROCESSOR = "preprocessor_config.json", "video_preprocessor_config.json"
JOINT = "processor_config.json"  # of newer models, with the settings for images and for videos
# Pillow's numbers
_FILTERS: dict[int, Literal["lanczos", "bilinear", "bicubic"]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


def read_image_spec(folder: Path, where: str, default: ImageSpec) -> ImageSpec:
    """Return the image specification in the folder of a vision tower or a model; see ``find_processor``.

    Args:
        folder: The folder of a vision tower or a model.
        where: Its name, for messages.
        default: What the model's family uses; its size is that of the tower's input.

    Returns:
        The specification; ``default``, with a warning, if no file contains one.

    Raises:
        CheckpointError: The file is damaged, does not match the tower, or has a setting that is not supported.
    """
    settings, file = find_processor(folder, "image")
    if settings is None:
        logger.warning("%s has no %s; using the preprocessing of its family", where, PREPROCESSOR)
        return default
    return from_processor(settings, default, f"{file} of {where}")


def find_processor(folder: Path, kind: Literal["image", "video"]) -> tuple[dict[str, Any] | None, str]:
    """Return the settings for images or videos in the folder of a model, and their file; ``None`` without any.

    Raises:
        CheckpointError: The file is damaged.
    """
    file = folder / (PREPROCESSOR if kind == "image" else VIDEO_PREPROCESSOR)
    if file.is_file():
        return read_json(file), file.name
    key = f"{kind}_processor"
    settings = read_json(folder / JOINT).get(key) if (folder / JOINT).is_file() else None
    if not isinstance(settings, dict | None):
        raise CheckpointError(f"{folder / JOINT}: {key} must be a JSON object, got {settings!r:.80}")
    return settings, f"{key} of {JOINT}"


def from_processor(processor: Mapping[str, Any], default: ImageSpec, where: str) -> ImageSpec:
    """Translate the settings of an image processor of transformers.

    Args:
        processor: Content of a ``preprocessor_config.json``.
        default: Values of missing settings; its size is that of the tower's input.
        where: Source of the settings, for messages.

    Raises:
        CheckpointError: They do not match the tower's input, or a setting is not supported.
    """
    with raised_as(CheckpointError, where, "correct its sizes"):
        side, resizing = _resizing(processor, default)
    if side != default.size:
        sizes = {key: processor[key] for key in ("size", "crop_size", "max_image_size") if key in processor}
        raise CheckpointError(
            f"{where}: {sizes!s:.200} does not match the tower's input of {default.size} pixels; correct the file"
        )
    factor = processor.get("rescale_factor", 1 / 255)
    wrong = [f"{step}=false" for step in ("do_resize", "do_rescale", "do_normalize") if not processor.get(step, True)]
    if not isinstance(factor, int | float) or not abs(factor * 255 - 1) <= 1e-4:
        wrong.append(f"rescale_factor={factor!r:.40}")
    if wrong:
        raise CheckpointError(
            f"{where}: {', '.join(wrong)} is not supported: frames are always resized, rescaled from 0..255 to 0..1, "
            "and normalized"
        )
    if processor.get("resample", 3) not in _FILTERS:
        known = ", ".join(f"{number} ({name})" for number, name in _FILTERS.items())
        raise CheckpointError(f"{where}: resample={processor['resample']!r:.40} is not supported; use {known}")
    settings = {
        "mean": processor.get("image_mean", default.mean),
        "std": processor.get("image_std", default.std),
        "interpolation": _FILTERS[processor.get("resample", 3)],
    }
    return image_spec(settings, default.size, where, **resizing)


def _resizing(processor: Mapping[str, Any], default: ImageSpec) -> tuple[object, dict[str, Any]]:
    """Return the side of the square that a processor makes, and how: the arguments of ``image_spec``.

    Older files write the shortest edge and the side of the crop as plain numbers.
    """
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    shortest = size if isinstance(size, int) else size.get("shortest_edge")
    if shortest is not None:
        side = crop if isinstance(crop, int) else crop.get("height") if _is_square(crop) else None
        side = side if processor.get("do_center_crop", True) else None  # images of any shape
        return side, {"resize": "crop", "crop_pct": (side or 0) / shortest}
    if "longest_edge" in size:
        side = (processor.get("max_image_size") or {}).get("longest_edge")
        return side, {"resize": "stretch", "longest_edge": size["longest_edge"]}
    if size:
        return size.get("height") if _is_square(size) else None, {"resize": "stretch"}
    return default.size, {"resize": default.resize, "crop_pct": default.crop_pct}


def _is_square(size: Mapping[str, Any]) -> bool:
    return bool(size.get("height") == size.get("width"))


def write_image_spec(folder: Path, image: ImageSpec, kind: str) -> None:
    """Write ``preprocessor_config.json`` for an image processor of transformers, named by its class."""
    square = {"height": image.size, "width": image.size}
    sizes: dict[str, Any] = {"image_processor_type": kind, "size": square, "do_center_crop": False}
    if image.resize == "crop":
        shortest = {"shortest_edge": round(image.size / image.crop_pct)}
        sizes |= {"size": shortest, "do_center_crop": True, "crop_size": square}
    if image.longest_edge is not None:  # Idefics3's processor has the two resizes, and tiles unless told otherwise
        sizes |= {
            "image_processor_type": "Idefics3ImageProcessor",
            "size": {"longest_edge": image.longest_edge},
            "max_image_size": {"longest_edge": image.size},
            "do_image_splitting": False,
        }
    settings = {
        **sizes,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "resample": next(number for number, name in _FILTERS.items() if name == image.interpolation),
        "rescale_factor": 1 / 255,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
    }
    (folder / PREPROCESSOR).write_text(json.dumps(settings, indent=2), encoding="utf-8")
