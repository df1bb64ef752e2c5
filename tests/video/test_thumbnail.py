import numpy as np
import pytest

from tests.clips import frame_number, write_clip
from tinyvid import Video, VideoError, thumbnail


def test_frames_are_shown_row_by_row(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", num_frames=60)
    image = thumbnail(Video(clip, start=0.0, end=1.0)).source[0]  # frames 0 to 25
    tiles = [tile for row in np.split(image, 3, axis=0) for tile in np.split(row, 2, axis=1)]
    assert [frame_number(tile) for tile in tiles] == [0, 5, 10, 15, 20, 25]


def test_tiles_of_a_still_clip_are_equal():
    frames = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 4, 6, 3), dtype=np.uint8), 9, axis=0)
    shown = thumbnail(frames)
    assert shown.source.shape == (1, 12, 12, 3)
    assert np.array_equal(shown.source[0], np.tile(frames[0], (3, 2, 1)))


def test_a_short_clip_repeats_frames():
    frames = np.stack([np.full((2, 2, 3), value, dtype=np.uint8) for value in (10, 20)])
    assert thumbnail(frames, columns=6).source[0, 0, ::2, 0].tolist() == [10, 10, 10, 10, 10, 20]


@pytest.mark.parametrize(("num_frames", "columns"), [(6, 4), (6, 0), (0, 2)])
def test_rows_must_be_full(num_frames, columns):
    with pytest.raises(VideoError, match="does not divide"):
        thumbnail(np.zeros((1, 2, 2, 3), dtype=np.uint8), num_frames=num_frames, columns=columns)
