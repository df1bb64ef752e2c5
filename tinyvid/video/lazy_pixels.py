"""Pixels that are decoded on demand, piece by piece: hours of video in the memory of a few seconds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tinyvid.protocols import VideoReader
from tinyvid.types import ImageSpec, Video
from tinyvid.video.open_video import open_video
from tinyvid.video.pixels import to_pixels

PIECE_BYTES = 16 << 20  # maximum size of the pixels of a piece


@dataclass(frozen=True, slots=True, eq=False)
class LazyPixels:
    """The chosen frames of a video. Keeps no file open, so it can be sent to other processes.

    Attributes:
        video: The video to decode.
        indices: The chosen frames, counted from the first frame of the clip, in any order.
        reader: Decodes video files.
        image: The input that the vision tower expects.
    """

    video: Video
    indices: tuple[int, ...]
    reader: VideoReader
    image: ImageSpec

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def nbytes(self) -> int:
        """Size in bytes of all pixels together."""
        return 12 * self.image.size**2 * len(self)  # three channels of float32

    def __iter__(self) -> Iterator[Tensor]:
        """Decode the frames again, and yield pixels (t, 3, S, S) of t neighboring frames at a time.

        Raises:
            VideoError: A frame cannot be decoded, or the video no longer exists.
        """
        for frames in self._pieces():
            yield to_pixels(frames, self.image)

    def check(self) -> None:
        """Decode all frames without keeping them.

        Raises:
            VideoError: A frame cannot be decoded, or the video no longer exists.
        """
        for _ in self._pieces():
            pass

    def _pieces(self) -> Iterator[np.ndarray]:
        """Yield decoded frames, uint8 (t, H, W, 3)."""
        clip = open_video(self.video, self.reader)
        most = max(16, PIECE_BYTES // (12 * self.image.size**2))
        for piece in clip.pieces(self.indices, most=most):
            yield piece.frames
