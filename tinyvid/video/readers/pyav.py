"""A video reader based on PyAV: easy to install, all codecs of a current FFmpeg, exact for every container.

It decodes as few frames as possible. Decoding starts at the last key frame before a requested frame. On the way to it,
frames that no other frame refers to are skipped, where the codec marks them reliably. Key frames make the runs of
frames between them independent of each other, so several runs are decoded at the same time, each by its own decoder.
"""

import logging
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.errors import VideoError
from tinyvid.registry import VIDEO_READERS
from tinyvid.video.readers.index import FrameIndex, IndexedReader
from tinyvid.video.readers.limits import affordable_threads, decoder_options
from tinyvid.video.readers.packets import demux, open_container

logger = logging.getLogger(__name__)

DECODING_CLOCK = {"mpegts", "mpeg"}  # containers that are sought by the decoding time
MAX_REORDER = 16  # frames between decoding and presentation, in H.264 and HEVC
SEEK_SAVES = 8  # frames; decoding this many is cheaper than a seek
RUN_LENGTH = 100  # frames; a longer run is split at the next key frame, so that threads share it
DECODER_PAYS = 10_000_000  # decoded pixels that are worth another decoder; they take about 30 ms


@VIDEO_READERS.register("pyav")
class PyAVReader(IndexedReader):
    """Decode with PyAV: only the frames that are needed, and several runs of them at the same time.

    Frames are identified by timestamp, never by counting from a seek point. Only the requested frames are converted to
    RGB, and a repeated index is decoded once.

    Args:
        threads: Decoding threads per read.
    """

    name = "pyav"

    def decode(self, path: Path, numbers: list[int], index: FrameIndex) -> np.ndarray:
        """Return the frames ``numbers``, uint8 (T, H, W, 3)."""
        import av  # imported on use: `import tinyvid` needs no decoder

        frames = np.empty((len(numbers), index.meta.height, index.meta.width, 3), dtype=np.uint8)
        read = _Read(path, index, dict(zip(numbers, frames, strict=True)))
        threads = affordable_threads(self.threads, index.meta)
        try:
            try:
                read.runs(numbers, threads)
            except (av.error.FFmpegError, _MissedError) as error:
                # Some containers seek past the requested frame. Decoding from the start is slow but reliable.
                logger.debug("%s: is decoded from its start (%s)", path, error)
                read.from_start(numbers, threads)
        except (av.error.FFmpegError, _MissedError) as error:
            raise VideoError(
                f"{path}: frames {numbers[0]} to {numbers[-1]} of {index.meta.num_frames} cannot be decoded ({error}); "
                "the file is damaged: encode or download it again"
            ) from error
        return frames


class _MissedError(Exception):
    """A wanted frame is missing, or a frame on the way to it is damaged."""


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """One read of a file.

    Attributes:
        path: The file.
        index: Its frame index.
        frames: The place of each requested frame in the result, uint8 (H, W, 3), by its number.
    """

    path: Path
    index: FrameIndex
    frames: dict[int, np.ndarray]

    def runs(self, numbers: list[int], threads: int) -> None:
        """Decode from key frames, several runs at the same time, with ``threads`` threads altogether."""
        if not self.index.timed:  # frames are found by counting from the start
            return self.from_start(numbers, threads)
        runs = deque(sorted(_runs(numbers, self.index), key=self._length, reverse=True))
        pixels = sum(map(self._length, runs)) * self.index.meta.width * self.index.meta.height
        decoders = max(1, min(threads, len(runs), pixels // DECODER_PAYS))
        with ThreadPoolExecutor(decoders) as pool:
            tasks = [pool.submit(self._take_runs, runs, threads // decoders) for _ in range(decoders)]
            try:
                wait(tasks, return_when=FIRST_EXCEPTION)
            finally:
                runs.clear()  # not empty after an error or an interrupt
        for task in tasks:
            task.result()
        return None

    def from_start(self, numbers: list[int], threads: int) -> None:
        """Decode all frames from the start of the file to the last of ``numbers``."""
        with open_container(str(self.path.absolute())) as container:
            self._run(numbers, container, self._stream(container, threads), seek=False)

    def _take_runs(self, runs: deque[list[int]], threads: int) -> None:
        """Decode runs until ``runs`` is empty; other threads take runs from it, too."""
        with open_container(str(self.path.absolute())) as container:
            stream = self._stream(container, threads)
            while True:
                try:
                    run = runs.popleft()
                except IndexError:
                    return
                key = self._key(run)
                if key > 0 or stream.codec_context.is_open:  # a new container is at its start
                    container.seek(int(self.index.pts[key]) - self._lead(stream), stream=stream)
                self._run(run, container, stream, seek=True)

    def _run(self, numbers: list[int], container: Any, stream: Any, *, seek: bool) -> None:
        """Decode ``numbers`` from the current position, checking every frame on the way to them."""
        positions = self.index.pts if self.index.timed else np.arange(len(self.index.pts))
        start = int(positions[self._key(numbers) if seek else 0])
        wanted = {int(positions[number]): number for number in numbers}
        decoded = _needed_frames(container, stream, set(wanted)) if seek else _all_frames(container, stream, wanted)
        for position, frame in self._placed(decoded):
            if position is None or position < start:
                continue
            if frame.is_corrupt:
                raise _MissedError("a frame on the way to them is damaged")
            number = wanted.pop(position, None)
            if number is not None:
                picture = frame.to_ndarray(format="rgb24", threads=1)  # more take longer to start
                self.frames[number][:] = self.index.upright(picture, path=self.path, number=number)
        if wanted:
            raise _MissedError(f"frame {min(wanted.values())} is missing")

    def _placed(self, frames: Iterator[Any]) -> Iterator[tuple[int | None, Any]]:
        """Yield each frame with its timestamp, or with its number if timestamps do not identify frames."""
        count = 0
        for frame in frames:
            if self.index.timed:
                yield frame.pts, frame
            elif not self.index.restarts or (count < len(self.index.pts) and frame.pts == self.index.pts[count]):
                yield count, frame
                count += 1

    def _stream(self, container: Any, threads: int) -> Any:
        stream = container.streams[self.index.stream]
        stream.codec_context.options = decoder_options(self.index.codec)
        stream.codec_context.thread_count = threads
        stream.thread_type = "AUTO"
        return stream

    def _lead(self, stream: Any) -> int:
        """Return by how much decoding may precede presentation, if the container is sought by the decoding time."""
        if not DECODING_CLOCK.intersection(self.index.container.split(",")):
            return 0
        return round(MAX_REORDER / self.index.meta.fps / stream.time_base)

    def _key(self, run: list[int]) -> int:
        """Return the key frame at which decoding of a run begins."""
        return int(self.index.keys[self.index.key_of(run[0])])

    def _length(self, run: list[int]) -> int:
        return run[-1] - self._key(run) + 1


def _runs(numbers: list[int], index: FrameIndex) -> Iterator[list[int]]:
    """Split ``numbers`` at key frames, where seeking skips frames or a run is long enough for a separate thread."""
    run = numbers[:1]
    for number in numbers[1:]:
        key = index.keys[index.key_of(number)]
        if key - run[-1] > SEEK_SAVES or (key > run[-1] and key - run[0] >= RUN_LENGTH):
            yield run
            run = []
        run.append(number)
    yield run


def _all_frames(container: Any, stream: Any, wanted: Collection[int]) -> Iterator[Any]:
    """Yield all decoded frames until the consumer has removed the last one from ``wanted``."""
    for packet in demux(container, stream):
        if packet.size:
            yield from packet.decode()
        if not wanted:
            break
    yield from stream.codec_context.decode(None)


def _needed_frames(container: Any, stream: Any, wanted: set[int]) -> Iterator[Any]:
    """Yield decoded frames, among them those with the timestamps ``wanted``, and few of the others.

    Decoding begins at a key frame. A packet with a wanted timestamp is decoded, and the one after it, which may be the
    second field of its frame. Reading ends there, because all frames that a frame refers to come before it.
    """
    context = stream.codec_context
    skips, last, near, started = _marks_unreferenced(context), max(wanted), 0, False
    for packet in demux(container, stream):
        started = started or packet.is_keyframe
        if not started:
            continue
        near = 2 if packet.pts in wanted else near - 1
        wanted.discard(packet.pts)
        # A packet whose decoding time is after the last wanted time shows that the container sought too far.
        if near <= 0 and (not wanted or (packet.dts is not None and packet.dts > last)):
            break
        if skips:
            context.skip_frame = "DEFAULT" if near > 0 else "NONREF"
        if packet.size:
            yield from packet.decode()
    yield from context.decode(None)


def _marks_unreferenced(context: Any) -> bool:
    """Return whether the codec marks the frames that no other frame refers to, so that they can be skipped.

    H.264 marks them by ``nal_ref_idc`` (ITU-T H.264, 7.4.1). HEVC marks those without references in the same temporal
    layer (ITU-T H.265, 7.4.2.2), which means all references only if there is one layer, as the header of MP4 and
    Matroska tells (ISO/IEC 14496-15, 8.3.2.1). In VP8, VP9 and AV1, a frame without references can still change the
    state of the decoder.
    """
    if context.name == "hevc":
        header = context.extradata or b""
        return len(header) > 21 and header[0] == 1 and header[21] >> 3 & 7 == 1
    return bool(context.name == "h264")
