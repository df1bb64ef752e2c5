"""Write sets of video files with rows for training.

Everything is written to ``<out>.partial``, which is renamed at the end, so an existing set is always complete. An
interrupted run can continue, because a clip depends only on its number and files get their final name last.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from tinyvid.errors import ConfigError, DataError
from tinyvid.outputs import LOCK, owned, write_text
from tinyvid.worlds.shapes.clips import ClipPlan, SetOptions, parse_size, plan_clip
from tinyvid.worlds.shapes.encoding import CODECS, check_codecs, encode
from tinyvid.worlds.shapes.records import question_row, scene_record

FORMAT = 1  # version of the set's layout
FOLDER = 1000  # clips per folder
LEAST_BYTES = 1500  # minimum size of a video file
LEAST_PER_PIXEL = 0.002  # minimum bytes per pixel; both bounds are low to reject only impossible sets


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
        options: Options for the clips.
        out: The folder to write; must not exist.
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
    made_of = describe_set(options, clips=clips, crf=crf, codecs=codecs)
    partial = out.with_name(f"{out.name}.partial")
    _check_place(out, partial, made_of)
    _check_space(out, options, clips)
    with owned(partial, key="out"):
        try:
            write_text(partial / "options.json", json.dumps(made_of, indent=1))
            manifest = _write_clips(ClipWriter(options, partial, crf, codecs), partial, clips, workers, track)
            manifest = {"format": FORMAT, "world": "shapes", "options": made_of, "versions": _versions(), **manifest}
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


def describe_set(options: SetOptions, *, clips: int, crf: list[int], codecs: list[str]) -> dict[str, Any]:
    """Return the options that determine a set, as in its manifest; the arguments are those of ``write_set``."""
    made_of = {"clips": clips, **asdict(options), "crf": list(crf), "codecs": list(codecs)}
    if options.traces is None:
        del made_of["traces"]  # sets without traces, which are older than the option, keep their description
    described: dict[str, Any] = json.loads(json.dumps(made_of))
    return described


_GO_ON = "finished clips are kept; fix the cause and run the same command to continue"


class ClipWriter:
    """Write one clip per index; a DataLoader distributes the work over processes."""

    def __init__(self, options: SetOptions, folder: Path, crf: list[int], codecs: list[str]) -> None:
        self.options = options
        self.folder = folder
        self.encodings = [(codec, value) for codec in codecs for value in crf]

    def __getitem__(self, index: int) -> WrittenClip:
        """Write clip ``index`` unless its file exists."""
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
        """Write the file under a temporary name and rename it; return the error message, if any."""
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


def _check_space(out: Path, options: SetOptions, clips: int) -> None:
    """Raise ConfigError if the set would not fit on the disk even with the smallest possible files."""
    pixels = min(width * height for width, height in map(parse_size, options.sizes))
    frames = min(rate * length for rate in options.fps for length in options.seconds)
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
