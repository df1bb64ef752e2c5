"""The reader on decord: the decoder of TinyLLaVA-Video and most evaluation scripts, made exact.

decord seeks by counting, and so returns other frames than it was asked for where the count and the container
disagree: key frames with leading frames (x265's default), recovery points instead of IDR frames, AVI, MPEG-TS and
MPEG-PS. On a broken file it repeats frames, or retries for minutes. This reader uses it only on the files where
counting is sound, as the frame table shows, and leaves the others to PyAV, and with them the long ones, which decord
passes over whole each time that it opens them: the same frame numbers and times, whichever decodes. What it cannot tell
is a frame that decord has patched up after a bit error; PyAV refuses those.
"""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby, pairwise
from pathlib import Path
from types import ModuleType

import numpy as np

from tinyvid.errors import ConfigError
from tinyvid.registry import VIDEO_READERS, PositiveInt
from tinyvid.video.readers.index import FrameIndex, IndexedReader
from tinyvid.video.readers.pyav import PyAVReader

logger = logging.getLogger(__name__)

CONTAINERS = {"mp4", "mov", "matroska", "webm"}
LONG = 20_000  # frames of a file, at which decord takes some 0.3 s to open it, and PyAV milliseconds
CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4"}


def import_decord() -> ModuleType | None:
    """Return decord, or ``None`` where its wheel is missing or does not load."""
    try:
        import decord  # imported on use: `import tinyvid` needs no decoder
    except (ImportError, OSError):
        return None
    return decord


@VIDEO_READERS.register("decord")
class DecordReader(IndexedReader):
    """Decode with decord where it is exact, with PyAV where it is not.

    Args:
        threads: Decoding threads of one read.

    Raises:
        ConfigError: decord is not installed.
    """

    name = "decord"

    def __init__(self, *, threads: PositiveInt = 2) -> None:
        if import_decord() is None:
            raise ConfigError(
                "video_reader 'decord': decord cannot be imported; `pip install decord` (wheels exist for Linux and "
                "Windows on x86-64), or choose video_reader=pyav"
            )
        super().__init__(threads=threads)
        self._exact = PyAVReader(threads=threads)

    def decode(self, path: Path, numbers: list[int], index: FrameIndex) -> np.ndarray:
        """Return the frames ``numbers``, uint8 (T, H, W, 3), from decord or from PyAV."""
        if not _counts_right(index) or index.meta.num_frames > LONG:
            logger.debug("%s (%s, %s) is decoded by PyAV: decord is wrong or slow", path, index.container, index.codec)
            return self._exact.decode(path, numbers, index)
        frames = _decode(path, numbers, index, self.threads)
        if frames is None:
            logger.debug("%s: decord fails, or repeats a frame as it does for damaged ones; PyAV decides", path)
            return self._exact.decode(path, numbers, index)
        return frames


def _counts_right(index: FrameIndex) -> bool:
    """Whether decord's counting from key frames reaches the right frame."""
    known = index.codec in CODECS and not CONTAINERS.isdisjoint(index.container.split(","))
    return known and index.timed and index.clean_keys


def _repeats(frames: np.ndarray) -> bool:
    """Whether two neighbors are equal to the bit: a still picture, or decord's stand-in for a damaged frame."""
    return any(np.array_equal(a, b) for a, b in pairwise(frames))


def _decode(path: Path, numbers: list[int], index: FrameIndex, threads: int) -> np.ndarray | None:
    """Return the frames ``numbers``, uint8 (T, H, W, 3), or ``None`` where decord cannot be trusted with them.

    Every seek costs decord more than its own threads win back on a long clip; so each thread is a reader of its own,
    with its own share of the key frames.
    """
    import decord

    # decord retries 10240 times at what it takes for the end of a file; a hundred tell a broken one as well.
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
    """Return the frames ``numbers`` from one decord reader."""
    import decord

    video = decord.VideoReader(os.path.abspath(path), num_threads=threads)
    if len(video) != index.meta.num_frames:
        raise ValueError(f"decord counts {len(video)} frames, the file holds {index.meta.num_frames}")
    batch = video.get_batch(numbers)
    # Another library may have told decord to return its own kind of tensor.
    return batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
