"""Data sets: rows of files to samples. Nothing is decoded here, and nothing is kept in memory but where rows begin.

``jsonl`` reads tinyvid's rows and those of LLaVA and LLaVA-Video, one per line or as one array; ``mixture`` weighs
several data sets. How a row becomes a sample is in ``tinyvid.data.parsing``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.data.parsing import RowError, is_number, to_sample
from tinyvid.data.rows import RowFile
from tinyvid.errors import ConfigError, DataError
from tinyvid.registry import DATASETS
from tinyvid.types import Sample

DATASETS.defer("shapes", "tinyvid.worlds.shapes.dataset")


@DATASETS.register("jsonl")
class RowDataset:
    """Read rows of tinyvid or of LLaVA, from JSON Lines or a JSON array, larger than memory if need be.

    Args:
        path: The file. JSON Lines or an array is told apart by the first character.
        media_root: Folder that the rows' media paths are relative to; the file's own folder if null. A path that
            leaves it is refused.
    """

    def __init__(self, *, path: str, media_root: str | None = None) -> None:
        self.rows = RowFile(path)
        self.media_root = Path(media_root).expanduser().absolute() if media_root else self.rows.path.absolute().parent

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Return a row as a sample.

        Raises:
            RowError: All that is wrong with the row; the message names its line.
        """
        where = self.rows.where(index)
        try:
            row = self.rows[index]
        except DataError as error:
            raise RowError(str(error), [("json", str(error).removeprefix(f"{where}: "))]) from error
        try:
            return to_sample(row, media_root=self.media_root, default_id=where)
        except RowError as error:
            raise RowError(f"{where}: {error}", error.faults) from error

    def where(self, index: int) -> str:
        """Return the place of a row as ``file:line``."""
        return self.rows.where(index)

    def size(self, index: int) -> int:
        """Return the length of a row in bytes: a measure of its text that costs no reading."""
        return self.rows.size(index)


@DATASETS.register("mixture")
class Mixture:
    """Weigh several data sets against each other.

    Args:
        sources: One mapping per data set: its ``name``, its options, and ``weight``, how often its rows come per epoch.
            Weight 2 shows each row twice; weight 0.5 shows half of the rows, chosen once by ``seed``.
        seed: Chooses the rows of fractional weights.

    Raises:
        ConfigError: A source is malformed, or its weight is not positive.
    """

    def __init__(self, *, sources: list[Any], seed: int = 0) -> None:
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
        """Return the place of a row as ``file:line``."""
        return self.parts[self._part[index]].where(int(self._row[index]))

    def size(self, index: int) -> int:
        """Return the length of a row in bytes."""
        return self.parts[self._part[index]].size(int(self._row[index]))


def _weighted(count: int, weight: Any, rng: np.random.Generator, key: str) -> np.ndarray:
    """Return the rows that an epoch shows, in the order of the file, whole rounds first."""
    if not is_number(weight) or weight <= 0:
        raise ConfigError(f"{key}.weight={weight!r} must be a positive number")
    rest = round((weight - int(weight)) * count)
    if weight < 1 and rest == 0:
        raise ConfigError(
            f"{key}.weight={weight!r} of {count:,} rows is not a single one; raise it, or drop the source"
        )
    whole = np.tile(np.arange(count), int(weight))
    return np.concatenate([whole, np.sort(rng.permutation(count)[:rest])])
