"""Several clips and questions in one call: which clips, which questions, and the file of answers."""

import csv
import glob
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tinyvid.errors import ConfigError, raised_as
from tinyvid.outputs import write_text
from tinyvid.video.images import IMAGES, VIDEOS

KINDS = (".jsonl", ".csv")


def find_clips(text: str) -> list[str]:
    """Return the videos that a path, a folder of videos or a pattern such as ``clips/*.mp4`` stands for, sorted.

    An existing path is never a pattern. A folder that contains only images is one video: a folder of frames.

    Raises:
        ConfigError: No file matches the pattern, or a folder contains both videos and images.
    """
    if os.path.isdir(text):
        return _in_folder(text)
    if os.path.lexists(text) or "://" in text or not glob.has_magic(text):
        return [text]
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise ConfigError(f"video={text!r} matches no file; check the pattern, and quote it for your shell")
    return found


def _in_folder(folder: str) -> list[str]:
    with raised_as(ConfigError, f"video={folder!r}", "check the folder"):
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    videos = [name for name in names if os.path.splitext(name)[1].lower() in VIDEOS]
    images = [name for name in names if os.path.splitext(name)[1].lower() in IMAGES]
    if videos and images:
        raise ConfigError(
            f"video={folder!r} contains {len(videos)} videos and {len(images)} images; give a pattern, such as "
            f"'{glob.escape(folder)}/*{os.path.splitext(videos[0])[1]}'"
        )
    return [os.path.join(folder, name) for name in videos] or [folder]


def typed() -> Iterator[str]:
    """Yield the lines of the standard input up to ``exit``; on a terminal, with a prompt."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line in ("exit", "quit"):
            return
        if line:
            yield line


def read_lines(path: str, *, key: str) -> list[str]:
    """Return the lines of a text file that are not blank, or in a ``.jsonl`` file, the texts of its rows.

    Args:
        path: The file. A row of a ``.jsonl`` file is a string, or an object with the key ``question`` or ``video``.
        key: ``questions`` or ``videos``.

    Raises:
        ConfigError: The file cannot be read, or contains no text.
    """
    with raised_as(ConfigError, f"{key}={path!r}", "give a text file in UTF-8 with one entry per line"):
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # not at U+2028
    texts: list[Any] = [line.strip() for line in lines if line.strip()]
    if path.endswith(".jsonl"):
        with raised_as(ConfigError, f"{key}={path!r}", "write a JSON string or object on each line"):
            rows = [json.loads(text) for text in texts]
        texts = [row.get(key[:-1]) if isinstance(row, dict) else row for row in rows]
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text:
            raise ConfigError(f"{key}={path!r}: entry {number} has no {key[:-1]}, got {text!r:.80}; write a text")
    if not texts:
        raise ConfigError(f"{key}={path!r} is empty; write one entry per line")
    return texts


@dataclass(frozen=True, slots=True)
class ClipAnswer:
    """The reply to one question about one clip, or the error that prevented it.

    Attributes:
        video: The path as found, or empty.
        question: The question.
        reply: The reply; empty after an error.
        error: The error; empty after a reply.
        settings: Digest of the model and the options that the reply depends on.
    """

    video: str
    question: str
    reply: str
    error: str
    settings: str


COLUMNS = [column.name for column in fields(ClipAnswer)]


class AnswerFile:
    """A ``.jsonl`` or ``.csv`` file of answers, which an interrupted call continues.

    Raises:
        ConfigError: The path has another ending.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in KINDS:
            raise ConfigError(f"out={path!r} must end in {' or '.join(KINDS)}")
        self.is_csv = self.path.suffix.lower() == ".csv"

    def resume(self, settings: str) -> list[ClipAnswer]:
        """Return the replies in the file. Errors and a last line that a kill left incomplete are removed from it.

        Raises:
            ConfigError: The file contains something else, or answers with other settings, or cannot be written.
        """
        kept: list[ClipAnswer] = []
        with raised_as(ConfigError, f"out={str(self.path)!r}", "choose another file"):
            if self.path.exists():
                kept = self._read(self.path.read_bytes().decode("utf-8", "surrogateescape"))
            other = next((answer for answer in kept if answer.settings != settings), None)
            if other is not None:
                raise ConfigError(f"out={str(self.path)!r} contains answers with other settings; choose another file")
            kept = [answer for answer in kept if not answer.error]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, self._header() + "".join(map(self._line, kept)))
        return kept

    def append(self, answers: Iterable[ClipAnswer]) -> None:
        """Append answers in one write."""
        text = "".join(map(self._line, answers))
        with self.path.open("ab", buffering=0) as file:
            file.write(text.encode("utf-8", "surrogateescape"))

    def _read(self, text: str) -> list[ClipAnswer]:
        complete = text[: text.rfind("\n") + 1]
        rows: list[Any] = []
        begins = self._header() or '{"video": '
        if not complete and not text.startswith(begins) and not begins.startswith(text):
            raise ConfigError(f"out={str(self.path)!r} is not a file of answers; choose another file")
        if self.is_csv:
            try:
                for row in csv.reader(io.StringIO(complete, newline=""), strict=True):
                    rows.append(dict(zip(COLUMNS, row, strict=True)))
            except csv.Error:  # the last row is cut inside quotes
                pass
            header = rows.pop(0) if rows else None
            if complete and header != dict(zip(COLUMNS, COLUMNS, strict=True)):
                raise ConfigError(f"out={str(self.path)!r} is not a file of answers; choose another file")
        else:
            rows = [json.loads(line) for line in complete.split("\n")[:-1]]
        return [ClipAnswer(**row) for row in rows]

    def _header(self) -> str:
        return ",".join(COLUMNS) + "\n" if self.is_csv else ""

    def _line(self, answer: ClipAnswer) -> str:
        if not self.is_csv:
            return json.dumps(asdict(answer)) + "\n"
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(asdict(answer).values())
        return line.getvalue()
