"""A video reader based on PyAV: easy to install, all codecs of a current FFmpeg, exact for every container."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.errors import VideoError
from tinyvid.registry import VIDEO_READERS
from tinyvid.video.readers.index import LOCAL_ONLY, FrameIndex, IndexedReader

SEEK_SAVES = 8  # frames; decoding this many is cheaper than a seek


@VIDEO_READERS.register("pyav")
class PyAVReader(IndexedReader):
    """Decode with PyAV, seeking only if that skips frames.

    Frames are identified by timestamp, never by counting from a seek point. Only the requested frames are converted to
    RGB, and a repeated index is decoded once.

    Args:
        threads: Decoding threads per read.
    """

    name = "pyav"

    def decode(self, path: Path, numbers: list[int], index: FrameIndex) -> np.ndarray:
        """Return the frames ``numbers``, uint8 (T, H, W, 3)."""
        import av  # imported on use: `import tinyvid` needs no decoder

        try:
            try:
                frames = self._decode(path, list(_runs(numbers, index)), index)
            except (av.error.FFmpegError, _MissedError):
                # Some containers seek past the requested frame. Decoding from the start is slow but reliable.
                frames = self._decode(path, [numbers], index, seek=False)
        except (av.error.FFmpegError, _MissedError) as error:
            raise VideoError(
                f"{path}: frames {numbers[0]} to {numbers[-1]} of {index.meta.num_frames} cannot be decoded ({error}); "
                "the file is damaged: encode or download it again"
            ) from error
        return np.stack([frames[i] for i in numbers])

    def _decode(
        self, path: Path, runs: Sequence[Sequence[int]], index: FrameIndex, *, seek: bool = True
    ) -> dict[int, np.ndarray]:
        """Decode runs of frame numbers, each from the key frame before it; without ``seek``, from the start."""
        import av

        frames: dict[int, np.ndarray] = {}
        with av.open(str(path.absolute()), options=LOCAL_ONLY, metadata_errors="replace") as container:
            stream = container.streams[index.stream]
            stream.codec_context.thread_count = self.threads
            stream.thread_type = "AUTO"
            for run in runs:
                key = index.keys[index.key_of(run[0])]
                if seek and key > 0:
                    container.seek(int(index.pts[key]), stream=stream)
                frames.update(_decode_run(container, stream, run, index, path))
        return frames


def _runs(numbers: list[int], index: FrameIndex) -> Iterator[list[int]]:
    """Split ``numbers`` where seeking to the next key frame is cheaper than decoding up to it."""
    run = numbers[:1]
    for number in numbers[1:]:
        if index.keys[index.key_of(number)] - run[-1] > SEEK_SAVES:
            yield run
            run = []
        run.append(number)
    yield run


class _MissedError(Exception):
    """Decoding went past a wanted frame, or ended before it."""


def _decode_run(
    container: Any, stream: Any, numbers: Sequence[int], index: FrameIndex, path: Path
) -> dict[int, np.ndarray]:
    """Decode until the last of ``numbers`` is found, converting only these to RGB."""
    found: dict[int, np.ndarray] = {}
    wanted = iter(numbers)
    number = next(wanted)
    stamp = int(index.pts[number])
    for count, frame in enumerate(container.decode(stream)):
        here = frame.pts if index.timed else count
        if here is None or here < stamp:
            continue
        if here > stamp or frame.is_corrupt:
            raise _MissedError(f"frame {number} is {'damaged' if here == stamp else 'missing'}")
        found[number] = index.upright(frame.to_ndarray(format="rgb24"), path=path, number=number)
        if len(found) == len(numbers):
            return found
        number = next(wanted)
        stamp = int(index.pts[number])
    raise _MissedError(f"frame {number} is missing")
