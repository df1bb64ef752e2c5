"""The default reader: decord where its wheel can be imported, PyAV elsewhere."""

from tinyvid.registry import VIDEO_READERS, PositiveInt
from tinyvid.video.readers.decord import DecordReader, import_decord
from tinyvid.video.readers.pyav import PyAVReader


@VIDEO_READERS.register("auto")
def auto(*, threads: PositiveInt = 2) -> DecordReader | PyAVReader:
    """Choose the reader for this machine, once; ``name`` of what is returned is the choice.

    Args:
        threads: Decoding threads of one read.
    """
    return PyAVReader(threads=threads) if import_decord() is None else DecordReader(threads=threads)
