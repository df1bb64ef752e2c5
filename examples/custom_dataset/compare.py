"""Ask two models the same questions, and print what has changed from the first to the second.

    python examples/custom_dataset/compare.py new.jsonl old.jsonl --before default --after runs/mine/model --out OUT

Each file holds rows with right answers (recipes/README.md) whose media are relative to its folder. OUT keeps all
replies and reports, and a call that was interrupted goes on there.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyvid import Assistant, EvaluationOptions, TinyvidError, build_benchmark, compare_runs, evaluate, load_runs


def comparisons(files: list[Path], models: dict[str, str], out: Path) -> Iterator[dict[str, Any]]:
    """Ask both models the rows of every file, and yield a comparison of each."""
    benchmarks = [
        build_benchmark({"name": "custom", "root": str(file.absolute().parent), "file": file.name}) for file in files
    ]
    folders: dict[Path, list[Path]] = {file: [] for file in files}
    for when, ckpt in models.items():
        assistant = Assistant.from_pretrained(ckpt)
        for number, (file, benchmark) in enumerate(zip(files, benchmarks, strict=True), 1):
            folders[file].append(out / f"{number}_{file.stem}_{when}")
            options = EvaluationOptions(batch_size=16, max_new_tokens=100)
            evaluate(assistant, benchmark, run_dir=folders[file][-1], options=options, progress=True)
    for file in files:
        yield compare_runs(load_runs(folders[file], list(models)))


def table(files: list[Path], found: list[dict[str, Any]]) -> str:
    """Return accuracies and their difference as a table in Markdown."""
    lines = ["| rows | questions | before | after | difference | 95 % interval |", "|---|---|---|---|---|---|"]
    for file, comparison in zip(files, found, strict=True):
        before, after = (f"{100 * run['value']:.1f} %" for run in comparison["runs"])
        pair = comparison["pairs"][0]
        interval = f"{100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}"
        changes = f"{before} | {after} | {100 * pair['difference']:+.1f} | {interval}"
        lines.append(f"| {file.name} in {file.parent.name} | {comparison['n_common']} | {changes} |")
    return "\n".join(lines)


def main() -> int:
    """Compare as the command line says."""
    parser = argparse.ArgumentParser(description="Ask two models the same questions, and print what has changed.")
    parser.add_argument("rows", type=Path, nargs="+", help="files of rows that no training saw")
    parser.add_argument("--before", default="default", help="checkpoint; default is the one that comes with tinyvid")
    parser.add_argument("--after", required=True, help="checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the replies and reports")
    arguments = parser.parse_args()
    models = {"before": arguments.before, "after": arguments.after}
    try:
        found = list(comparisons(arguments.rows, models, arguments.out))
    except TinyvidError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    print(table(arguments.rows, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
