"""A video reader based on decord, the decoder of TinyLLaVA-Video and most evaluation scripts.

decord seeks by counting frames, and returns wrong frames if its count disagrees with the container: key frames with
leading frames (x265's default), recovery points instead of IDR frames, AVI, MPEG-TS and MPEG-PS. On a broken file it
repeats frames, or retries for minutes. This reader uses decord only if the frame index shows that counting is correct,
and PyAV otherwise. It also uses PyAV for long files, because decord scans the whole file each time it opens one. Frame
numbers and times are the same with both. One limit remains: decord conceals bit errors in frames, which this reader
cannot detect; PyAV raises an error for them.

decord has not been maintained since 2022. decord2 continues it under the same module name.
"""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution
from itertools import chain, groupby, pairwise
from pathlib import Path
from types import ModuleType

import numpy as np

from tinyvid.errors import ConfigError
from tinyvid.registry import VIDEO_READERS, PositiveInt
from tinyvid.video.readers.index import FrameIndex, IndexedReader
from tinyvid.video.readers.packets import open_container
from tinyvid.video.readers.pyav import PyAVReader

logger = logging.getLogger(__name__)

CONTAINERS = {"mp4", "mov", "matroska", "webm"}
LONG = 20_000  # frames; decord takes about 0.3 s to open a file of this length, PyAV milliseconds
MAX_SECONDS = 30 * 86_400  # declared; decord ends the process if a header declares a duration that overflows
CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4"}


def import_decord() -> ModuleType | None:
    """Return the decord module, or ``None`` if it is not installed or cannot be loaded."""
    try:
        import av  # noqa: F401  # before decord, whose libvpx would otherwise take the place of PyAV's
        import decord  # imported on use: `import tinyvid` needs no decoder
    except (ImportError, OSError):
        return None
    return decord


def package_name() -> str:
    """Return the name of the package that provides the module ``decord``: ``decord`` or ``decord2``."""
    try:
        return distribution("decord2").metadata["Name"]
    except PackageNotFoundError:
        return "decord"


@VIDEO_READERS.register("decord")
class DecordReader(IndexedReader):
    """Decode with decord or decord2 if they are exact for the file, otherwise with PyAV.

    Its ``name`` is that of the installed package.

    Args:
        threads: Decoding threads per read.

    Raises:
        ConfigError: decord is not installed.
    """

    def __init__(self, *, threads: PositiveInt = 2) -> None:
        if import_decord() is None:
            raise ConfigError(
                "video_reader 'decord': decord cannot be imported; run `pip install decord` (on x86-64 Linux or "
                "Windows), or choose video_reader=pyav"
            )
        super().__init__(threads=threads)
        self.name = package_name()
        self._exact = PyAVReader(threads=threads)

    def decode(self, path: Path, numbers: list[int], index: FrameIndex) -> np.ndarray:
        """Return the frames ``numbers``, uint8 (T, H, W, 3), from decord or from PyAV."""
        if not _counts_right(index) or index.meta.num_frames > LONG or _declared_seconds(path) > MAX_SECONDS:
            logger.debug(
                "%s (%s, %s) is decoded by PyAV: decord would be inexact or slow", path, index.container, index.codec
            )
            return self._exact.decode(path, numbers, index)
        frames = _decode(path, numbers, index, self.threads)
        if frames is None:
            logger.debug("%s is decoded by PyAV: decord failed or repeated a frame, as it does for damaged ones", path)
            return self._exact.decode(path, numbers, index)
        return frames


def _counts_right(index: FrameIndex) -> bool:
    """Return whether decord reaches the right frame by counting from key frames, and returns it upright.

    decord rotates frames of MP4, but not of Matroska, and never mirrors them. It chooses a video stream by itself, and
    is not exact before time 0.
    """
    known = index.codec in CODECS and not CONTAINERS.isdisjoint(index.container.split(","))
    plain = index.only_stream and not index.is_turned and index.pts[0] >= 0
    return bool(known and plain and index.timed and index.clean_keys)


def _declared_seconds(path: Path) -> float:
    """Return the duration in the header of a file, or 0."""
    with open_container(str(path.absolute())) as container:
        return (container.duration or 0) / 1e6


def _repeats(frames: np.ndarray) -> bool:
    """Return whether two neighbors are identical: a still picture, or a copy that replaces a damaged frame."""
    return any(np.array_equal(a, b) for a, b in pairwise(frames))


def _decode(path: Path, numbers: list[int], index: FrameIndex, threads: int) -> np.ndarray | None:
    """Return the frames ``numbers``, uint8 (T, H, W, 3), or ``None`` if decord fails or its result is unreliable.

    On a long clip, seeking costs decord more than its decoding threads save. Each thread therefore opens its own reader
    for its share of the key frames.
    """
    import decord

    # By default decord retries 10240 times at what it believes to be the end of a file; 128 are enough.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "128")
    decord.logging.set_level(decord.logging.QUIET)
    runs = [list(run) for _, run in groupby(numbers, index.key_of)]
    bounds = np.linspace(0, len(runs), min(threads, len(runs)) + 1).astype(int)
    parts = [list(chain(*runs[a:b])) for a, b in pairwise(bounds)]
    inner = threads if len(parts) == 1 else 1
    try:
        with ThreadPoolExecutor(len(parts)) as pool:
            frames = np.concatenate(list(pool.map(lambda part: _decode_part(path, part, index, inner), parts)))
    except (decord.DECORDError, RuntimeError, ValueError):
        return None
    return None if _repeats(frames) else frames


def _decode_part(path: Path, numbers: list[int], index: FrameIndex, threads: int) -> np.ndarray:
    """Return the frames ``numbers``, decoded by one decord reader."""
    import decord

    video = decord.VideoReader(os.path.abspath(path), num_threads=threads)
    if len(video) != index.meta.num_frames:
        raise ValueError(f"decord counts {len(video)} frames, but the file has {index.meta.num_frames}")
    batch = video.get_batch(numbers)
    # Another library may have set decord to return its own tensor type.
    return batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
