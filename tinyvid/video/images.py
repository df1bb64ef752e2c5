"""Images as frames: a single image, an animation, a folder of images."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tinyvid.errors import VideoError, raised_as
from tinyvid.files import refuse_special
from tinyvid.types import Frames, VideoMeta
from tinyvid.video.file_warnings import warn_once

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
VIDEOS = {
    *(".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".mxf", ".nut", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # Pillow also knows EPS, for which it starts Ghostscript
MAX_FILES = 500_000  # in a folder of frames, five hours at 25 frames per second
MAX_ANIMATION = 1 << 32  # pixels of all frames of an animation: half an hour of 320x240 at 30 frames per second
ARRAY_FPS = 1.0  # default frame rate of an array or a single image
_UNSTATED = 100  # milliseconds; browsers show a frame of an animation this long if the file states 0
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by the orientation in the EXIF data


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A whole video: its properties, the times of its frames in seconds, and a function that decodes frames."""

    meta: VideoMeta
    times: Callable[[], np.ndarray]
    load: Callable[[list[int]], Frames]


def open_image(path: Path) -> Source:
    """Open an image as a video of one frame, or an animated WebP or PNG with its own times.

    Raises:
        VideoError: The file is not an image, is damaged, or is too large.
    """
    with _opened(path) as image:
        if not _is_animated(image):
            return _pictures([path], ARRAY_FPS)
        first = int(bool(image.info.get("default_image")))  # a PNG may begin with a picture that is not a frame
        count, pixels = int(getattr(image, "n_frames", 1)) - first, image.width * image.height
        if count * pixels > MAX_ANIMATION:
            raise VideoError(
                f"{path}: its {count:,} frames of {image.width}x{image.height} pixels exceed the limit of "
                f"{MAX_ANIMATION:,} pixels of an animation; convert it to a video file"
            )
        ends = np.cumsum([_shown(frame) for frame in _frames(image, first, count)]) / 1000  # (N,)
        times = np.concatenate([[0.0], ends[:-1]])
        meta = VideoMeta(count, count / float(ends[-1]), float(ends[-1]), image.width, image.height, times)

    def load(numbers: list[int]) -> Frames:
        wanted = set(numbers)
        with _opened(path) as image:
            shown = enumerate(_frames(image, first, max(numbers) + 1))
            frames = {i: np.asarray(frame.convert("RGB")) for i, frame in shown if i in wanted}
        return Frames(np.stack([frames[number] for number in numbers]), times[numbers].astype(np.float32))

    return Source(meta, lambda: times, load)


def open_folder(folder: Path, fps: float | None) -> Source:
    """Open the images of a folder as the frames of a video, in natural order of their names (2 before 10).

    Raises:
        VideoError: The folder cannot be read, has no images or other files, or ``fps`` is not given.
    """
    files: list[str] = []
    strange: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    is_image = os.path.splitext(entry.name)[1].lower() in IMAGES and entry.is_file()
                    (files if is_image else strange).append(entry.name)
                if len(files) + len(strange) > MAX_FILES:
                    raise VideoError(f"{folder}: contains more than {MAX_FILES:,} files; make a video file of them")
    except OSError as error:
        raise VideoError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    if not files:
        raise VideoError(f"{folder}: the folder contains no videos and no images; give one with the frames of a video")
    if strange:
        raise VideoError(
            f"{folder}: {min(strange)!r} is not an image ({len(strange)} of {len(files) + len(strange)} entries are "
            f"not); a folder of frames may contain only {', '.join(sorted(IMAGES))} files"
        )
    if fps is None:
        raise VideoError(f"{folder}: a folder of frames has no frame rate; set fps (frames per second)")
    return _pictures([folder / name for name in sorted(files, key=_natural)], checked_fps(str(folder), fps))


def checked_fps(name: str, fps: float) -> float:
    """Return a frame rate, which must be positive and within what clocks can express."""
    if not 1e-6 <= fps <= 1e6:
        raise VideoError(f"{name}: fps={fps:g} must be a positive number of frames per second, from 1e-6 to 1e6")
    return float(fps)


def _pictures(files: Sequence[Path], fps: float) -> Source:
    """Open image files as frames. Their sizes are checked when they are decoded."""
    height, width, _ = _read_image(files[0]).shape
    times = np.arange(len(files)) / fps

    def load(numbers: list[int]) -> Frames:
        frames = {number: _read_image(files[number]) for number in sorted(set(numbers))}
        for number, frame in frames.items():
            if frame.shape[:2] != (height, width):
                sizes = (
                    f"{frame.shape[1]}x{frame.shape[0]} pixels, but the first frame {files[0].name} is {width}x{height}"
                )
                raise VideoError(f"{files[number]}: is {sizes}; all frames of a video must have the same size")
        return Frames(np.stack([frames[number] for number in numbers]), times[numbers].astype(np.float32))

    return Source(VideoMeta(len(files), fps, len(files) / fps, width, height), lambda: times, load)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file, and raise every error as one of this file."""
    refuse_special(path, VideoError)
    try:
        file = path.open("rb")
    except OSError as error:
        raise VideoError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    guard = raised_as(VideoError, f"{path}: cannot be read as an image", "the file is damaged: download it again")
    with file, guard, _identified(path, file) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit and image.width * image.height > limit:
            raise VideoError(f"{path}: {image.width}x{image.height} pixels exceed the limit of {limit}; resize it")
        yield image


def _identified(path: Path, file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise VideoError(
            f"{path}: cannot be read as an image: its content is not {', '.join(FORMATS)}, whatever its name says; "
            "convert it, or download it again"
        ) from error


def _read_image(path: Path) -> np.ndarray:
    """Return an image as uint8 (H, W, 3), upright according to its EXIF data."""
    with _opened(path) as image:
        if _is_animated(image):
            raise VideoError(f"{path}: is an animation, not a frame of a video; convert it to a video file")
        image.load()
        method = _turn(path, image)
        turned = image if method is None else image.transpose(method)
        if turned.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip to 8
            gray = (np.asarray(turned).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
            return gray[..., None].repeat(3, axis=-1)
        return np.asarray(turned.convert("RGB"))


def _turn(path: Path, image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that makes an image upright; ``None``, with a warning, if its EXIF data are broken."""
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # Pillow raises whatever its parser meets; the picture itself is intact
        warn_once(str(path), f"its EXIF data cannot be read ({error}); the orientation is unknown")
        return None


def _is_animated(image: Image.Image) -> bool:
    return getattr(image, "is_animated", False) and image.format != "MPO"


def _frames(image: Image.Image, first: int, count: int) -> Iterator[Image.Image]:
    """Decode ``count`` frames of an animation, one after the other."""
    for number in range(first, first + count):
        image.seek(number)
        image.load()
        yield image


def _shown(frame: Image.Image) -> float:
    """Return how long a frame of an animation is shown, in milliseconds."""
    return float(frame.info.get("duration") or _UNSTATED)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that puts ``frame2`` before ``frame10``."""
    parts = re.split("([0-9]+)", name)
    return [(0, int(part)) if number % 2 else (1, part) for number, part in enumerate(parts)]
