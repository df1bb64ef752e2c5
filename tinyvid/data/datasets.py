"""Data sets: from rows of files to samples. No video is decoded here, and only row offsets are kept in memory.

``jsonl`` reads rows in common formats, as JSON Lines, one array or parquet. ``mixture`` combines weighted data sets.
``tinyvid.data.parsing`` converts rows to samples.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from tinyvid.data.media import is_number
from tinyvid.data.parsing import RowError, to_sample
from tinyvid.data.rows import open_rows
from tinyvid.errors import ConfigError, DataError, raised_as
from tinyvid.files import expanded
from tinyvid.registry import DATASETS, AtLeast
from tinyvid.types import Sample

MAX_ROWS = 1 << 30  # of an epoch; their numbers take 16 bytes each
DATASETS.defer("shapes", "tinyvid.worlds.shapes.dataset")


@DATASETS.register("jsonl")
class RowDataset:
    """Read rows from JSON Lines or a JSON array, which can be larger than memory, or from parquet, which cannot.

    Args:
        path: The file. Its first characters tell the format.
        media_root: Folder that media paths are relative to; by default the folder of the file. A path or a link that
            leaves it is an error.
        allowed_roots: Other folders that rows may use media from, by absolute path, ``..`` or link.
    """

    def __init__(
        self,
        *,
        path: str,
        media_root: str | None = None,
        allowed_roots: list[str] = (),  # type: ignore[assignment]
    ) -> None:
        self.rows = open_rows(path)
        with raised_as(ConfigError, f"media_root={media_root!r}, allowed_roots={list(allowed_roots)}", "correct them"):
            self.media_root = expanded(media_root or self.rows.path.parent).absolute()
            self.allowed = [expanded(folder).absolute() for folder in allowed_roots]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Return a row as a sample.

        Raises:
            RowError: The row is malformed; the message gives its line and all its faults.
        """
        where = self.rows.where(index)
        try:
            row = self.rows[index]
        except DataError as error:
            raise RowError(str(error), [("json", str(error).removeprefix(f"{where}: "))]) from error
        try:
            with raised_as(RowError, "the row cannot be read", "correct it"):
                return to_sample(row, media_root=self.media_root, default_id=where, allowed=self.allowed)
        except RowError as error:
            raise RowError(f"{where}: {error}", error.faults) from error

    def where(self, index: int) -> str:
        """Return the location of a row as ``file:line``."""
        return self.rows.where(index)

    def size(self, index: int) -> int:
        """Return the length of a row in bytes, without reading it."""
        return self.rows.size(index)

    def digest(self) -> str:
        """Return a hash of the file, which a resumed run compares."""
        with self.rows.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@DATASETS.register("mixture")
class Mixture:
    """Combine several data sets with weights.

    Args:
        sources: One mapping per data set: its ``name``, its options, and ``weight``, the number of times that its rows
            occur per epoch. Weight 2 shows each row twice; weight 0.5 shows half of the rows, chosen once.
        seed: Random seed for choosing the rows of fractional weights.

    Raises:
        ConfigError: A source is malformed, or its weight is not positive.
    """

    def __init__(self, *, sources: list[Any], seed: Annotated[int, AtLeast(0)] = 0) -> None:
        if not sources:
            raise ConfigError("data.sources is empty; list at least one data set")
        self.parts = []
        picked = []
        for number, source in enumerate(sources):
            if not isinstance(source, Mapping):
                raise ConfigError(f"data.sources[{number}] must be a mapping with a 'name', got {source!r}")
            options = {key: value for key, value in source.items() if key != "weight"}
            part = DATASETS.build(options, key=f"data.sources[{number}]")
            self.parts.append(part)
            rng = np.random.default_rng([seed, number])
            picked.append(_weighted(len(part), source.get("weight", 1.0), rng, f"data.sources[{number}]"))
        self._part = np.concatenate([np.full(len(rows), number) for number, rows in enumerate(picked)])
        self._row = np.concatenate(picked)

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, index: int) -> Sample:
        """Return a row of one of the sources as a sample."""
        return self.parts[self._part[index]][int(self._row[index])]

    def where(self, index: int) -> str:
        """Return the location of a row as ``file:line``."""
        return self.parts[self._part[index]].where(int(self._row[index]))

    def size(self, index: int) -> int:
        """Return the length of a row in bytes."""
        return self.parts[self._part[index]].size(int(self._row[index]))

    def digest(self) -> str:
        """Return the hashes of all sources."""
        return " ".join(part.digest() for part in self.parts)


def held_out_rows(path: str | None, data: Mapping[str, Any]) -> RowDataset | None:
    """Return the rows of ``eval_path``, with the media folders of the training data; ``None`` without a path.

    Args:
        path: The file of held-out rows.
        data: The options of the training data.
    """
    if path is None:
        return None
    folders = {key: data[key] for key in ("media_root", "allowed_roots") if key in data}
    rows: RowDataset = DATASETS.build({"name": "jsonl", "path": path, **folders}, key="eval_path")
    return rows


def _weighted(count: int, weight: Any, rng: np.random.Generator, key: str) -> np.ndarray:
    """Return the row indices of an epoch: whole repetitions in file order, then the fractional part."""
    if not is_number(weight) or weight <= 0:
        raise ConfigError(f"{key}.weight={weight!r} must be a positive number")
    if weight * count > MAX_ROWS:
        raise ConfigError(f"{key}.weight={weight:g} of {count:,} rows gives more than {MAX_ROWS:,} rows; lower it")
    rest = round((weight - int(weight)) * count)
    if weight < 1 and rest == 0:
        raise ConfigError(f"{key}.weight={weight!r} of {count:,} rows gives no rows; raise it or remove the source")
    whole = np.tile(np.arange(count), int(weight))
    return np.concatenate([whole, np.sort(rng.permutation(count)[:rest])])
