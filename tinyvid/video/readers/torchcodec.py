"""A video reader based on torchcodec, PyTorch's decoder; it needs shared FFmpeg libraries."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.errors import ConfigError, VideoError
from tinyvid.registry import VIDEO_READERS, PositiveInt
from tinyvid.video.readers.index import FrameIndex, IndexedReader
from tinyvid.video.readers.pyav import PyAVReader


@VIDEO_READERS.register("torchcodec")
class TorchCodecReader(IndexedReader):
    """Decode with torchcodec, and check its times against the frame index.

    Args:
        threads: Decoding threads per read.

    Raises:
        ConfigError: torchcodec or the FFmpeg libraries that it needs are not installed.
    """

    name = "torchcodec"

    def __init__(self, *, threads: PositiveInt = 2) -> None:
        super().__init__(threads=threads)
        _decoder_class()

    def decode(self, path: Path, numbers: list[int], index: FrameIndex) -> np.ndarray:
        """Return the frames ``numbers``, uint8 (T, H, W, 3), after checking their times; PyAV decodes turned frames."""
        if index.is_turned:  # releases differ in what they apply
            return PyAVReader(threads=self.threads).decode(path, numbers, index)
        if not index.timed:
            raise VideoError(
                f"{path}: the file has no timestamps, so torchcodec cannot find its frames; "
                "choose video_reader=pyav or remux it into MP4"
            )
        try:
            decoder = _decoder_class()(
                os.path.abspath(path),
                stream_index=index.stream,
                dimension_order="NHWC",
                num_ffmpeg_threads=self.threads,
                seek_mode="exact",
            )
            batch = decoder.get_frames_at(numbers)
            first = decoder.metadata.begin_stream_seconds
        except (RuntimeError, IndexError, ValueError) as error:
            raise VideoError(
                f"{path}: frames {numbers[0]} to {numbers[-1]} of {index.meta.num_frames} cannot be decoded "
                f"({str(error).splitlines()[0]}); the file is damaged: encode or download it again"
            ) from error
        late = np.abs(batch.pts_seconds.numpy() - first - index.times[numbers]).max()
        if late > 0.5 / index.meta.fps:
            raise VideoError(f"{path}: torchcodec returned frames that are {late:.3f} s off; choose video_reader=pyav")
        return batch.data.numpy()


def _decoder_class() -> Any:
    """Return torchcodec's decoder; importing it takes seconds."""
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder

        if getattr(torchcodec, "ffmpeg_major_version", True) is None:
            raise ImportError("shared FFmpeg libraries not found")
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"video_reader 'torchcodec' cannot be loaded ({str(error).strip().splitlines()[0]}); "
            "run `pip install tinyvid[torchcodec]` and install shared FFmpeg libraries, or choose video_reader=pyav"
        ) from error
    return VideoDecoder
