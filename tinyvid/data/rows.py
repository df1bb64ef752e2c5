"""Random access to the rows of a file: JSON Lines or a JSON array of any size, or parquet.

For JSON, one pass over the file records the offset and the line of each row. A row is read and parsed on access.
"""

import codecs
import json
import re
from array import array
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from tinyvid.data.tables import MAGIC, MAX_ROW, TableFile, check_size
from tinyvid.errors import DataError, raised_as
from tinyvid.files import expanded, refuse_special

CHUNK = 1 << 22  # bytes to read at a time when indexing an array
_SPACE = re.compile(r"[ \t\n\r]*")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
}
_LONGEST_TOKEN = 12  # characters that look invalid if split: two escapes \\uXXXX of one character, -Infinity, false


def open_rows(path: str | Path) -> "RowFile | TableFile":
    """Open a file of rows. Its content decides whether it is JSON Lines, one JSON array, or parquet.

    Raises:
        DataError: The file is missing, has no rows, or has another format.
    """
    with raised_as(DataError, f"data file {str(path)!r}", "correct the path"):
        place = expanded(path)
        refuse_special(place, DataError)
        if place.is_dir():
            raise DataError(f"data file {str(place)!r} is a folder; give the file of rows in it")
        if not place.is_file():
            raise DataError(f"data file {str(place)!r} does not exist; check the path")
        with place.open("rb") as file:
            head = file.read(CHUNK)
    if head.startswith(MAGIC) or place.suffix == ".parquet":
        return TableFile(place)
    _refuse_other_formats(place, head)
    return RowFile(place)


class RowFile:
    """The rows of a ``.jsonl`` file, or of a ``.json`` file that contains one array of objects.

    It opens the file for each row, so that workers can share it.

    Args:
        path: The file. An array is recognized by its first character, not by the file's name.

    Raises:
        DataError: The file is missing or has no rows, or its array is not valid JSON. A malformed row of JSON Lines
            raises an error only when it is read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._starts, self._ends, self._lines = array("q"), array("q"), array("q")
        for start, end, line in _array_rows(self.path) if _is_array(self.path) else _line_rows(self.path):
            self._starts.append(start)
            self._ends.append(end)
            self._lines.append(line)
        if not self._starts:
            raise DataError(f"{self.path}: the file has no rows; add one JSON object per line")

    def __len__(self) -> int:
        return len(self._starts)

    def where(self, index: int) -> str:
        """Return the location of a row as ``file:line``."""
        return f"{self.path}:{self._lines[index]}"

    def size(self, index: int) -> int:
        """Return the length of a row in bytes, without reading it."""
        return self._ends[index] - self._starts[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row.

        Raises:
            DataError: The row is too long, not JSON, or not an object; the message gives its line.
        """
        check_size(self.size(index), self.where(index))
        with raised_as(DataError, f"data file {str(self.path)!r}", "check the path"), self.path.open("rb") as file:
            file.seek(self._starts[index])
            content = file.read(self.size(index))
        try:
            row = json.loads(str(content, "utf-8"), object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.where(index)}: the row is not JSON: {_reason(error)}") from error
        if not isinstance(row, dict):
            raise DataError(f"{self.where(index)}: a row must be a JSON object, got {type(row).__name__}")
        return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; without this check, the last of two equal keys would win silently."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in row if names.count(name) > 1)!r} occurs twice in an object")
    return row


