"""Shared options of the vision towers: the block that the features come from, and how frames become square."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from tinyvid.errors import CheckpointError, ConfigError
from tinyvid.types import ImageSpec

Resize = Literal["auto", "stretch", "crop", "pad"]  # auto follows the model's metadata
MAX_SIDE = 4096  # pixels of an input
MIN_CROP = 0.1  # an image is resized to this fraction before it is cropped
HUB, LOCAL = "hf-hub:", "local-dir:"  # prefixes of paths of timm and open_clip


def blocks_to_run(layer: int, num_blocks: int, unit: str = "blocks") -> int:
    """Return the number of blocks (or stages) that compute ``hidden_states[layer]``, indexed as in transformers.

    Index 0 is the input of the first block and -1 the output of the last block.

    Raises:
        ConfigError: ``layer`` is out of range.
    """
    blocks = layer if layer >= 0 else num_blocks + 1 + layer
    if not 1 <= blocks <= num_blocks:
        raise ConfigError(
            f"vision_tower.layer={layer} is out of range: this tower has {num_blocks} {unit}, "
            f"so use -{num_blocks} .. -1 (-1 is the last of the {unit}) or 1 .. {num_blocks}"
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


def image_spec(
    settings: Mapping[str, Any],
    size: int,
    where: str,
    *,
    resize: Any,
    crop_pct: float = 1.0,
    longest_edge: int | None = None,
) -> ImageSpec:
    """Return the image specification from a library's ``mean``, ``std`` and ``interpolation``.

    Raises:
        CheckpointError: A value is not a number, or out of range.
        ConfigError: The interpolation is not supported.
    """
    mean, std, interpolation = (settings[key] for key in ("mean", "std", "interpolation"))
    if interpolation not in ("bicubic", "bilinear", "lanczos"):
        raise ConfigError(f"{where}: interpolation {interpolation!r} is not supported")
    for side in (size, size if longest_edge is None else longest_edge):
        if type(side) is not int or not 1 <= side <= MAX_SIDE:
            raise CheckpointError(f"{where}: images of {side!r:.40} pixels are not supported; use 1 to {MAX_SIDE:,}")
    for key, values, low in (("mean", mean, -1000.0), ("std", std, 1e-6)):
        numbers = list(values) if isinstance(values, list | tuple) else []
        if len(numbers) != 3 or not all(isinstance(n, int | float) and low <= n <= 1000 for n in numbers):
            raise CheckpointError(f"{where}: {key}={values!r:.80} must be three numbers from {low:g} to 1000")
    if not isinstance(crop_pct, int | float) or not MIN_CROP <= crop_pct <= 2:
        raise CheckpointError(f"{where}: the crop of {crop_pct!r:.40} of an image must be from {MIN_CROP} to 2")
    return ImageSpec(size, tuple(mean), tuple(std), interpolation, resize, crop_pct, longest_edge)


def resized(image: ImageSpec, resize: Resize) -> ImageSpec:
    """Return ``image`` with another resize mode; an explicit mode keeps as much of the frame as possible."""
    if resize == "auto" or (resize == image.resize and image.longest_edge is None):
        return image
    return replace(image, resize=resize, crop_pct=1.0, longest_edge=None)


def square(size: object, where: str) -> int:
    """Return the side of a square input size, given as a number or as (height, width).

    Raises:
        ConfigError: The size is not square.
    """
    sides = list(size) if isinstance(size, list | tuple) else [size]
    if len({*map(str, sides)}) != 1 or type(sides[0]) is not int or not 1 <= sides[0] <= MAX_SIDE:
        raise ConfigError(f"{where} takes images of {sides} pixels; choose a model with square inputs")
    return sides[0]
