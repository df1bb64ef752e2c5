"""Write clips of moving shapes with questions: ``python recipes/make_world.py --help``.

The set contains video files, ``rows.jsonl`` for ``data=jsonl``, ``scenes.jsonl`` with the complete description of each
clip, and ``manifest.json`` with options and counts. docs/shapes.md describes the world.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import ConfigError
from tinyvid.interrupts import interruptible
from tinyvid.registry import PositiveInt, check_options
from tinyvid.worlds.shapes import SetOptions, write_set


def main(config: DictConfig, _: CommandLine) -> None:
    """Write the set described on the command line, and print its counts."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    out = Path(settings.pop("out"))
    if str(out) in ("???", ".", ""):
        raise ConfigError("out= is missing; give the folder to write, as in out=sets/train")
    writing = {key: settings.pop(key) for key in ("clips", "crf", "codecs", "workers")}
    writing = check_options(file_options, writing, key="make_world")
    options = SetOptions(**check_options(SetOptions, settings, key="make_world"))
    progress = Console(stderr=True)

    def show(clips: Iterable[Any]) -> Iterable[Any]:
        return track(
            clips, "writing", total=writing["clips"], console=progress, transient=True, disable=not progress.is_terminal
        )

    with interruptible(f"Finished clips are in {out}.partial; run the same command again to continue."):
        manifest = write_set(options, out, **writing, track=show)
    report(manifest, out)


def file_options(*, clips: PositiveInt, crf: list[int], codecs: list[str], workers: int) -> None:
    """Declare the types of the options of ``write_set``."""


def report(manifest: dict[str, Any], out: Path) -> None:
    """Print the counts of a set."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    counts = manifest["counts"]
    table = Table("family", "questions", "formats")
    for family, formats in counts["families"].items():
        listed = ", ".join(f"{form} {count:,}" for form, count in formats.items())
        table.add_row(family, f"{sum(formats.values()):,}", listed)
    console.print(table)
    console.print(
        f"Wrote {counts['clips']:,} clips and {counts['rows']:,} rows to {out}", highlight=False, markup=False
    )


if __name__ == "__main__":
    run_hydra(main, config="make_world")
