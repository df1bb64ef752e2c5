"""From ``cache.*`` of a configuration to the caches of a model and its Processor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyvid.caches.features import FeatureCache, check_frozen, tower_key
from tinyvid.caches.frames import FrameCache, FrameFormat
from tinyvid.registry import PositiveFloat


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """What is kept between epochs and runs.

    Attributes:
        frames: Folder of resized frames, or ``null``.
        features: Folder of tower features, or ``null``; needs a frozen tower.
        max_gib: Most bytes of each of the two, in GiB.
        format: Of frames: ``uint8`` keeps every bit, ``jpeg`` is smaller and lossy.
    """

    frames: str | None = None
    features: str | None = None
    max_gib: PositiveFloat = 50.0
    format: FrameFormat = "uint8"


def attach(options: CacheOptions, model: Any, processor: Any, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Give a Processor the caches that the options name. Call it once it is settled what trains.

    Raises:
        ConfigError: An option is wrong, a folder cannot be made, or the tower whose features are to be kept trains.
    """
    if options.features is not None:
        check_frozen(model.vision_tower)
    if options.frames is not None:
        processor.frames = FrameCache(options.frames, max_gib=options.max_gib, format=options.format)
    if options.features is not None:
        key = tower_key(model.vision_tower, groups["vision_tower"])
        processor.features = FeatureCache(options.features, max_gib=options.max_gib, tower_key=key)
