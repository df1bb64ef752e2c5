"""Generate the training clips: H.264 files, read back as the Processor does, and the facts about them.

Stores frames and targets as arrays, so files are decoded only once.
"""

import functools
import multiprocessing
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from recipes.shapes.facts import CHOICES, NUMBERS, facts
from recipes.shapes.progress import progress
from recipes.shapes.sizes import MAX_SHAPES, NUM_FRAMES
from tinyvid.registry import SAMPLERS, VIDEO_READERS
from tinyvid.types import ImageSpec, Video
from tinyvid.video.open_video import open_video
from tinyvid.video.pixels import resize
from tinyvid.worlds.shapes import COLORS, HELD_OUT, Scene, render, sample_scene, sampled_times

SIDE = 64  # side of the vision tower's frames in pixels
SPEC = ImageSpec(size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic")
BUSY_SHARE = 0.4  # fraction of clips drawn to have at least two events
COLLIDING_SHARE = 0.1  # fraction of clips drawn to have a collision
TRIES = 200  # about one scene in nine has a collision
# Width, height, frames and fraction of the files: mostly small ones, which are fast to write.
FORMATS = (
    (64, 64, 16, 0.5),
    (64, 64, 24, 0.1),
    (96, 96, 32, 0.1),
    (128, 128, 16, 0.1),
    (96, 72, 16, 0.1),
    (128, 72, 16, 0.05),
    (72, 96, 16, 0.05),
)
RATES = (4, 5, 8, 10, 12, 15, 24, 25, 30)


@dataclass(frozen=True, slots=True)
class File:
    """Size, length and compression of a clip's file."""

    width: int
    height: int
    num_frames: int
    fps: int
    crf: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_frames / self.fps

    @property
    def moments(self) -> np.ndarray:
        """Times of the frames that the model sees, from 0 to 1."""
        return sampled_times(self.num_frames, NUM_FRAMES)


def draw_clip(seed: int, index: int, hold_out: bool = False) -> tuple[Scene, File]:
    """Draw a scene, optionally without the held-out pairs, and its file format; deterministic in the arguments."""
    rng = np.random.default_rng([seed, index])
    shape = rng.choice(len(FORMATS), p=[share for *_, share in FORMATS])
    width, height, num_frames, _ = FORMATS[shape]
    file = File(width, height, num_frames, int(rng.choice(RATES)), int(rng.choice([18, 23, 28])))
    busy, colliding = rng.random() < BUSY_SHARE, rng.random() < COLLIDING_SHARE
    for _ in range(TRIES if colliding else 1):
        scene = sample_scene(rng, min_events=2 if busy else 0, exclude=HELD_OUT if hold_out else ())
        if scene.collisions:
            break
    return scene, file


def write_video(path: Path, frames: np.ndarray, fps: int, crf: int) -> None:
    """Write frames (T, H, W, 3) as H.264."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(crf), "preset": "ultrafast"}
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


@functools.cache
def _road() -> tuple[Any, Any]:
    return VIDEO_READERS.build({"name": "auto"}), SAMPLERS.build({"name": "uniform", "num_frames": NUM_FRAMES})


def read_frames(path: Path) -> np.ndarray:
    """Read a file with the Processor's sampler, reader and resize: uint8 (T, S, S, 3)."""
    reader, sampler = _road()
    clip = open_video(Video(str(path)), reader)
    indices = sampler(clip.meta)
    return resize(clip.read(indices).frames, SPEC)


def describe(scene: Scene, file: File) -> dict[str, np.ndarray]:
    """Return the facts about a clip as arrays over T = ``NUM_FRAMES`` frames and N = ``MAX_SHAPES`` shapes.

    Returns:
        ``visible`` (T, N), ``color`` (T, N) as indices, ``center`` (T, N, 2) and ``radius`` (T, N, 2) relative to the
        width and height of the frame, and the arrays of ``facts``.
    """
    tracks = scene.track(file.moments, aspect=file.width / file.height)
    count = len(scene.shapes)
    names = list(COLORS)
    first = np.array([names.index(shape.color) for shape in scene.shapes])
    last = np.array([names.index(shape.last_color) for shape in scene.shapes])
    short = min(file.width, file.height)
    radius = tracks.radius[..., None] * np.array([short / file.width, short / file.height])

    def padded(values: Any, dtype: str) -> np.ndarray:
        values = np.asarray(values)
        out = np.zeros((NUM_FRAMES, MAX_SHAPES, *values.shape[2:]), dtype=dtype)
        out[:, :count] = values
        return out

    return {
        "visible": padded(tracks.visible, "bool"),
        "color": padded(np.where(tracks.recolored, last, first), "int8"),
        "center": padded(tracks.center, "float32"),
        "radius": padded(radius, "float32"),
        **facts(scene, file.width / file.height, file.moments),
    }


ARRAYS = {
    "frames": ("uint8", (NUM_FRAMES, SIDE, SIDE, 3)),
    "visible": ("bool", (NUM_FRAMES, MAX_SHAPES)),
    "color": ("int8", (NUM_FRAMES, MAX_SHAPES)),
    "center": ("float32", (NUM_FRAMES, MAX_SHAPES, 2)),
    "radius": ("float32", (NUM_FRAMES, MAX_SHAPES, 2)),
    **dict.fromkeys(CHOICES, ("int8", (MAX_SHAPES,))),
    **{name: ("float32", (MAX_SHAPES, width)) for name, width in NUMBERS.items()},
}


def _make(job: tuple[str, int, bool, int, int]) -> int:
    """Write some clips as files, read them back, and store them in the arrays."""
    folder, seed, hold_out, first, last = job
    arrays = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r+") for name in ARRAYS}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "clip.mp4"
        for index in range(first, last):
            scene, file = draw_clip(seed, index, hold_out)
            frames = render(scene, num_frames=file.num_frames, width=file.width, height=file.height)
            write_video(path, frames, file.fps, file.crf)
            arrays["frames"][index] = read_frames(path)
            for name, value in describe(scene, file).items():
                arrays[name][index] = value
    return last - first


def make_clips(folder: Path, *, seed: int, count: int, hold_out: bool = False, processes: int = 2) -> None:
    """Generate the clips ``0 .. count - 1`` of a seed, optionally without the held-out pairs, as a folder of arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (dtype, shape) in ARRAYS.items():
        open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, *shape)).flush()
    jobs = [(str(folder), seed, hold_out, first, min(first + 100, count)) for first in range(0, count, 100)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool, progress("clips", count) as tick:
        for done in pool.imap_unordered(_make, jobs):
            tick(done)


def load_clips(folder: Path) -> dict[str, np.ndarray]:
    """Open the arrays of a folder."""
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
