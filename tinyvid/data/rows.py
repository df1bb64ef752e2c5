"""Random access to the rows of a JSON Lines file or a JSON array, of any size, without reading it into memory.

One pass over the file notes where each row begins and on which line; a row is read and parsed when it is asked for.
"""

import codecs
import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyvid.errors import DataError

CHUNK = 1 << 22  # bytes read at a time while looking for the rows of an array
_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST_TOKEN = 12  # characters that a cut may make look wrong: two escapes \\uXXXX of one character, -Infinity, false


class RowFile:
    """The rows of a ``.jsonl`` file, or of a ``.json`` file that holds one array of objects.

    Opens the file anew for each row, so that workers can share it.

    Args:
        path: The file. An array is recognized by its first character, not by the file's name.

    Raises:
        DataError: The file is missing or without rows, or an array that is not JSON; a row of JSON Lines that is not
            JSON is an error of that row only.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise DataError(f"there is no data file {str(self.path)!r}; check the path")
        self._starts, self._ends, self._lines = array("q"), array("q"), array("q")
        for start, end, line in _array_rows(self.path) if _is_array(self.path) else _line_rows(self.path):
            self._starts.append(start)
            self._ends.append(end)
            self._lines.append(line)
        if not self._starts:
            raise DataError(f"{self.path} holds no rows")

    def __len__(self) -> int:
        return len(self._starts)

    def where(self, index: int) -> str:
        """Return the place of a row as ``file:line``."""
        return f"{self.path}:{self._lines[index]}"

    def size(self, index: int) -> int:
        """Return the length of a row in bytes, known without reading it."""
        return self._ends[index] - self._starts[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row.

        Raises:
            DataError: The row is not JSON, or no object; the message names its line.
        """
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            content = file.read(self.size(index))
        try:
            row = json.loads(str(content, "utf-8"))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{self.where(index)}: the row is not JSON: {error.msg} at character {error.pos + 1}"
            ) from error
        except (UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"{self.where(index)}: the row is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{self.where(index)}: a row must be a JSON object, got {type(row).__name__}")
        return row


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8).lstrip()
        while not start and (chunk := file.read(CHUNK)):
            start = chunk.lstrip()
        return start[:1] == b"["


def _line_rows(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield the first byte, the end and the line of every line that is not blank."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            skipped = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
            if line[skipped:].strip():
                yield start + skipped, start + len(line), number
            start += len(line)


def _array_rows(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield the first byte, the end and the line of every element of an array, a chunk in memory at a time."""
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
                found = repr(closing) if closing else "the end of the file: the array is cut short"
                raise window.error(f"expected ',' or ']' after a row, found {found}")
        window.take()
        if window.peek():
            raise window.error(f"expected the end of the file after the array, found {window.peek()!r}")


class _Window:
    """A sliding window of decoded text that knows its place in the file, in bytes and in lines."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file = file
        self._path = path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0  # characters of the text that are passed
        self.byte = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        self.line = 1
        file.seek(0)

    def error(self, what: str, ahead: int = 0) -> DataError:
        """Return an error at the line of the character that lies ``ahead`` of the present place."""
        line = self.line + self._text.count("\n", self._at, self._at + ahead)
        return DataError(f"{self._path}:{line}: {what}")

    def peek(self) -> str:
        """Pass white space and return the next character, empty at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None  # it matches no character, too
            self._pass(space.end())
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self) -> None:
        """Pass white space and one character."""
        self.peek()
        self._pass(self._at + 1)

    def take_value(self) -> None:
        """Pass the JSON value that begins here, reading on until it is whole."""
        while True:
            try:
                end = self._scan(self._text, self._at)[1]
            except json.JSONDecodeError as error:
                # What is wrong far from the end stays wrong; a string that does not end may end in the next chunk.
                certain = error.pos < len(self._text) - _LONGEST_TOKEN and not error.msg.startswith("Unterminated")
                if certain or not self._more():
                    raise self.error(f"the array is not JSON: {error.msg}", error.pos - self._at) from error
            except RecursionError as error:
                raise self.error(f"the row is not JSON: {error}") from error
            else:
                if end < len(self._text) or not self._more():  # a number may go on in the next chunk
                    self._pass(end)
                    return

    def _pass(self, end: int) -> None:
        passed = self._text[self._at : end]
        self.byte += len(passed.encode())
        self.line += passed.count("\n")
        self._at = end

    def _more(self) -> bool:
        """Append a chunk and forget what is passed; return whether there was one."""
        chunk = self._file.read(CHUNK)
        try:
            more = self._decode(chunk, not chunk)
        except UnicodeDecodeError as error:
            place = self._file.tell() - len(chunk)
            raise self.error(f"the file is not UTF-8, near byte {place:,}: {error.reason}") from error
        if not chunk:
            return False
        self._text, self._at = self._text[self._at :] + more, 0
        return True
