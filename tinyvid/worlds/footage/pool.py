"""Find the clips and photos of a folder, decide which of them are the same source, and split them by source.

The folder is only read. Files that show the same thing, such as one picture in several sizes, are one source, and a
source is in one split: its content decides, so a renamed or moved file stays where it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.errors import ConfigError, DataError, VideoError, listed
from tinyvid.files import expanded
from tinyvid.protocols import VideoReader
from tinyvid.types import Video
from tinyvid.video.images import IMAGES, VIDEOS
from tinyvid.video.open_video import Clip, open_video

LEAST_SOURCES = 3  # shots A-B-C show three different sources
LEAST_SECONDS, LEAST_FRAMES = 1.0, 8  # of a video that plays in a clip
MAX_UPSCALING = 3.0  # a smaller picture would be blurred by a zoom
LEAST_SIZE = 0.8  # of the clip; the longest paths of the camera fit into such a picture, so every answer can be shown
LOOKS = (0.1, 0.5, 0.9)  # where a video is compared with others, from 0 to 1
ALIKE = 0.95  # correlation of two small gray pictures that show the same
FLAT = 6.0  # standard deviation of the gray levels of a picture that looks like any other flat one
ENDS = 1 << 20  # bytes at both ends of a file that stand for its content
CHUNK = 2048  # pictures compared at once


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A photo or a video of a source.

    Attributes:
        path: Path in the folder.
        is_video: Whether it has several frames.
        width: Pixels.
        height: Pixels.
        duration: Seconds of a video.
        digest: Stands for the content.
    """

    path: str
    is_video: bool
    width: int
    height: int
    duration: float
    digest: str


@dataclass(frozen=True, slots=True)
class MediaSource:
    """Files that show the same thing, and are never in two splits.

    Attributes:
        key: The smallest digest of its files, those that cannot be used included.
        files: The files that can be used, by digest.
    """

    key: str
    files: tuple[MediaFile, ...]

    def has(self, *, video: bool) -> bool:
        """Return whether one of the files is a video, or a photo."""
        return any(file.is_video == video for file in self.files)


@dataclass(frozen=True, slots=True)
class Pool:
    """The sources of a split.

    Attributes:
        folder: The folder.
        sources: The sources of the split, ordered by key.
        found: Number of sources in all splits.
        left_out: Files that cannot be used, and the reasons.
    """

    folder: Path
    sources: tuple[MediaSource, ...]
    found: int
    left_out: tuple[tuple[str, str], ...]

    def facts(self) -> dict[str, Any]:
        """Return plain data for a manifest: which sources the split has, and which files were left out."""
        return {
            "found": self.found,
            "used": [[file.path for file in source.files] for source in self.sources],
            "left_out": dict(self.left_out),
        }

    @property
    def digest(self) -> str:
        """Stands for the content of all files of the split."""
        files = [file.digest for source in self.sources for file in source.files]
        return hashlib.sha256(" ".join(files).encode()).hexdigest()[:16]


def scan(
    folder: str | Path,
    reader: VideoReader,
    *,
    split: str,
    held_out: float,
    group_folders: bool,
    skip: bool,
    frame: tuple[int, int],
) -> Pool:
    """Return the sources of a split.

    Args:
        folder: Contains photos and videos, in folders of any depth. Hidden files and other files are ignored.
        reader: Decodes video files.
        split: ``train``, ``iid`` or ``all``.
        held_out: Fraction of the sources that ``iid`` has, and ``train`` does not.
        group_folders: Whether all files of a subfolder are one source.
        skip: Whether files that cannot be used are left out; they are an error otherwise.
        frame: Width and height that no clip exceeds.

    Raises:
        ConfigError: The folder is missing, or has too few sources.
        DataError: Files cannot be used.
    """
    root = expanded(folder)
    if not root.is_dir():
        raise ConfigError(f"source={str(folder)!r} is not a folder; give one with photos and videos")
    files, pictures, wrong = _read(root, reader, frame)
    if wrong and not skip:
        told = listed((f"{name} ({reason})" for name, reason in wrong.items()), 3)
        count = len({*wrong, *(file.path for file in files)})
        raise DataError(
            f"source={str(folder)!r}: {len(wrong)} of {count} files cannot be used: {told}; move "
            "them away, or leave them out with on_error=skip"
        )
    groups = [
        replace(group, files=tuple(file for file in group.files if file.path not in wrong))
        for group in _grouped(files, pictures, group_folders)
    ]
    sources = [group for group in groups if group.files]
    files = [file for source in sources for file in source.files]
    chosen = tuple(source for source in sources if split == "all" or (_share(source) < held_out) == (split == "iid"))
    if len(chosen) < LEAST_SOURCES:
        raise ConfigError(_too_few(folder, files, sources, chosen, split, held_out))
    return Pool(root, chosen, len(sources), tuple(wrong.items()))


def open_file(root: Path, path: str, reader: VideoReader) -> Clip:
    """Open a file of a pool. Raises the errors of ``open_video``."""
    return open_video(Video(root / path), reader)


