"""Sets of the footage world."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinyvid.errors import ConfigError
from tinyvid.files import expanded
from tinyvid.protocols import VideoReader
from tinyvid.worlds import writing
from tinyvid.worlds.footage.clips import FootageWorld
from tinyvid.worlds.footage.options import FootageOptions


def write_set(
    options: FootageOptions,
    out: Path,
    *,
    reader: VideoReader,
    clips: int,
    crf: list[int],
    codecs: list[str],
    **how: Any,
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
        **how: ``workers`` and ``track``.

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
    return writing.write_set(world, out, described=described, clips=clips, crf=crf, codecs=codecs, **how)


def describe_set(options: FootageOptions, *, clips: int, crf: list[int], codecs: list[str]) -> dict[str, Any]:
    """Return the options that determine a set, as in its manifest, without the content of the source."""
    place = str(expanded(options.source).absolute()) if options.source else ""
    made_of = {"clips": clips, **asdict(options), "source": place, "crf": list(crf), "codecs": list(codecs)}
    return writing.described(made_of)
