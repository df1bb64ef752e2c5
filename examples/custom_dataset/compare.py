"""Ask two models the same questions, and print the change in accuracy.

    python examples/custom_dataset/compare.py new.jsonl old.jsonl --before default --after runs/mine/model --out OUT

Each file contains rows with correct answers (recipes/README.md) and media paths relative to its folder. OUT stores all
replies and reports; run the same command again to continue an interrupted run.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyvid import Assistant, EvaluationOptions, TinyvidError, build_benchmark, compare_runs, evaluate, load_runs


def comparisons(files: list[Path], models: dict[str, str], out: Path) -> Iterator[dict[str, Any]]:
    """Ask both models the questions in every file, and yield one comparison per file."""
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
    """Format accuracies and their difference as a Markdown table."""
    lines = ["| rows | questions | before | after | difference | 95 % interval |", "|---|---|---|---|---|---|"]
    for file, comparison in zip(files, found, strict=True):
        before, after = (f"{100 * run['value']:.1f} %" for run in comparison["runs"])
        pair = comparison["pairs"][0]
        interval = f"{100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}"
        changes = f"{before} | {after} | {100 * pair['difference']:+.1f} | {interval}"
        lines.append(f"| {file.name} in {file.parent.name} | {comparison['n_common']} | {changes} |")
    return "\n".join(lines)


def main() -> int:
    """Compare the models given on the command line."""
    parser = argparse.ArgumentParser(description="Ask two models the same questions, and print the change in accuracy.")
    parser.add_argument("rows", type=Path, nargs="+", help="files with rows that were not used for training")
    parser.add_argument("--before", default="default", help="first checkpoint (default: the default model)")
    parser.add_argument("--after", required=True, help="second checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for replies and reports")
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
