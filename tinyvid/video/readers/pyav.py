"""A video reader based on PyAV: easy to install, all codecs of a current FFmpeg, exact for every container."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.errors import VideoError
from tinyvid.registry import VIDEO_READERS
from tinyvid.video.readers.index import FrameIndex, IndexedReader
from tinyvid.video.readers.packets import demux, open_container

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
        frames: dict[int, np.ndarray] = {}
        with open_container(str(path.absolute())) as container:
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
    position = int(index.pts[number]) if index.timed else number
    for here, frame in _positions(container, stream, index):
        if here is None or here < position:
            continue
        if here > position or frame.is_corrupt:
            raise _MissedError(f"frame {number} is {'damaged' if here == position else 'missing'}")
        found[number] = index.upright(frame.to_ndarray(format="rgb24"), path=path, number=number)
        if len(found) == len(numbers):
            return found
        number = next(wanted)
        position = int(index.pts[number]) if index.timed else number
    raise _MissedError(f"frame {number} is missing")


def _positions(container: Any, stream: Any, index: FrameIndex) -> Iterator[tuple[int | None, Any]]:
    """Yield decoded frames, each with its timestamp, or with its number if timestamps do not identify frames."""
    count = 0
    for packet in demux(container, stream):
        for frame in packet.decode():
            if index.timed:
                yield frame.pts, frame
            elif not index.restarts or (count < len(index.pts) and frame.pts == index.pts[count]):
                yield count, frame
                count += 1
