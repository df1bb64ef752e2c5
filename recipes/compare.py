"""Compare runs of a benchmark: ``python recipes/compare.py --help`` lists the options.

On the items that all runs share, reports the accuracy of each run; for each pair of runs the disagreements, a
confidence interval of the difference and its p-value (McNemar's exact test, or the bootstrap if values are between 0
and 1); accuracy by group and class; and the spread of repeated runs.
"""

import os
from pathlib import Path

from omegaconf import DictConfig

from tinyvid import ConfigError, compare_runs, load_runs
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import printable
from tinyvid.evaluation.reporting.comparison import as_text, write_comparison


def main(config: DictConfig, _: CommandLine) -> None:
    """Compare the runs given on the command line."""
    if not config.runs:
        raise ConfigError("runs= is missing; list run folders as in: python recipes/compare.py runs=runs/a,runs/b")
    names = _list(config.names) if config.names else None
    comparison = compare_runs(load_runs(_folders(config.runs), names))
    print(printable(as_text(comparison)))
    if config.out:
        write_comparison(Path(config.out), comparison)
        print(f"Wrote {config.out}")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _folders(text: str) -> list[str]:
    """Return the folders in a comma-separated list; ``FOLDER/*`` expands to all finished runs in it, as for a sweep.

    Raises:
        ConfigError: A folder to expand contains no finished run, or the list has brackets.
    """
    if text.startswith("[") and not os.path.isdir(text):
        raise ConfigError(f"runs={text!r} has brackets; separate folders by commas, as in runs=runs/a,runs/b")
    folders: list[str] = []
    whole = os.path.expanduser(text)
    for part in [whole] if os.path.isdir(whole) else map(os.path.expanduser, _list(text)):  # a name may have commas
        if not part.endswith("/*"):
            folders.append(part)
            continue
        found = sorted(file.parent for file in Path(part[:-2]).glob("*/report.json"))
        if not found:
            raise ConfigError(
                f"runs={part} matches no finished run; give a folder whose subfolders contain a report.json"
            )
        folders += map(str, found)
    return folders


if __name__ == "__main__":
    run_hydra(main, config="compare")
