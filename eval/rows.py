"""Read annotation rows of benchmarks from JSON, JSON Lines or parquet; errors report the row and the key.

Also finds the media files that rows refer to, without decoding them.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvid import DataError
from tinyvid.data.media import is_number
from tinyvid.data.rows import open_rows
from tinyvid.files import is_below, read_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of an annotation file.

    Attributes:
        values: Its keys and values.
        where: Its place, as ``file:line``.
    """

    values: Mapping[str, Any]
    where: str

    def has(self, key: str) -> bool:
        """Return whether the row has a value for ``key``."""
        return self.values.get(key) is not None

    def text(self, key: str) -> str:
        """Return a text, or a whole number as text.

        Raises:
            DataError: The row has no such key, or something else under it.
        """
        value = self._value(key)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise DataError(f"{self.where}: '{key}' must be a text, got {value!r:.80}")
        return str(value)

    def texts(self, key: str) -> list[str]:
        """Return a list of texts; numbers among them become text.

        Raises:
            DataError: The row has no such key, or something else under it.
        """
        value = self._value(key)
        if not isinstance(value, list) or not all(isinstance(v, str) or is_number(v) for v in value):
            raise DataError(f"{self.where}: '{key}' must be a list of texts, got {value!r:.120}")
        return [str(v) for v in value]

    def mapping(self, key: str) -> dict[str, str]:
        """Return a mapping of keys to texts, without null values.

        Raises:
            DataError: The row has no such key, or something else under it.
        """
        value = self._value(key)
        texts = {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}
        if not texts or not all(isinstance(v, str) or is_number(v) for v in texts.values()):
            raise DataError(f"{self.where}: '{key}' must map letters to texts, got {value!r:.120}")
        return {k: str(v) for k, v in texts.items()}

    def number(self, key: str) -> float:
        """Return a finite number.

        Raises:
            DataError: The row has no such key, or something else under it.
        """
        value = self._value(key)
        if not is_number(value):
            raise DataError(f"{self.where}: '{key}' must be a number, got {value!r:.80}")
        return float(value)

    def letter(self, key: str, options: Mapping[str, str]) -> str:
        """Return the letter under ``key``.

        Raises:
            DataError: It is not one of ``options``.
        """
        letter = self.text(key).strip()
        if letter not in options:
            raise DataError(f"{self.where}: '{key}' is {letter!r}, not one of the options {list(options)}")
        return letter

    def letter_of(self, key: str, options: Mapping[str, str]) -> str:
        """Return the letter of the option whose text is under ``key``.

        If several options have this text, logs a warning and returns the last one, as the official scorers do.

        Raises:
            DataError: No option has this text.
        """
        answer = self.text(key).strip()
        letters = [letter for letter, text in options.items() if text == answer]
        if not letters:
            raise DataError(f"{self.where}: '{key}' is {answer!r}, not one of the options {dict(options)}")
        if len(letters) > 1:
            logger.warning("%s: options %s are all %r; %s counts as correct", self.where, letters, answer, letters[-1])
        return letters[-1]

    def path(self, key: str) -> str:
        """Return a path below the media folder.

        Raises:
            DataError: The path leaves the folder.
        """
        return below(self.text(key), where=f"{self.where}: '{key}'")

    def _value(self, key: str) -> Any:
        if not self.has(key):
            raise DataError(f"{self.where}: the row has no '{key}'; it has {', '.join(map(str, self.values))}")
        return self.values[key]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a ``.parquet`` file, a JSON array or a JSON Lines file.

    Raises:
        DataError: The file is missing, empty or broken.
    """
    rows = open_rows(path)
    return [Row(rows[index], rows.where(index)) for index in range(len(rows))]


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that contains one JSON object.

    Raises:
        DataError: The file contains anything else.
    """
    return read_json(path, error=DataError)


def below(path: str, *, where: str) -> str:
    """Check that a relative path stays below its folder, and return it.

    Raises:
        DataError: The path is empty, absolute or leaves the folder.
    """
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or ".." in parts or "\0" in path:
        raise DataError(f"{where}: the path {path!r:.120} leaves the benchmark's folder")
    return str(Path(*parts))


def first_of(folder: Path, names: Sequence[str]) -> str:
    """Return the first of several paths below a folder that exists, or the first path if none does.

    A folder of media directly in ``folder`` may be a link to another place, but the media must stay below it.

    Raises:
        DataError: A link leads elsewhere.
    """
    name = next((name for name in names if os.path.exists(folder / name)), names[0])
    first, *others = Path(name).parts
    if not is_below(folder / name, [folder, folder / first] if others else [folder]):
        raise DataError(
            f"{folder / name} leads through a link to {os.path.realpath(folder / name)}, outside the benchmark's "
            f"folder; copy the file, or make {folder / first} a link to the folder of the media"
        )
    return str(folder / name)


def digest(*parts: Any) -> str:
    """Return a short hash that identifies a question, for rows without an id."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:10]


def numbered(names: Sequence[str]) -> list[str]:
    """Make names unique by appending ``#2``, ``#3``, ... to repeated ones."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique
