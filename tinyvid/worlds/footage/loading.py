"""Read what a shot shows: a photo, or a part of a video in which nothing is asked about happens by itself."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyvid.protocols import VideoReader
from tinyvid.video.open_video import Clip
from tinyvid.worlds.footage.pool import MediaFile, open_file

SHARPNESS = 2.0  # pictures are reduced by whole factors to at least this times the size of the clips
PHOTOS_IN_MEMORY = 48
SMALL = 32  # side of the pictures that are compared, in pixels
BAR = 4.0  # gray levels by which a row or column of a black bar varies, at most
MOST_BARS = 0.3  # larger plain borders are part of the picture
CUT_FACTOR, CUT_OFFSET = 5.0, 8.0  # a native cut changes a frame by more than factor * median + offset gray levels
MOST_DRIFT = 0.15  # change of the brightness of a video by itself
LEAST_COMMON = 0.5  # of the colors at the start and at the end of a shot
CHANGES = 6.0  # gray levels
MOVES_BY_ITSELF = 0.4  # fraction of the picture that changes from one sampled frame to the next


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The pictures of a shot.

    Attributes:
        pictures: One picture for a photo, otherwise one per frame.
        first: Number of the first of these frames in the clip.
        fault: Why a part of a video cannot be used: a native cut, for example; an empty string if it can.
        moves: Whether the content moves as a whole, so that nothing can be asked about the camera.
    """

    pictures: tuple[Image.Image, ...]
    first: int = 0
    fault: str = ""
    moves: bool = False

    def at(self, number: int) -> Image.Image:
        """Return the picture in a frame of the clip."""
        return self.pictures[number - self.first if len(self.pictures) > 1 else 0]


class Loader:
    """Reads files of a folder, reduced in size, without black bars.

    Args:
        folder: The folder.
        reader: Decodes video files.
        frame: Width and height that no clip exceeds.
    """

    def __init__(self, folder: Path, reader: VideoReader, frame: tuple[int, int]) -> None:
        self.folder, self.reader = folder, reader
        self.frame = frame
        self.photos: OrderedDict[str, Material] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave photos behind when a process gets a copy."""
        return {**self.__dict__, "photos": OrderedDict()}

    def read(self, file: MediaFile, start: float, seconds: float, times: np.ndarray, first: int = 0) -> Material:
        """Read a photo, or the frames of a video.

        Args:
            file: The photo or video.
            start: Where the video is at the start of the clip, in seconds.
            seconds: How much of it plays during the clip.
            times: Times of the frames, from 0 to 1.
            first: Number of the first of them in the clip.

        Raises:
            VideoError: The file cannot be read.
        """
        if not file.is_video:
            return self._photo(file)
        clip = open_file(self.folder, file.path, self.reader)
        numbers = _numbers(clip, start + times * seconds)
        order = sorted(set(numbers))
        frames: dict[int, Image.Image] = {}
        for piece, begin in ((piece, len(frames)) for piece in clip.pieces(order)):
            for offset, frame in enumerate(piece.frames):
                frames[order[begin + offset]] = self._scaled(Image.fromarray(frame))
        shown = [frames[number] for number in order]
        fault, moves = _native(shown)
        box = _without_bars(shown)
        cropped = {number: picture.crop(box) for number, picture in frames.items()}
        return Material(tuple(cropped[number] for number in numbers), first, fault, moves)

    def still(self, file: MediaFile, start: float) -> Image.Image:
        """Read a photo, or one frame of a video."""
        return self.read(file, start, 0.0, np.zeros(1)).pictures[0]

    def _photo(self, file: MediaFile) -> Material:
        if file.path in self.photos:
            self.photos.move_to_end(file.path)
        else:
            frame = open_file(self.folder, file.path, self.reader).read([0]).frames[0]
            picture = self._scaled(Image.fromarray(frame))
            self.photos[file.path] = Material((picture.crop(_without_bars([picture])),))
            if len(self.photos) > PHOTOS_IN_MEMORY:
                self.photos.popitem(last=False)
        return self.photos[file.path]

    def _scaled(self, picture: Image.Image) -> Image.Image:
        factor = min(length // int(side * SHARPNESS) for side, length in zip(self.frame, picture.size, strict=True))
        return picture.reduce(max(factor, 1))


def _numbers(clip: Clip, seconds: np.ndarray) -> list[int]:
    """Return the frames that are shown at some times."""
    clock = np.asarray(clip.clock())
    found = np.searchsorted(clock, seconds + 1e-6, side="right") - 1
    return [int(number) for number in found.clip(0, clip.meta.num_frames - 1)]


def _native(shown: list[Image.Image]) -> tuple[str, bool]:
    """Return why a part of a video cannot be used, and whether its content moves as a whole."""
    if len(shown) < 2:
        return "", False
    small = np.stack([_small(picture) for picture in shown])
    gray = small.astype(np.float32).mean(-1)  # (N, 32, 32)
    steps = np.abs(np.diff(gray, axis=0)).mean((1, 2))
    light = gray.mean((1, 2))
    if (steps > CUT_FACTOR * np.median(steps) + CUT_OFFSET).any():
        return "a cut", False
    if np.ptp(light) > MOST_DRIFT * max(light.mean(), 1.0):
        return "a change of brightness", False
    if _common(small[0], small[-1]) < LEAST_COMMON:
        return "a change of scene", False
    some = gray[np.linspace(0, len(gray) - 1, min(8, len(gray)), dtype=int)]
    cells = np.abs(np.diff(some, axis=0)).reshape(-1, 8, 4, 8, 4).mean((2, 4))  # (n, 8, 8)
    return "", bool((cells > CHANGES).mean() > MOVES_BY_ITSELF)


def _small(picture: Image.Image) -> np.ndarray:
    """Return a small copy, uint8 (32, 32, 3)."""
    reduced = picture.reduce(max(min(picture.size) // (2 * SMALL), 1))  # much faster than resizing by a large factor
    return np.asarray(reduced.resize((SMALL, SMALL), Image.Resampling.BOX))


def _common(one: np.ndarray, two: np.ndarray) -> float:
    """Return the fraction of the colors that two small pictures share."""
    counts = [
        np.bincount((picture.reshape(-1, 3) // 64).astype(int) @ [16, 4, 1], minlength=64) for picture in (one, two)
    ]
    return float(np.minimum(*counts).sum() / counts[0].sum())


def _without_bars(shown: list[Image.Image]) -> tuple[int, int, int, int]:
    """Return the box of pictures without plain borders, unless they are large."""
    some = [shown[index] for index in np.linspace(0, len(shown) - 1, min(4, len(shown)), dtype=int)]
    gray = np.stack([np.asarray(picture.convert("L"), dtype=np.float32) for picture in some])  # (n, H, W)
    top, bottom = _borders(gray.std(2).max(0))
    left, right = _borders(gray[:, top : gray.shape[1] - bottom].std(1).max(0))
    return left, top, gray.shape[2] - right, gray.shape[1] - bottom


def _borders(variation: np.ndarray) -> tuple[int, int]:
    """Return the number of plain lines at both ends."""
    lively = np.flatnonzero(variation > BAR)
    if not len(lively):
        return 0, 0
    first, last = int(lively[0]), len(variation) - 1 - int(lively[-1])
    return (first, last) if first + last <= MOST_BARS * len(variation) else (0, 0)
