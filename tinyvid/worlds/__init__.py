"""Synthetic worlds: clips are generated from a description, so every answer can be computed.

``shapes`` is the world of the default model: moving colored shapes, also as a data set that renders clips on the fly.
``footage`` makes clips of a folder of photos and videos. Encoding and writing of sets are shared.
"""

from tinyvid.worlds import footage, shapes

__all__ = ["footage", "shapes"]
