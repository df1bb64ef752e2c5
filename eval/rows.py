"""Annotation rows of the benchmarks, read from JSON, JSON Lines or parquet, with errors that name the row and the key.

The media that rows name are found here, too. Nothing is decoded.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvid import ConfigError, DataError
from tinyvid.data.parsing import is_number
from tinyvid.data.rows import RowFile

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
        """Return texts by key; those that are null are left out.

        Raises:
            DataError: The row has no such key, or something else under it.
        """
        value = self._value(key)
        texts = {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}
        if not texts or not all(isinstance(v, str) or is_number(v) for v in texts.values()):
            raise DataError(f"{self.where}: '{key}' must hold texts by letter, got {value!r:.120}")
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
        """Return the letter under ``key``, one of ``options``.

        Raises:
            DataError: It is none of them.
        """
        letter = self.text(key).strip()
        if letter not in options:
            raise DataError(f"{self.where}: '{key}' is {letter!r}, none of the options {list(options)}")
        return letter

    def letter_of(self, key: str, options: Mapping[str, str]) -> str:
        """Return the letter of the option whose text stands under ``key``.

        Of two options with the same text the last one, as the official scorers have it, with a warning.

        Raises:
            DataError: No option has this text.
        """
        answer = self.text(key).strip()
        letters = [letter for letter, text in options.items() if text == answer]
        if not letters:
            raise DataError(f"{self.where}: '{key}' is {answer!r}, none of the options {dict(options)}")
        if len(letters) > 1:
            logger.warning("%s: %s are all %r; %s counts as right", self.where, letters, answer, letters[-1])
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
    if path.suffix == ".parquet":
        return [Row(values, f"{path}:row {number}") for number, values in enumerate(_parquet(path), 1)]
    rows = RowFile(path)
    return [Row(rows[index], rows.where(index)) for index in range(len(rows))]


def read_object(path: Path) -> dict[str, Any]:
    """Return a file that holds one JSON object.

    Raises:
        DataError: The file holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold one JSON object, got {type(value).__name__}")
    return value


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("reading parquet needs the package pyarrow: pip install pyarrow") from error
    try:
        return list(pyarrow.parquet.read_table(path).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}; load it again") from error


def below(path: str, *, where: str) -> str:
    """Return a relative path, refusing one that leaves the folder it is relative to.

    Raises:
        DataError: It does, or is empty.
    """
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or ".." in parts or "\0" in path:
        raise DataError(f"{where}: the path {path!r:.120} leaves the benchmark's folder")
    return str(Path(*parts))


def first_of(folder: Path, names: Sequence[str]) -> str:
    """Return the first of several places that exists, or the first one where none does."""
    return str(next((folder / name for name in names if (folder / name).exists()), folder / names[0]))


def digest(*parts: Any) -> str:
    """Return a short hash of what makes a question what it is, for rows that have no id."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:10]


def numbered(names: Sequence[str]) -> list[str]:
    """Return names made unique: rows that stand in a file twice are told apart by ``#2``, in their order."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique
