"""One image of several frames, to show next to the video."""

import numpy as np

from tinyvid.errors import VideoError
from tinyvid.registry import VIDEO_READERS
from tinyvid.types import Video, VideoSource
from tinyvid.video.open_video import open_video


def thumbnail(video: VideoSource | Video, *, num_frames: int = 6, columns: int = 2, reader: str = "auto") -> Video:
    """Return one image of evenly spaced frames, row by row, as a second video of the sample.

    The vision tower sees all of these frames at once, at a lower resolution. Source: Qu et al., TS-LLaVA,
    arXiv:2411.11066, which shows the thumbnail after the video.

    Args:
        video: The clip.
        num_frames: Frames in the image, from the first frame of the clip to the last.
        columns: Frames in a row; must divide ``num_frames``.
        reader: Name of the video reader.

    Raises:
        VideoError: The video cannot be read, or ``columns`` does not divide ``num_frames``.
    """
    if not 0 < columns <= num_frames or num_frames % columns:
        raise VideoError(f"thumbnail: columns={columns} does not divide num_frames={num_frames}; use 2 and 6")
    clip = open_video(video if isinstance(video, Video) else Video(video), VIDEO_READERS.build({"name": reader}))
    shown = np.arange(num_frames) * (clip.meta.num_frames - 1) // max(num_frames - 1, 1)
    frames = clip.read(shown.tolist()).frames  # (num_frames, H, W, 3)
    rows = frames.reshape(-1, columns, *frames.shape[1:])  # (rows, columns, H, W, 3)
    return Video(np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(1, -1, columns * frames.shape[2], 3))
