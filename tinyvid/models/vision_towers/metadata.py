"""What all towers settle alike: which block the features come from, and how frames are brought to a square."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from tinyvid.errors import CheckpointError, ConfigError
from tinyvid.types import ImageSpec

Resize = Literal["auto", "stretch", "crop", "pad"]  # auto: as the model's metadata says
HUB, LOCAL = "hf-hub:", "local-dir:"  # what paths of timm and open_clip begin with


def blocks_to_run(layer: int, num_blocks: int) -> int:
    """Return how many transformer blocks give ``hidden_states[layer]``, counted as in transformers.

    Index 0 is what enters the first block and -1 what leaves the last one, so -2 is the output of the last but one.

    Raises:
        ConfigError: ``layer`` is out of range.
    """
    blocks = layer if layer >= 0 else num_blocks + 1 + layer
    if not 1 <= blocks <= num_blocks:
        raise ConfigError(
            f"vision_tower.layer={layer} is out of range: this tower has {num_blocks} blocks, "
            f"so layer may be -{num_blocks} .. -1 (-1 is the last block) or 1 .. {num_blocks}"
        )
    return blocks


def check_architecture(path: str, revision: str | None, *, example: str) -> None:
    """Refuse a path that is neither a directory nor a hub id, unless it can be an architecture of a library.

    Raises:
        CheckpointError: It looks like a directory.
        ConfigError: A revision is given, which only hub ids have.
    """
    if "/" in path or "\\" in path or path.partition(":")[0] == LOCAL.rstrip(":"):
        raise CheckpointError(
            f"vision_tower.path={path!r} is no directory here; write '{HUB}<id>' for a model of the hub, or {example}"
        )
    if revision:
        raise ConfigError(
            f"vision_tower.revision={revision!r} is for hub ids; the weights of {path!r} are chosen by its tag"
        )


def image_spec(settings: Mapping[str, Any], size: int, path: str, *, resize: Any, crop_pct: float = 1.0) -> ImageSpec:
    """Return the image spec of a library's ``mean``, ``std`` and ``interpolation``.

    Raises:
        ConfigError: The interpolation is not supported.
    """
    mean, std, interpolation = (settings[key] for key in ("mean", "std", "interpolation"))
    if interpolation not in ("bicubic", "bilinear"):
        raise ConfigError(f"vision_tower.path={path!r}: interpolation {interpolation!r} is not supported")
    return ImageSpec(size, tuple(mean), tuple(std), interpolation, resize, crop_pct)


def resized(image: ImageSpec, resize: Resize) -> ImageSpec:
    """Return ``image`` with another way to the square; chosen ways keep all that they can of the frame."""
    if resize == "auto" or resize == image.resize:
        return image
    return replace(image, resize=resize, crop_pct=1.0)


def square(size: object, where: str) -> int:
    """Return the side of a square input given as a number or as (height, width).

    Raises:
        ConfigError: The input is not square.
    """
    sides = [size] if isinstance(size, int) else list(size)  # type: ignore[call-overload]
    if len(set(sides)) != 1:
        raise ConfigError(f"{where} takes images of {sides} pixels; only square inputs are supported")
    return int(sides[0])
