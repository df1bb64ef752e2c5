"""A video reader that fails as libraries do. A file name such as ``probe ValueError.mp4`` sets when and how."""

import logging
import os
import shutil
import signal
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tests.clips import write_clip
from tinyvid.types import Frames, VideoMeta
from tinyvid.video.readers.pyav import PyAVReader


class Panic(BaseException):
    """An error that is not an ``Exception``, like a panic of a library in Rust."""


EXCEPTIONS: tuple[type[BaseException], ...] = (
    ValueError, IndexError, MemoryError, struct.error, RecursionError, UnicodeDecodeError, Panic,
)  # fmt: skip
NATIVE: dict[str, Callable[[], object]] = {
    "abort": os.abort,
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "hang": lambda: time.sleep(1000),
    "warning": lambda: logging.getLogger("tinyvid.reader").warning("odd"),
    "allocate": lambda: bytearray(10 << 30),
}


class FaultyReader(PyAVReader):
    """Decode with PyAV, and fail for files with the name of a fault."""

    def probe(self, path: Path) -> VideoMeta:
        fail("probe", Path(path))
        return super().probe(path)

    def read(self, path: Path, indices: Sequence[int]) -> Frames:
        fail("read", Path(path))
        return super().read(path, indices)


def fail(when: str, path: Path) -> None:
    """Fail if the name of the file says so."""
    moment, _, fault = path.stem.partition(" ")
    if moment == when:
        NATIVE.get(fault, lambda: throw(fault))()


def throw(name: str) -> NoReturn:
    """Raise the exception with this name."""
    kind = next(kind for kind in EXCEPTIONS if kind.__name__ == name)
    raise kind("utf-8", b"\xff", 0, 1, "no text") if kind is UnicodeDecodeError else kind()


def faulty_clips(folder: Path, faults: Sequence[str], *, moments: Sequence[str] = ("probe", "read")) -> list[Path]:
    """Write one intact clip for each moment and fault; only its name makes the reader fail."""
    clip = write_clip(folder / "intact.mp4", num_frames=12)
    clips = [folder / f"{moment} {fault}.mp4" for moment in moments for fault in faults]
    for path in clips:
        shutil.copy(clip, path)
    return clips
