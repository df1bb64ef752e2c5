"""Video readers: ``pyav``, ``decord``, ``torchcodec``, and ``auto``, which is PyAV, the most exact one.

All readers use the same frame index, so they agree on the number of frames in a file, on their times, and
on which files are broken. They differ only in the decoding library.
"""

from tinyvid.registry import VIDEO_READERS, PositiveInt
from tinyvid.video.readers.decord import DecordReader
from tinyvid.video.readers.pyav import PyAVReader
from tinyvid.video.readers.torchcodec import TorchCodecReader

__all__ = ["DecordReader", "PyAVReader", "TorchCodecReader", "auto"]


@VIDEO_READERS.register("auto")
def auto(*, threads: PositiveInt = 2) -> PyAVReader:
    """Return the recommended reader, which is PyAV."""
    return PyAVReader(threads=threads)
