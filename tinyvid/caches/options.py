"""Create the caches of a model and its Processor from ``cache.*`` of a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyvid.caches.features import FeatureCache, check_frozen, tower_key
from tinyvid.caches.frames import FrameCache, FrameFormat
from tinyvid.registry import PositiveFloat


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """What to cache between epochs and runs.

    Attributes:
        frames: Folder for resized frames, or ``null``.
        features: Folder for features of the vision tower, or ``null``; it must be frozen.
        max_gib: Maximum size of each cache, in GiB.
        format: Format of frames: ``uint8`` is lossless, ``jpeg`` is smaller and lossy.
    """

    frames: str | None = None
    features: str | None = None
    max_gib: PositiveFloat = 50.0
    format: FrameFormat = "uint8"


def attach(options: CacheOptions, model: Any, processor: Any, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Attach the configured caches to a Processor. Call it after the trainable weights are set.

    Raises:
        ConfigError: An option is invalid, a folder cannot be created, or ``features`` is set for a trainable tower.
    """
    if options.features is not None:
        check_frozen(model.vision_tower)
    if options.frames is not None:
        processor.frames = FrameCache(options.frames, max_gib=options.max_gib, format=options.format)
    if options.features is not None:
        key = tower_key(model.vision_tower, groups["vision_tower"])
        processor.features = FeatureCache(options.features, max_gib=options.max_gib, tower_key=key)
