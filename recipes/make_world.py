"""Write clips of a world with questions: ``python recipes/make_world.py --help``.

The set contains video files, ``rows.jsonl`` for ``data=jsonl``, ``scenes.jsonl`` with the complete description of each
clip, and ``manifest.json`` with options and counts. docs/shapes.md and docs/footage.md describe the worlds.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import ConfigError, listed
from tinyvid.interrupts import interruptible
from tinyvid.registry import VIDEO_READERS, PositiveInt, check_options
from tinyvid.worlds import footage, shapes


def main(config: DictConfig, _: CommandLine) -> None:
    """Write the set described on the command line, and print its counts."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    world, out = settings.pop("world"), Path(settings.pop("out"))
    if str(out) in ("???", ".", ""):
        raise ConfigError("out= is missing; give the folder to write, as in out=sets/train")
    if settings.get("source", "here") in ("???", "", None):
        raise ConfigError("source= is missing; give a folder of photos and videos, as in source=~/Pictures")
    writing = {key: settings.pop(key) for key in ("clips", "crf", "codecs", "workers")}
    writing = check_options(file_options, writing, key="make_world")
    write = write_footage if world == "footage" else write_shapes
    progress = Console(stderr=True)

    def show(clips: Iterable[Any]) -> Iterable[Any]:
        return track(
            clips, "writing", total=writing["clips"], console=progress, transient=True, disable=not progress.is_terminal
        )

    with interruptible(f"Finished clips are in {out}.partial; run the same command again to continue."):
        manifest = write(settings, out, **writing, track=show)
    report(manifest, out)


def write_shapes(settings: Mapping[str, Any], out: Path, **writing: Any) -> dict[str, Any]:
    """Write a set of the shapes world."""
    options = shapes.SetOptions(**check_options(shapes.SetOptions, settings, key="make_world"))
    return shapes.write_set(options, out, **writing)


def write_footage(settings: Mapping[str, Any], out: Path, **writing: Any) -> dict[str, Any]:
    """Write a set of the footage world."""
    options = footage.FootageOptions(**check_options(footage.FootageOptions, settings, key="make_world"))
    return footage.write_set(options, out, reader=VIDEO_READERS.build({"name": "auto"}), **writing)


def file_options(*, clips: PositiveInt, crf: list[int], codecs: list[str], workers: int) -> None:
    """Declare the types of the options of ``write_set``."""


def report(manifest: dict[str, Any], out: Path) -> None:
    """Print the counts of a set."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    counts = manifest["counts"]
    table = Table("family", "questions", "formats")
    for family, formats in counts["families"].items():
        told = ", ".join(f"{form} {count:,}" for form, count in formats.items())
        table.add_row(family, f"{sum(formats.values()):,}", told)
    console.print(table)
    if left_out := manifest.get("sources", {}).get("left_out"):
        told = listed((f"{name} ({reason})" for name, reason in left_out.items()), 4)
        console.print(f"Left out {len(left_out)} files of the source: {told}", highlight=False, markup=False)
    console.print(
        f"Wrote {counts['clips']:,} clips and {counts['rows']:,} rows to {out}", highlight=False, markup=False
    )


if __name__ == "__main__":
    run_hydra(main, config="make_world")
