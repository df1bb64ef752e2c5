"""Sets of real video files with rows to train on, written so that a set that is there is whole.

Everything goes into ``<out>.partial``, which gets its name when the last line is written. A run that was interrupted
is taken up where it stopped: a clip depends on its number only, and a video file that has its name is complete.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader

from tinyvid.errors import ConfigError, DataError
from tinyvid.worlds.shapes.clips import ClipPlan, SetOptions, parse_size, plan_clip
from tinyvid.worlds.shapes.encoding import CODECS, check_codecs, encode
from tinyvid.worlds.shapes.records import question_row, scene_record

FORMAT = 1  # of the set; it rises when readers must change
FOLDER = 1000  # clips in a folder
LEAST_BYTES = 1500  # of a video file, whatever it shows
LEAST_PER_PIXEL = 0.002  # bytes; both are low on purpose: they only catch what cannot be


@dataclass(frozen=True, slots=True)
class WrittenClip:
    """What has become of one clip.

    Attributes:
        rows: Its rows, without line breaks.
        scene: Its line of ``scenes.jsonl``.
        kinds: Family and format of each question.
        fault: What the operating system said if the file could not be written.
    """

    rows: tuple[str, ...] = ()
    scene: str = ""
    kinds: tuple[tuple[str, str], ...] = ()
    fault: str = ""


def write_set(
    options: SetOptions,
    out: Path,
    *,
    clips: int,
    crf: list[int],
    codecs: list[str],
    workers: int = 0,
    track: Callable[[Iterable[WrittenClip]], Iterable[WrittenClip]] = iter,
) -> dict[str, Any]:
    """Write a set: video files, ``rows.jsonl``, ``scenes.jsonl`` and ``manifest.json``.

    Args:
        options: What the clips are like.
        out: The folder, which must not be there yet.
        clips: How many.
        crf: Constant rate factors; each clip has one of them.
        codecs: Each clip has one of them.
        workers: Processes beside this one; the result does not depend on them.
        track: Wraps the clips as they are done, to show progress.

    Returns:
        The manifest.

    Raises:
        ConfigError: The set cannot be written as asked; nothing was.
        DataError: Writing failed on the way; ``<out>.partial`` has what there is, and the same call goes on.
    """
    if clips < 1:
        raise ConfigError(f"clips={clips} must be at least 1")
    check_codecs(codecs)
    for value in crf or [-1]:
        if not 0 <= value <= 51:
            raise ConfigError(f"crf={crf} must list numbers from 0 to 51, such as [18, 23, 28]")
    made_of = describe_set(options, clips=clips, crf=crf, codecs=codecs)
    partial = out.with_name(f"{out.name}.partial")
    _check_place(out, partial, made_of)
    _check_space(out, options, clips)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = FileLock(partial / ".lock")
        with lock.acquire(timeout=0):
            _write_text(partial / "options.json", json.dumps(made_of, indent=1))
            manifest = _write_clips(ClipWriter(options, partial, crf, codecs), partial, clips, workers, track)
            manifest = {"format": FORMAT, "world": "shapes", "options": made_of, "versions": _versions(), **manifest}
            _write_text(partial / "manifest.json", json.dumps(manifest, indent=1) + "\n")
            (partial / "options.json").unlink()
            (partial / ".lock").unlink()
            partial.rename(out)
    except Timeout as error:
        raise ConfigError(
            f"{partial}: another process is writing this set; wait for it, or choose another out"
        ) from error
    except OSError as error:
        raise DataError(f"{partial}: writing failed: {error}; {_GO_ON}") from error
    return manifest


def describe_set(options: SetOptions, *, clips: int, crf: list[int], codecs: list[str]) -> dict[str, Any]:
    """Return what decides the content of a set, as its manifest holds it; the arguments are those of ``write_set``."""
    made_of = {"clips": clips, **asdict(options), "crf": list(crf), "codecs": list(codecs)}
    described: dict[str, Any] = json.loads(json.dumps(made_of))
    return described


_GO_ON = "what is written so far is kept there; remove the cause and run the same command to go on"


class ClipWriter:
    """Writes one clip when it is asked for; a data set of what became of each, so that a DataLoader shares the work."""

    def __init__(self, options: SetOptions, folder: Path, crf: list[int], codecs: list[str]) -> None:
        self.options = options
        self.folder = folder
        self.encodings = [(codec, value) for codec in codecs for value in crf]

    def __getitem__(self, index: int) -> WrittenClip:
        """Write clip ``index`` unless its file is there."""
        clip = plan_clip(self.options, index)
        codec, crf = self.encodings[int(clip.lot * len(self.encodings))]
        video = f"clips/{index // FOLDER:03d}/{index:06d}.{CODECS[codec][1]}"
        fault = self._write(clip, self.folder / video, codec, crf)
        if fault:
            return WrittenClip(fault=fault)
        split, frames = self.options.split, self.options.frames
        rows = [question_row(clip, n, video, split=split, frames=frames) for n in range(len(clip.questions))]
        return WrittenClip(
            rows=tuple(json.dumps(row, allow_nan=False) for row in rows),
            scene=json.dumps(scene_record(clip, video, codec=codec, crf=crf), allow_nan=False),
            kinds=tuple((question.family, question.format) for question in clip.questions),
        )

    def _write(self, clip: ClipPlan, path: Path, codec: str, crf: int) -> str:
        """Write the file under another name first; return what went wrong."""
        if path.exists():
            return ""
        unfinished = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(encode(clip, codec=codec, crf=crf))
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
    """Write all files and rows; return what was counted."""
    kinds: Counter[tuple[str, str]] = Counter()
    done = 0
    loader: Any = DataLoader(
        writer,  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(clips),
        num_workers=workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]
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


def _as_it_is(written: WrittenClip) -> WrittenClip:
    return written


def _check_place(out: Path, partial: Path, made_of: dict[str, Any]) -> None:
    """Refuse to write over a set, or to go on with a set of another kind."""
    if out.exists() or out.is_symlink():
        raise ConfigError(f"out={str(out)!r} is there already; remove it, or choose another folder")
    if not (partial / "options.json").exists():
        if partial.exists() and any(item.name != ".lock" for item in partial.iterdir()):
            raise ConfigError(f"{partial} is there and is no interrupted set; remove it, or choose another out")
        return
    try:
        before = json.loads((partial / "options.json").read_text())
    except ValueError:
        before = {}
    if before != made_of:
        changed = sorted(key for key in made_of if not isinstance(before, dict) or before.get(key) != made_of[key])
        raise ConfigError(
            f"{partial} holds an interrupted set with other options ({', '.join(changed)}); remove it, choose another "
            "out, or give the options of then"
        )


def _check_space(out: Path, options: SetOptions, clips: int) -> None:
    """Refuse a set that cannot fit on the disk even if every file were tiny."""
    pixels = min(width * height for width, height in map(parse_size, options.sizes))
    frames = min(rate * length for rate in options.fps for length in options.seconds)
    needed = clips * max(LEAST_BYTES, int(pixels * frames * LEAST_PER_PIXEL))
    place = out.absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"clips={clips:,} need at least {needed / 1e9:,.1f} GB, and {str(place)!r} has {free / 1e9:,.1f} GB free; "
            "write fewer, smaller or shorter clips, or choose another out"
        )


def _write_text(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _versions() -> dict[str, str]:
    """Return what the content of the files may depend on."""
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    for package in ("tinyvid", "av"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
