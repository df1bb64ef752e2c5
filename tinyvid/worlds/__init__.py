"""Synthetic worlds: clips are generated from a description, so every answer can be computed.

``shapes`` is the world of the default model: moving colored shapes. Each world is a package that registers a data set.
"""

from tinyvid.worlds import shapes

__all__ = ["shapes"]
