"""Caches for frozen vision towers: what is computed from a video once need not be computed in every epoch.

    frames     resized frames, before normalizing: saves decoding and resizing
    features   the output of a frozen tower: saves the tower as well
    store      the files of both: bounded, checked, shared by processes
    digests    the content of a source as a short string
    options    from ``cache.*`` of a configuration to the caches of a model and its Processor

A hit gives the numbers that computing them again would give. A cache never fails a run: an entry that cannot be read
is computed again, and one that cannot be written is not kept.
"""

from tinyvid.caches.features import FeatureCache, check_frozen, tower_key
from tinyvid.caches.frames import FrameCache
from tinyvid.caches.options import CacheOptions, attach
from tinyvid.caches.store import Statistics

__all__ = ["CacheOptions", "FeatureCache", "FrameCache", "Statistics", "attach", "check_frozen", "tower_key"]
