"""Video readers: ``decord``, ``pyav``, ``torchcodec``, and ``auto``, which uses decord if installed, else PyAV.

All readers use the same frame table (``index``), so they agree on the number of frames in a file, on their times, and
on which files are broken. They differ only in the decoding library.
"""

from tinyvid.registry import VIDEO_READERS, PositiveInt
from tinyvid.video.readers.decord import DecordReader, import_decord
from tinyvid.video.readers.pyav import PyAVReader
from tinyvid.video.readers.torchcodec import TorchCodecReader

__all__ = ["DecordReader", "PyAVReader", "TorchCodecReader", "auto"]


@VIDEO_READERS.register("auto")
def auto(*, threads: PositiveInt = 2) -> DecordReader | PyAVReader:
    """Return a decord reader if decord is installed, otherwise a PyAV reader; its ``name`` tells which."""
    return PyAVReader(threads=threads) if import_decord() is None else DecordReader(threads=threads)
