"""Readers of video files, by name: ``decord``, ``pyav``, ``torchcodec``, and ``auto`` (the first of them that is here).

Every reader takes frame numbers from one shared table (``index``), so all of them agree on how many frames a file has,
when each is shown, and which files are broken; they differ only in the library that decodes.
"""

from tinyvid.video.readers.auto import auto
from tinyvid.video.readers.decord import DecordReader
from tinyvid.video.readers.pyav import PyAVReader
from tinyvid.video.readers.torchcodec import TorchCodecReader

__all__ = ["DecordReader", "PyAVReader", "TorchCodecReader", "auto"]
