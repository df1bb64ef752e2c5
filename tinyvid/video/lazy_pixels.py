"""Pixels that are decoded when they are asked for, piece by piece: hours of video in the memory of a few seconds."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from tinyvid.protocols import VideoReader
from tinyvid.types import ImageSpec, Video
from tinyvid.video.open_video import open_video
from tinyvid.video.pixels import to_pixels

PIECE_BYTES = 16 << 20  # of the pixels of a piece


@dataclass(frozen=True, slots=True, eq=False)
class LazyPixels:
    """The chosen frames of a video. Holds no open file, so that it can travel between processes.

    Attributes:
        video: What to decode.
        indices: Which frames, counted from the first frame of the clip.
        reader: What reads video files.
        image: What the vision tower wants its pixels to be.
    """

    video: Video
    indices: tuple[int, ...]
    reader: VideoReader
    image: ImageSpec

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, if they were in memory at once."""
        return 12 * self.image.size**2 * len(self)  # three channels of float32

    def __iter__(self) -> Iterator[Tensor]:
        """Decode the frames anew: pixels (t, 3, S, S) of t neighboring frames, end to end all of them.

        Raises:
            VideoError: A frame cannot be decoded, or the video is no longer there.
        """
        clip = open_video(self.video, self.reader)
        most = max(16, PIECE_BYTES // (12 * self.image.size**2))
        for piece in clip.pieces(self.indices, most=most):
            yield to_pixels(piece.frames, self.image)
