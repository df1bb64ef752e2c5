"""Compare runs of a benchmark: ``python recipes/compare.py --help`` lists what can be chosen.

On the items that all runs were asked: each run's accuracy, every pair's disagreements with McNemar's exact test and the
interval of the difference, groups and classes with their sizes, and the spread of runs that are repeats.
"""

from pathlib import Path

from omegaconf import DictConfig

from tinyvid import ConfigError, compare_runs, load_runs
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.evaluation.reporting.comparison import as_text, write_comparison

FREE_TEXT = ("runs", "names", "out")


def main(_: DictConfig, line: CommandLine) -> None:
    """Compare as the command line says."""
    if not line.text.get("runs"):
        raise ConfigError("runs= is missing: python recipes/compare.py runs=runs/a,runs/b")
    names = _list(line.text["names"]) if line.text.get("names") else None
    comparison = compare_runs(load_runs(_folders(line.text["runs"]), names))
    print(as_text(comparison))
    if line.text.get("out"):
        write_comparison(Path(line.text["out"]).expanduser(), comparison)
        print(f"wrote {line.text['out']}")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _folders(text: str) -> list[str]:
    """Return the folders that a list names; one that ends in ``/*`` stands for all finished runs in it, as of a sweep.

    Raises:
        ConfigError: There is no finished run in such a folder.
    """
    folders: list[str] = []
    for part in _list(text):
        if not part.endswith("/*"):
            folders.append(part)
            continue
        found = sorted(file.parent for file in Path(part[:-2]).expanduser().glob("*/report.json"))
        if not found:
            raise ConfigError(f"runs={part}: no folder in {part[:-2]!r} holds a report.json of a finished run")
        folders += map(str, found)
    return folders


if __name__ == "__main__":
    run_hydra(main, config="compare", free_text=FREE_TEXT)
