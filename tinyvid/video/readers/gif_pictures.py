"""Check that the pictures of a GIF decode: FFmpeg accepts broken ones, which Pillow detects."""

import struct
from io import BytesIO
from typing import BinaryIO

from PIL import Image


def color_bytes(flags: int) -> int:
    """Return the length of the color table that the flags of the screen or of a picture declare."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def skip_blocks(file: BinaryIO, most: int) -> bool:
    """Move past the blocks of a picture or an extension, and return whether they end; assume so after ``most``."""
    file.seek(1, 1)
    for _ in range(most):
        length = file.read(1)
        if not length:
            return False
        if not length[0]:
            return True
        file.seek(length[0], 1)
    file.seek(0, 2)
    return True


def picture_fits(file: BinaryIO, start: int, width: int, height: int, flags: int) -> bool:
    """Return whether the data from ``start`` to the current position decode to all pixels of a picture."""
    end = file.tell()
    file.seek(start)
    data = file.read(end - start)
    screen, place = struct.pack("<2H3x", width, height), struct.pack("<4x2HB", width, height, flags & 64)
    try:
        with Image.open(BytesIO(b"GIF89a" + screen + b"," + place + data + b";"), formats=("GIF",)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError):
        return False
    return True
