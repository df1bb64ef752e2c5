"""Convert a CSV of labels to training rows and held-out rows.

    python examples/custom_dataset/prepare.py CLIPS/labels.csv --question "What happens?"

The CSV is in the folder of the clips and has the columns ``file`` (relative to that folder), ``label`` and, optionally,
``question``. Each line becomes a multiple-choice question whose options are all labels of its question in the file. All
faults are reported by line. ``train.jsonl`` and ``held_out.jsonl`` are written to the same folder.
"""

import argparse
import csv
import json
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

COLUMNS = {"file", "label", "question"}
MOST_LABELS = 26  # options are lettered A to Z


class LabeledClip(NamedTuple):
    """A line of the CSV."""

    line: int
    file: str
    label: str
    question: str


class LabelError(Exception):
    """The CSV is invalid; the message has one line per fault."""


def read_labels(path: Path, question: str) -> list[LabeledClip]:
    """Read the CSV.

    Args:
        path: The CSV, in UTF-8, in the folder that the files are relative to.
        question: Question for lines without one.

    Raises:
        LabelError: The file or a column is missing, a column is unknown, or a line is invalid.
    """
    if not path.is_file():
        raise LabelError(f"the file {str(path)!r} does not exist")
    found = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        if not {"file", "label"} <= columns <= COLUMNS:
            raise LabelError(
                f"{path}:1: the columns are {sorted(columns)}; they must be 'file', 'label' and, optionally, 'question'"
            )
        for cells in reader:
            if None in cells or None in cells.values():
                raise LabelError(f"{path}:{reader.line_num}: the line must have {len(columns)} cells, one per column")
            values = {key: cell.strip() for key, cell in cells.items()}
            found.append(
                LabeledClip(reader.line_num, values["file"], values["label"], values.get("question") or question)
            )
    faults = [f"{path}:{line}: {fault}" for line, fault in [*faulty_lines(found, path.parent), *faulty_choices(found)]]
    if faults or not found:
        raise LabelError("\n".join(faults) or f"{path} lists no clips")
    return found


def faulty_lines(found: list[LabeledClip], clips: Path) -> list[tuple[int, str]]:
    """Return the faults of single lines, with line numbers."""
    faults, first = [], {}
    for clip in found:
        if not clip.file or not clip.label:
            faults.append((clip.line, "'file' and 'label' must not be empty"))
        elif not (clips / clip.file).is_file():
            faults.append((clip.line, f"the file {str(clips / clip.file)!r} does not exist"))
        earlier = first.setdefault((clip.file, clip.question), clip.line)
        if earlier != clip.line:
            faults.append((clip.line, f"{clip.file!r} is already listed in line {earlier}; keep one"))
    return faults


def faulty_choices(found: list[LabeledClip]) -> list[tuple[int, str]]:
    """Return the questions whose labels cannot be split into training and held-out rows, with line numbers."""
    faults = []
    for question, labels in by_label(found).items():
        line = min(clip.line for group in labels.values() for clip in group)
        if not 2 <= len(labels) <= MOST_LABELS:
            faults.append((line, f"{question!r} has {len(labels)} different labels; give it 2 to {MOST_LABELS}"))
        for label, group in labels.items():
            if len(group) < 2:
                faults.append(
                    (group[0].line, f"only this clip has the label {label!r}; two are needed, one to hold out")
                )
    return faults


def by_label(found: list[LabeledClip]) -> dict[str, dict[str, list[LabeledClip]]]:
    """Return the clips by question and label, labels in alphabetical order."""
    groups: dict[str, dict[str, list[LabeledClip]]] = {}
    for clip in sorted(found, key=lambda clip: (clip.label, clip.line)):
        groups.setdefault(clip.question, {}).setdefault(clip.label, []).append(clip)
    return groups


def split(found: list[LabeledClip], share: float, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split into training and held-out rows, with the same share of each label and at least one row of each."""
    rng = random.Random(seed)
    train, held_out = [], []
    for labels in by_label(found).values():
        options = list(labels)
        for index, group in enumerate(labels.values()):
            rows = [row(clip, options, index) for clip in rng.sample(group, len(group))]
            count = min(max(1, round(share * len(rows))), len(rows) - 1)
            held_out += rows[:count]
            train += rows[count:]
    return train, held_out


def row(clip: LabeledClip, options: list[str], index: int) -> dict[str, Any]:
    """Return a row that asks for the letter of the correct option; tinyvid appends the options to the question."""
    turns = [{"from": "human", "value": clip.question}]
    return {
        "id": f"{clip.file}:{clip.line}",
        "video": clip.file,
        "conversations": turns,
        "options": options,
        "answer_index": index,
    }


def main() -> int:
    """Write train.jsonl and held_out.jsonl."""
    parser = argparse.ArgumentParser(description="Convert a CSV of labels to rows for recipes/train.py.")
    parser.add_argument(
        "labels", type=Path, help="CSV in the folder of the clips: file, label and, optionally, question"
    )
    parser.add_argument("--question", default="What happens in the video?", help="question for lines without one")
    parser.add_argument("--held-out", type=float, default=0.25, help="share of each label to hold out (default: 0.25)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the split (default: 0)")
    arguments = parser.parse_args()
    try:
        found = read_labels(arguments.labels, arguments.question)
    except LabelError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for name, rows in zip(("train", "held_out"), split(found, arguments.held_out, arguments.seed), strict=True):
        file = arguments.labels.with_name(f"{name}.jsonl")
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        print(f"Wrote {len(rows)} rows to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