def _read(
    root: Path, reader: VideoReader, frame: tuple[int, int]
) -> tuple[list[MediaFile], list[np.ndarray], dict[str, str]]:
    """Return the readable files, the pictures that they are compared by, and the paths of unusable files with reasons.

    Files that are too small or too short are compared, too: they may connect others, and the sizes of the clips must
    not decide in which split a source is.
    """
    files: list[MediaFile] = []
    pictures: list[np.ndarray] = []
    wrong: dict[str, str] = {}
    for path in _media(root):
        try:
            clip = open_file(root, path, reader)
            file = _file(root, path, clip)
            looks = clip.look([int(at * (clip.meta.num_frames - 1)) for at in LOOKS])
        except VideoError as error:
            wrong[path] = str(error).removeprefix(f"{root / path}: ")
            continue
        files.append(file)
        pictures.append(np.stack([_fingerprint(look) for look in looks]))
        if reason := _unfit(file, clip, frame):
            wrong[path] = reason
    return files, pictures, wrong


def _media(root: Path) -> Iterator[str]:
    """Yield the paths of photos and videos by their names, sorted, without following links to folders."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGES | VIDEOS:
                yield os.path.relpath(os.path.join(place, name), root)


def _file(root: Path, path: str, clip: Clip) -> MediaFile:
    meta = clip.meta
    moves = meta.num_frames > 1
    duration = meta.duration if moves else 0.0
    return MediaFile(path, moves, meta.width, meta.height, duration, _digest(root / path))


def _unfit(file: MediaFile, clip: Clip, frame: tuple[int, int]) -> str:
    if file.width < LEAST_SIZE * frame[0] or file.height < LEAST_SIZE * frame[1]:
        return f"{file.width}x{file.height} pixels are too few for clips of {frame[0]}x{frame[1]}"
    if file.is_video and (file.duration < LEAST_SECONDS or clip.meta.num_frames < LEAST_FRAMES):
        return f"{file.duration:.2g} s with {clip.meta.num_frames} frames are too short"
    return ""


def _digest(path: Path) -> str:
    """Hash the size and both ends of a file."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(ENDS))
        file.seek(max(size - ENDS, 0))
        digest.update(file.read(ENDS))
    return digest.hexdigest()[:32]


def _fingerprint(look: np.ndarray) -> np.ndarray:
    """Return a small gray picture with mean 0 and length 1, (256,); zeros if it is flat."""
    gray = look.astype(np.float32).mean(-1).reshape(16, 2, 16, 2).mean((1, 3)).ravel()
    if gray.std() < FLAT:
        return np.zeros_like(gray)
    gray -= gray.mean()
    unit: np.ndarray = gray / np.linalg.norm(gray)
    return unit


def _grouped(files: list[MediaFile], pictures: list[np.ndarray], group_folders: bool) -> list[MediaSource]:
    """Join files that look alike, and those of a folder if asked; return the sources by key."""
    parent = list(range(len(files)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, two in _alike(pictures):
        parent[root(one)] = root(two)
    if group_folders:
        first: dict[str, int] = {}
        for index, file in enumerate(files):
            if place := os.path.dirname(file.path):
                parent[root(index)] = root(first.setdefault(place, index))
    groups: dict[int, list[MediaFile]] = {}
    for index, file in enumerate(files):
        groups.setdefault(root(index), []).append(file)
    members = [sorted(group, key=lambda file: (file.digest, file.path)) for group in groups.values()]
    return sorted((MediaSource(group[0].digest, tuple(group)) for group in members), key=lambda source: source.key)


def _alike(pictures: list[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Yield pairs of files of which some pictures look alike."""
    if not pictures:
        return
    owners = np.repeat(np.arange(len(pictures)), [len(each) for each in pictures])
    every = np.concatenate(pictures)  # (N, 256)
    for begin in range(0, len(every), CHUNK):
        rows, columns = np.nonzero(every[begin : begin + CHUNK] @ every.T > ALIKE)
        pairs = np.unique(np.stack([owners[rows + begin], owners[columns]], 1), axis=0)
        yield from ((int(one), int(two)) for one, two in pairs if one < two)


def _share(source: MediaSource) -> float:
    """Return a number from 0 to 1 that the content of a source determines."""
    return int(source.key[:8], 16) / 2**32


def _too_few(
    folder: str | Path,
    files: list[MediaFile],
    sources: list[MediaSource],
    chosen: tuple[MediaSource, ...],
    split: str,
    held_out: float,
) -> str:
    where = f"source={str(folder)!r} has {len(sources)}"
    if len(sources) < LEAST_SOURCES:
        same = f" in {len(files)} files; files that show the same are one source" if len(files) > len(sources) else ""
        return (
            f"{where} source(s){same}. At least {LEAST_SOURCES} photos or videos of different things are needed: "
            "a clip shows up to three; add some, or cut a long video into files"
        )
    return (
        f"{where} sources, and {len(chosen)} in split={split} with held_out={held_out:g}; at least {LEAST_SOURCES} are "
        "needed: change held_out, add photos or videos, or use split=all for a test of a model that was not trained on "
        "them"
    )
