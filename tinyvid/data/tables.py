"""The rows of a parquet file, in memory: texts stay compressed as dictionaries until a row is read."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tinyvid.errors import ConfigError, DataError, raised_as

MAX_BYTES = 1 << 30  # of a table without compression
MAX_VALUES = 50_000_000
MAX_SECONDS = 300  # for reading a table
MAX_ROW = 16 << 20  # bytes of a row of any format
MAGIC = b"PAR1"


class TableFile:
    """The rows of a parquet file.

    Args:
        path: The file.

    Raises:
        DataError: The file is broken, has no rows, or is larger than the limits without compression.
        ConfigError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import ipc
        except ImportError as error:
            raise ConfigError(f"{path}: reading parquet needs the package pyarrow: pip install pyarrow") from error
        self.path = path
        reader = Path(__file__).with_name("table_reader.py")
        # -P: the working directory is not a place to import from.
        command = [sys.executable, "-P", str(reader), os.path.abspath(path), str(MAX_BYTES), str(MAX_VALUES)]
        with raised_as(DataError, f"{path} cannot be read as parquet", "download it again"):
            done = subprocess.run(command, capture_output=True, timeout=MAX_SECONDS)
            if done.returncode:
                reason = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
                stopped = "it is damaged; download it again" if done.returncode < 0 else reason[0]
                raise DataError(f"{path} cannot be read as parquet: {stopped}")
            self._table = ipc.open_stream(done.stdout).read_all()
        if not len(self):
            raise DataError(f"{path}: the file has no rows")

    def __len__(self) -> int:
        return self._table.num_rows

    def where(self, index: int) -> str:
        """Return the location of a row as ``file:row number``."""
        return f"{self.path}:row {index + 1}"

    def size(self, index: int) -> int:
        """Return the length of a row in bytes, without converting it."""
        row = self._table.slice(index, 1)
        return sum(_num_bytes(chunk) for column in row.columns for chunk in column.chunks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row.

        Raises:
            DataError: The row is too large, or its values cannot be converted.
        """
        where = self.where(index)
        with raised_as(DataError, f"{where} cannot be read", "correct the file"):
            check_size(self.size(index), where)
            return dict(self._table.slice(index, 1).to_pylist()[0])


def check_size(size: int, where: str) -> None:
    """Raise ``DataError`` if a row is longer than ``MAX_ROW`` bytes."""
    if size > MAX_ROW:
        raise DataError(f"{where}: the row has {size:,} bytes; at most {MAX_ROW:,} are read. Split or shorten it")


def _num_bytes(array: Any) -> int:
    """Return the size of an Arrow array after its dictionaries are expanded; stops above the limit of a row."""
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_dictionary(array.type):
        counts = compute.value_counts(array.indices.drop_null())
        texts = array.dictionary.take(counts.field("values"))
        lengths = compute.cast(compute.binary_length(texts), pyarrow.int64())
        return len(array) + (compute.sum(compute.multiply(lengths, counts.field("counts"))).as_py() or 0)
    if pyarrow.types.is_struct(array.type):
        return sum(_num_bytes(field) for field in array.flatten())
    if pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type):
        return len(array) + (_num_bytes(array.flatten()) if len(array.flatten()) < MAX_ROW else MAX_ROW + 1)
    return array.nbytes
