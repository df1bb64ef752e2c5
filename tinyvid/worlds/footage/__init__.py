"""Questions with known answers about any folder of photos and videos, by changes that the generator makes.

``FootageWorld`` plans clips: cuts, camera moves, freezes, changes of brightness and a small picture on top, applied to
the user's own pictures. ``write_set`` writes video files with rows for ``data=jsonl``. docs/footage.md describes the
world.
"""

from tinyvid.worlds.footage.clips import FootageClip, FootageWorld
from tinyvid.worlds.footage.files import describe_set, write_set
from tinyvid.worlds.footage.options import FootageOptions
from tinyvid.worlds.footage.questions import DEFAULT_FAMILIES, FAMILIES, FORMATS, TIMED_FAMILIES, FootageQuestion

__all__ = [
    "DEFAULT_FAMILIES",
    "FAMILIES",
    "FORMATS",
    "TIMED_FAMILIES",
    "FootageClip",
    "FootageOptions",
    "FootageQuestion",
    "FootageWorld",
    "describe_set",
    "write_set",
]
