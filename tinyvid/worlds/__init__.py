"""Worlds that tinyvid knows everything about: clips are drawn from a description, so every answer can be computed.

``shapes`` is the world of the default model: colored shapes that move. Each world is a package of its own and
registers a data set.
"""

from tinyvid.worlds import shapes

__all__ = ["shapes"]
