"""Sets of the footage world."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinyvid.errors import ConfigError
from tinyvid.files import expanded
from tinyvid.protocols import VideoReader
from tinyvid.worlds import writing
from tinyvid.worlds.footage.clips import FootageWorld
from tinyvid.worlds.footage.options import FootageOptions
from tinyvid.worlds.writing import WrittenClip


def write_set(
    options: FootageOptions,
    out: Path,
    *,
    reader: VideoReader,
    clips: int,
    crf: list[int],
    codecs: list[str],
    workers: int = 0,
    track: Callable[[Iterable[WrittenClip]], Iterable[WrittenClip]] = iter,
) -> dict[str, Any]:
    """Write a set of clips.

    The other arguments, the result and the errors are those of ``writing.write_set``.

    Args:
        options: Options for the clips.
        out: The folder to write; must not exist.
        reader: Decodes the videos of the source.
        clips: Number of clips.
        crf: Constant rate factors.
        codecs: Codecs.
        workers: Additional processes.
        track: Shows progress.

    Raises:
        ConfigError: The source is missing, has too few photos and videos, or contains ``out``.
        DataError: Files of the source cannot be used.
    """
    described = describe_set(options, clips=clips, crf=crf, codecs=codecs)
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(expanded(options.source))):
        raise ConfigError(
            f"out={str(out)!r} is inside source={options.source!r}, so its clips would become sources; choose another "
            "folder"
        )
    world = FootageWorld(options, reader)
    described["sources"] = world.pool.digest  # an interrupted set is not continued from other pictures
    files: dict[str, Any] = {"clips": clips, "crf": crf, "codecs": codecs, "workers": workers}
    return writing.write_set(world, out, described=described, **files, track=track)


def describe_set(options: FootageOptions, *, clips: int, crf: list[int], codecs: list[str]) -> dict[str, Any]:
    """Return the options that determine a set, as in its manifest, without the content of the source."""
    place = str(expanded(options.source).absolute()) if options.source else ""
    made_of = {"clips": clips, **asdict(options), "source": place, "crf": list(crf), "codecs": list(codecs)}
    described: dict[str, Any] = json.loads(json.dumps(made_of))
    return described
