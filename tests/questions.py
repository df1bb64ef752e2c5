"""Small question sets for the benchmark ``custom``: rows and clips on disk."""

import json
from pathlib import Path
from typing import Any

from tests.clips import write_clip
from tests.runs import turns

OPTIONS = ["a cat", "a dog", "a cow"]


def write_questions(folder: Path, *, clips: int = 3, per_clip: int = 3) -> Path:
    """Write multiple-choice questions about clips and one question without a video, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for clip in range(clips):
        write_clip(folder / f"clip_{clip}.mp4", num_frames=12 + 8 * clip)
        for number in range(per_clip):
            rows.append(
                {
                    "id": f"{clip}-{number}",
                    "video": f"clip_{clip}.mp4",
                    "conversations": turns(f"Which animal is number {number}?"),
                    "options": OPTIONS,
                    "answer_index": (clip + number) % 3,
                    "group": f"clip {clip}",
                }
            )
    rows.append({"id": "text", "conversations": turns("Hello?", "Hi there."), "rule": "contains", "group": "text"})
    return write_rows(folder, rows)


def write_two_clips(folder: Path) -> Path:
    """Write a multiple-choice question about each of two short clips, without groups, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"conversations": turns("Which animal?"), "options": OPTIONS, "answer_index": 1}
    for clip in "ab":
        write_clip(folder / f"{clip}.mp4", num_frames=6)
    return write_rows(folder, [{"id": clip, "video": f"{clip}.mp4", **asked} for clip in "ab"])


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format of the benchmark ``custom``, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of a finished run."""
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
