"""Photos and videos for tests of the footage world: drawn, with texture everywhere."""

from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from tinyvid import VIDEO_READERS

READER = VIDEO_READERS.build({"name": "pyav", "threads": 1})


def drawn(seed: int, width: int = 220, height: int = 180) -> np.ndarray:
    """Draw a picture of colored shapes and noise of several sizes, uint8 (H, W, 3)."""
    rng = np.random.default_rng([99, seed])
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cell, strength in ((70, 60), (28, 55), (11, 35), (5, 18)):
        small = rng.integers(-strength, strength, (height // cell + 2, width // cell + 2, 3))
        big = Image.fromarray((small + 128).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(big, dtype=np.float32) - 128
    picture = Image.fromarray((total + rng.integers(90, 170, 3)).clip(20, 245).astype(np.uint8))
    canvas = ImageDraw.Draw(picture)
    for _ in range(14):
        x, y, size = rng.integers(0, width), rng.integers(0, height), rng.integers(8, 22)
        canvas.ellipse([x - size, y - size, x + size, y + size], fill=tuple(map(int, rng.integers(30, 235, 3))))
    return np.asarray(picture)


def write_photo(path: Path, seed: int, width: int = 220, height: int = 180) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn(seed, width, height)).save(path)
    return path


def write_frames(path: Path, frames: np.ndarray, fps: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"crf": "16", "preset": "ultrafast"}
        stream.codec_context.thread_count = 1
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    return path


def playing(seed: int, num_frames: int = 30) -> np.ndarray:
    """Draw a still scene in which a ball moves, uint8 (T, H, W, 3)."""
    frames = np.repeat(drawn(seed)[None], num_frames, 0).copy()
    for number, frame in enumerate(frames):
        x, y = 20 + 5 * number, 60 + number
        frame[y : y + 24, x : x + 24] = (230, 40, 40)
    return frames


def panning(seed: int, num_frames: int = 30) -> np.ndarray:
    """Draw a video whose camera moves by itself, uint8 (T, H, W, 3)."""
    wide = drawn(seed, 220 + 4 * num_frames)
    return np.stack([wide[:, 4 * number : 4 * number + 220] for number in range(num_frames)])


def with_cut(seed: int, num_frames: int = 30) -> np.ndarray:
    """Draw a video with a cut in the middle, uint8 (T, H, W, 3)."""
    half = num_frames // 2
    return np.concatenate([playing(seed, half), playing(seed + 500, num_frames - half)])


def write_sources(folder: Path, photos: int = 8, videos: int = 2) -> Path:
    """Write photos and videos of still scenes."""
    for number in range(photos):
        write_photo(folder / f"photo{number}.png", number)
    for number in range(videos):
        write_frames(folder / f"video{number}.mp4", playing(100 + number))
    return folder
