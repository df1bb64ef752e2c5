"""Write sets of video files with rows for training.

Everything is written to ``<out>.partial``, which is renamed at the end, so an existing set is always complete. An
interrupted run can continue, because a clip depends only on its number and files get their final name last.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader

from tinyvid.errors import ConfigError, DataError
from tinyvid.outputs import LOCK, owned, write_text
from tinyvid.worlds.encoding import CODECS, check_codecs, encode_frames
from tinyvid.worlds.layout import FileOptions, parse_size

FORMAT = 1  # version of the set's layout
FOLDER = 1000  # clips per folder
LEAST_BYTES = 1500  # minimum size of a video file
LEAST_PER_PIXEL = 0.002  # minimum bytes per pixel; both bounds are low to reject only impossible sets


class PlannedClip(Protocol):
    """A clip with its questions, before its file is written."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def fps(self) -> float:
        """Frames per second."""

    @property
    def lot(self) -> float:
        """From 0 to 1, drawn for the clip; it chooses the compression."""

    @property
    def kinds(self) -> Sequence[tuple[str, str]]:
        """Family and format of each question."""

    def frames(self) -> Iterator[np.ndarray]:
        """Yield all frames in chunks, uint8 (N, H, W, 3)."""

    def rows(self, video: str) -> list[dict[str, Any]]:
        """Return a row per question; ``video`` is the path of the file in the set."""

    def record(self, video: str, **encoding: Any) -> dict[str, Any]:
        """Return the line of ``scenes.jsonl``, the complete description of the clip."""


class World(Protocol):
    """What a set is written from. Processes that draw clips get a pickled copy.

    Attributes:
        name: Name of the world.
    """

    name: str

    @property
    def layout(self) -> FileOptions:
        """Sizes, rates and durations of the files."""

    def plan(self, index: int) -> PlannedClip:
        """Plan a clip, which depends only on the options and its number.

        Raises:
            DataError: These options allow no such clip.
        """

    def facts(self) -> Mapping[str, Any]:
        """Return what the manifest says besides options and counts."""


@dataclass(frozen=True, slots=True)
class WrittenClip:
    """The result of writing one clip.

    Attributes:
        rows: Its rows, without line breaks.
        scene: Its line of ``scenes.jsonl``.
        kinds: Family and format of each question.
        fault: The error message if the file could not be written.
    """

    rows: tuple[str, ...] = ()
    scene: str = ""
    kinds: tuple[tuple[str, str], ...] = ()
    fault: str = ""


