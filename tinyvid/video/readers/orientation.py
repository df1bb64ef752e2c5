"""The orientation of a video: the display matrix of its file, as quarter turns and a mirror."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyvid.errors import VideoError

_ONE = 1 << 16  # fixed-point one in a display matrix
_TOLERANCE = math.sin(math.radians(1))  # of a rotation, as in ffmpeg


def orientation_of(name: str, frame: Any) -> tuple[int, bool]:
    """Return the orientation of a decoded frame. See ``turns_and_mirror``."""
    from av.sidedata.sidedata import SideDataContainer, Type

    class Listed(SideDataContainer):
        """PyAV fails at the first kind of data that it does not know, such as EXIF data; those before it are listed."""

        def __init__(self, frame: Any) -> None:
            with contextlib.suppress(ValueError):
                super().__init__(frame)  # type: ignore[call-arg]

    matrix = Listed(frame).get(Type.DISPLAYMATRIX)
    if matrix is None:
        return frame.rotation // 90 % 4, False
    return turns_and_mirror(name, np.frombuffer(bytes(matrix), dtype=np.int32).tolist())


def turns_and_mirror(name: str, matrix: Sequence[int]) -> tuple[int, bool]:
    """Return the quarter turns counterclockwise, and whether left and right are swapped after them.

    Args:
        name: The file, for messages.
        matrix: Nine numbers in the layout of FFmpeg, which moves a pixel from (x, y) to (ax + cy, bx + dy).

    Raises:
        VideoError: The matrix does not only rotate by multiples of 90 degrees and mirror.
    """
    (a, b), (c, d) = (np.array(matrix[i : i + 2]) / _ONE for i in (0, 3))
    if not any((a, b, c, d)):
        return 0, False  # some cameras leave it empty, and players ignore it
    straight, swapped = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(b), abs(c)) < _TOLERANCE * straight:
        b = c = 0.0
    elif max(abs(a), abs(d)) < _TOLERANCE * swapped:
        a = d = 0.0
    else:
        raise VideoError(
            f"{name}: its display matrix [[{a:g}, {b:g}], [{c:g}, {d:g}]] is not supported, only quarter turns and "
            "mirroring are; encode it again"
        )
    mirrored = bool(a * d < b * c)
    if mirrored:  # what remains without the swap of x is a rotation
        a, c = -a, -c
    return (0 if a > 0 else 2 if a < 0 else 1 if b < 0 else 3), mirrored