def _reason(error: Exception) -> str:
    """Return why a text is not JSON; of Python's messages about numbers, without its advice to programmers."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return str(error).partition("; use sys.")[0]


def _refuse_other_formats(path: Path, head: bytes) -> None:
    """Raise an error that names the format of a file if it is neither JSON Lines nor an array.

    A file whose lines are partly rows is not refused: each of its broken rows is reported when it is read.
    """
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(f"{path} is a {name} file; unpack it, and give the file of rows in it")
    if b"\0" in head[:4096]:
        raise DataError(f"{path} is not a text file in UTF-8; give JSON Lines, one JSON array, or parquet")
    lines = [line for line in head.removeprefix(codecs.BOM_UTF8).splitlines() if line.strip()][:20]
    if not lines or lines[0].lstrip().startswith(b"["):
        return
    if path.suffix.lower() in (".csv", ".tsv") or not any(line.lstrip().startswith(b"{") for line in lines):
        raise DataError(
            f"{path} does not contain rows: its first line is {str(lines[0][:60], 'utf-8', 'replace')!r}. Write one "
            "JSON object per line; examples/custom_dataset/prepare.py shows how to convert a CSV file"
        )
    first = str(head.removeprefix(codecs.BOM_UTF8), "utf-8", "ignore").lstrip()
    end = _end_of_object(first)
    if end is not None and "\n" in first[:end].strip():
        raise DataError(
            f"{path}: the first JSON object spans {first[:end].strip().count(chr(10)) + 1:,} lines or more; write one "
            "object per line (jq -c . FILE), or one array of objects"
        )


def _end_of_object(text: str) -> int | None:
    """Return where the JSON object at the beginning of a text ends, or the length of the text if it does not end there.

    ``None`` if it is not valid JSON.
    """
    try:
        return json.JSONDecoder().raw_decode(text)[1]
    except json.JSONDecodeError as error:
        near_end = len(text) - _LONGEST_TOKEN if len(text) > CHUNK // 2 else len(text.rstrip())
        return len(text) if error.pos >= near_end or error.msg.startswith("Unterminated") else None
    except (ValueError, RecursionError):
        return None


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8).lstrip()
        while not start and (chunk := file.read(CHUNK)):
            start = chunk.lstrip()
        return start[:1] == b"["


def _line_rows(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield the start and end byte and the line number of every non-blank line."""
    with path.open("rb") as file:
        start = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        file.seek(start)
        for number in count(1):
            line = file.readline(CHUNK)
            end, blank = start + len(line), not line.strip()
            while line and not line.endswith(b"\n"):  # a long line; only a chunk of it is in memory
                line = file.readline(CHUNK)
                end, blank = end + len(line), blank and not line.strip()
            if end == start:
                return
            if not blank:
                yield start, end, number
            start = end


def _array_rows(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield the start and end byte and the line number of every element of an array, reading it in chunks."""
    with path.open("rb") as file:
        window = _Window(file, path)
        window.take()
        closing = window.peek()
        while closing != "]":
            window.peek()
            start, line = window.byte, window.line
            window.take_value()
            yield start, window.byte, line
            closing = window.peek()
            if closing == ",":
                window.take()
            elif closing != "]":
                found = repr(closing) if closing else "the end of the file: the array is truncated"
                raise window.error(f"expected ',' or ']' after a row, found {found}")
        window.take()
        if window.peek():
            raise window.error(f"expected the end of the file after the array, found {window.peek()!r}")


class _Window:
    """A sliding window of decoded text that tracks its position in the file, in bytes and in lines."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file = file
        self._path = path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0  # characters of the text already consumed
        self.byte = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        self.line = 1
        file.seek(0)

    def error(self, what: str, ahead: int = 0) -> DataError:
        """Return an error with the line of the character ``ahead`` of the current position."""
        line = self.line + self._text.count("\n", self._at, self._at + ahead)
        return DataError(f"{self._path}:{line}: {what}")

    def peek(self) -> str:
        """Skip whitespace and return the next character, or an empty string at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None  # it also matches the empty string
            self._pass(space.end())
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self) -> None:
        """Skip whitespace and one character."""
        self.peek()
        self._pass(self._at + 1)

    def take_value(self) -> None:
        """Skip the JSON value that begins here, reading more chunks until it is complete."""
        while True:
            try:
                end = self._scan(self._text, self._at)[1]
            except json.JSONDecodeError as error:
                # An error near the end, or in an unterminated string, may be resolved by the next chunk.
                certain = error.pos < len(self._text) - _LONGEST_TOKEN and not error.msg.startswith("Unterminated")
                if certain or not self._more():
                    raise self.error(f"the array is not JSON: {error.msg}", error.pos - self._at) from error
                if len(self._text) - self._at > MAX_ROW:
                    raise self.error(f"a row of the array has more than {MAX_ROW:,} characters; shorten it") from error
            except (ValueError, RecursionError) as error:
                raise self.error(f"the row is not JSON: {_reason(error)}") from error
            else:
                if end < len(self._text) or not self._more():  # a number may continue in the next chunk
                    self._pass(end)
                    return

    def _pass(self, end: int) -> None:
        passed = self._text[self._at : end]
        self.byte += len(passed.encode())
        self.line += passed.count("\n")
        self._at = end

    def _more(self) -> bool:
        """Append a chunk and discard the consumed text; return whether there was one."""
        chunk = self._file.read(CHUNK)
        try:
            more = self._decode(chunk, not chunk)
        except UnicodeDecodeError as error:
            place = self._file.tell() - len(chunk)
            raise self.error(
                f"the file is not UTF-8 near byte {place:,} ({error.reason}); convert it to UTF-8"
            ) from error
        if not chunk:
            return False
        self._text, self._at = self._text[self._at :] + more, 0
        return True
