"""Readers of video files, by name: ``decord``, ``pyav``, ``torchcodec``, and ``auto`` (the first of them that is here).

Every reader takes frame numbers from one shared table (``index``), so all of them agree on how many frames a file has,
when each is shown, and which files are broken; they differ only in the library that decodes.
"""

from tinyvid.registry import VIDEO_READERS, PositiveInt
from tinyvid.video.readers.decord import DecordReader, import_decord
from tinyvid.video.readers.pyav import PyAVReader
from tinyvid.video.readers.torchcodec import TorchCodecReader

__all__ = ["DecordReader", "PyAVReader", "TorchCodecReader", "auto"]


@VIDEO_READERS.register("auto")
def auto(*, threads: PositiveInt = 2) -> DecordReader | PyAVReader:
    """Choose the reader for this machine, once; ``name`` of what is returned is the choice.

    Args:
        threads: Decoding threads of one read.
    """
    return PyAVReader(threads=threads) if import_decord() is None else DecordReader(threads=threads)