def described(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a manifest has them when it is read again, so that both can be compared."""
    plain: dict[str, Any] = json.loads(json.dumps(options))
    return plain


def write_set(
    world: World,
    out: Path,
    *,
    described: dict[str, Any],
    clips: int,
    crf: list[int],
    codecs: list[str],
    workers: int = 0,
    track: Callable[[Iterable[WrittenClip]], Iterable[WrittenClip]] = iter,
) -> dict[str, Any]:
    """Write a set: video files, ``rows.jsonl``, ``scenes.jsonl`` and ``manifest.json``.

    Args:
        world: Plans the clips.
        out: The folder to write; must not exist.
        described: Everything that determines the set. An interrupted set is continued only if it has the same.
        clips: Number of clips.
        crf: Constant rate factors; one is drawn per clip.
        codecs: Codecs; one is drawn per clip.
        workers: Additional processes; the result does not depend on their number.
        track: Wraps the iterable of finished clips, to show progress.

    Returns:
        The manifest.

    Raises:
        ConfigError: An argument is invalid; nothing was written.
        DataError: Writing failed; call again with the same arguments to continue ``<out>.partial``.
    """
    if clips < 1:
        raise ConfigError(f"clips={clips} must be at least 1")
    check_codecs(codecs)
    for value in crf or [-1]:
        if not 0 <= value <= 51:
            raise ConfigError(f"crf={crf} must be a list of numbers from 0 to 51, such as [18, 23, 28]")
    partial = out.with_name(f"{out.name}.partial")
    _check_place(out, partial, described)
    _check_space(out, world.layout, clips)
    with owned(partial, key="out"):
        try:
            write_text(partial / "options.json", json.dumps(described, indent=1))
            manifest = _write_clips(ClipWriter(world, partial, crf, codecs), partial, clips, workers, track)
            about = {"format": FORMAT, "world": world.name, "options": described, "versions": _versions()}
            manifest = {**about, **world.facts(), **manifest}
            write_text(partial / "manifest.json", json.dumps(manifest, indent=1) + "\n")
            (partial / "options.json").unlink()
            partial.rename(out)
            (out / LOCK).unlink()
        except BaseException as error:
            if not any(file.suffix != ".tmp" for file in partial.glob("clips/*/*")):  # nothing to continue
                shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError):
                raise DataError(f"{partial}: writing failed: {error}; {_GO_ON}") from error
            raise
    return manifest


_GO_ON = "finished clips are kept; fix the cause and run the same command to continue"


class ClipWriter:
    """Write one clip per index; a DataLoader distributes the work over processes."""

    def __init__(self, world: World, folder: Path, crf: list[int], codecs: list[str]) -> None:
        self.world = world
        self.folder = folder
        self.encodings = [(codec, value) for codec in codecs for value in crf]

    def __getitem__(self, index: int) -> WrittenClip:
        """Write clip ``index`` unless its file exists."""
        clip = self.world.plan(index)
        codec, crf = self.encodings[int(clip.lot * len(self.encodings))]
        video = f"clips/{index // FOLDER:03d}/{index:06d}.{CODECS[codec][1]}"
        fault = self._write(clip, self.folder / video, codec, crf)
        if fault:
            return WrittenClip(fault=fault)
        return WrittenClip(
            rows=tuple(json.dumps(row, allow_nan=False) for row in clip.rows(video)),
            scene=json.dumps(clip.record(video, codec=codec, crf=crf), allow_nan=False),
            kinds=tuple(clip.kinds),
        )

    def _write(self, clip: PlannedClip, path: Path, codec: str, crf: int) -> str:
        """Write the file under a temporary name and rename it; return the error message, if any."""
        if path.exists():
            return ""
        unfinished = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            size: dict[str, Any] = {"width": clip.width, "height": clip.height, "fps": clip.fps}
            unfinished.write_bytes(encode_frames(clip.frames(), **size, codec=codec, crf=crf))
            unfinished.rename(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            return str(error)
        return ""


def _write_clips(
    writer: ClipWriter,
    partial: Path,
    clips: int,
    workers: int,
    track: Callable[[Iterable[WrittenClip]], Iterable[WrittenClip]],
) -> dict[str, Any]:
    """Write all files and rows, and return their counts."""
    kinds: Counter[tuple[str, str]] = Counter()
    done = 0
    loader: Any = DataLoader(
        writer,  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(clips),
        num_workers=workers,
        collate_fn=_identity,  # type: ignore[arg-type]
    )
    with (partial / "rows.jsonl").open("w") as rows, (partial / "scenes.jsonl").open("w") as scenes:
        for written in track(loader):
            if written.fault:
                raise OSError(f"clip {done} of {clips}: {written.fault}")
            rows.writelines(f"{row}\n" for row in written.rows)
            scenes.write(f"{written.scene}\n")
            kinds.update(written.kinds)
            done += 1
    families = {
        family: {form: count for (name, form), count in sorted(kinds.items()) if name == family}
        for family in sorted({family for family, _ in kinds})
    }
    return {"counts": {"clips": done, "rows": sum(kinds.values()), "families": families}}


def _identity(written: WrittenClip) -> WrittenClip:
    return written


def _check_place(out: Path, partial: Path, made_of: dict[str, Any]) -> None:
    """Raise ConfigError if a set would be overwritten, or if an interrupted one has other options."""
    if out.exists() or out.is_symlink():
        raise ConfigError(f"out={str(out)!r} already exists; remove it, or choose another folder")
    try:
        if (partial / "options.json").exists():
            before = json.loads((partial / "options.json").read_text())
        elif (partial / "manifest.json").exists():  # killed before its last step
            before = json.loads((partial / "manifest.json").read_text())["options"]
        elif not partial.exists() or all(item.name.startswith(".") for item in partial.iterdir()):
            return
        else:
            raise ConfigError(f"{partial} exists but is not an interrupted set; remove it, or choose another out")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{partial} cannot be continued: {error}; remove it, or choose another out") from error
    if before != made_of:
        changed = sorted(key for key in made_of if not isinstance(before, dict) or before.get(key) != made_of[key])
        raise ConfigError(
            f"{partial} contains an interrupted set with other options ({', '.join(changed)}); use its options, remove "
            "it, or choose another out"
        )


def _check_space(out: Path, layout: FileOptions, clips: int) -> None:
    """Raise ConfigError if the set would not fit on the disk even with the smallest possible files."""
    pixels = min(width * height for width, height in map(parse_size, layout.sizes))
    frames = min(rate * length for rate in layout.fps for length in layout.seconds)
    needed = clips * max(LEAST_BYTES, int(pixels * frames * LEAST_PER_PIXEL))
    place = out.absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"clips={clips:,} needs at least {needed / 1e9:,.1f} GB, but {str(place)!r} has {free / 1e9:,.1f} GB free; "
            "write fewer, smaller or shorter clips, or choose another out"
        )


def _versions() -> dict[str, str]:
    """Return the versions of the software that affects the files."""
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    for package in ("tinyvid", "av"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
