"""Caches for frozen vision towers: compute frames and features once, not in every epoch.

    frames     resized frames, before normalization: saves decoding and resizing
    features   the output of a frozen tower: also saves the forward pass of the tower
    store      the files of both caches: limited in size, checked, shared by processes
    digests    hashes of the content of sources
    options    from ``cache.*`` of a configuration to the caches of a model and its Processor

A hit returns exactly the numbers that would be computed. A cache never stops a run: an entry that cannot be read is
computed again, and an entry that cannot be written is skipped.
"""

from tinyvid.caches.features import FeatureCache, check_frozen, tower_key
from tinyvid.caches.frames import FrameCache
from tinyvid.caches.options import CacheOptions, attach

__all__ = ["CacheOptions", "FeatureCache", "FrameCache", "attach", "check_frozen", "tower_key"]
