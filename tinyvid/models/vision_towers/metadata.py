"""What all towers settle alike: which block the features come from, and how frames are brought to a square."""

from dataclasses import replace
from typing import Literal

from tinyvid.errors import ConfigError
from tinyvid.types import ImageSpec

Resize = Literal["auto", "stretch", "crop", "pad"]  # auto: as the model's metadata says


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
