"""Shared options of the vision towers: the block that the features come from, and how frames become square."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from tinyvid.errors import CheckpointError, ConfigError
from tinyvid.types import ImageSpec

Resize = Literal["auto", "stretch", "crop", "pad"]  # auto follows the model's metadata
HUB, LOCAL = "hf-hub:", "local-dir:"  # prefixes of paths of timm and open_clip


def blocks_to_run(layer: int, num_blocks: int) -> int:
    """Return the number of transformer blocks that compute ``hidden_states[layer]``, indexed as in transformers.

    Index 0 is the input of the first block and -1 the output of the last block.

    Raises:
        ConfigError: ``layer`` is out of range.
    """
    blocks = layer if layer >= 0 else num_blocks + 1 + layer
    if not 1 <= blocks <= num_blocks:
        raise ConfigError(
            f"vision_tower.layer={layer} is out of range: this tower has {num_blocks} blocks, "
            f"so use -{num_blocks} .. -1 (-1 is the last block) or 1 .. {num_blocks}"
        )
    return blocks


def check_architecture(path: str, revision: str | None, *, example: str) -> None:
    """Check that a path, which is neither a directory nor a hub id, can be the name of an architecture.

    Raises:
        CheckpointError: The path looks like a directory.
        ConfigError: There is a revision, which only hub ids support.
    """
    if "/" in path or "\\" in path or path.partition(":")[0] == LOCAL.rstrip(":"):
        raise CheckpointError(
            f"vision_tower.path={path!r} is not a local directory; write '{HUB}<id>' for a model on the hub, or "
            f"{example}"
        )
    if revision:
        raise ConfigError(
            f"vision_tower.revision={revision!r} applies to hub ids only; the tag in {path!r} selects the weights"
        )


def image_spec(settings: Mapping[str, Any], size: int, path: str, *, resize: Any, crop_pct: float = 1.0) -> ImageSpec:
    """Return the image specification from a library's ``mean``, ``std`` and ``interpolation``.

    Raises:
        ConfigError: The interpolation is not supported.
    """
    mean, std, interpolation = (settings[key] for key in ("mean", "std", "interpolation"))
    if interpolation not in ("bicubic", "bilinear"):
        raise ConfigError(f"vision_tower.path={path!r}: interpolation {interpolation!r} is not supported")
    return ImageSpec(size, tuple(mean), tuple(std), interpolation, resize, crop_pct)


def resized(image: ImageSpec, resize: Resize) -> ImageSpec:
    """Return ``image`` with another resize mode; an explicit mode keeps as much of the frame as possible."""
    if resize == "auto" or resize == image.resize:
        return image
    return replace(image, resize=resize, crop_pct=1.0)


def square(size: object, where: str) -> int:
    """Return the side of a square input size, given as a number or as (height, width).

    Raises:
        ConfigError: The size is not square.
    """
    sides = [size] if isinstance(size, int) else list(size)  # type: ignore[call-overload]
    if len(set(sides)) != 1:
        raise ConfigError(f"{where} takes images of {sides} pixels; choose a model with square inputs")
    return int(sides[0])
