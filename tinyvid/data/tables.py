"""The rows of a parquet file, in memory: texts stay compressed as dictionaries until a row is read."""

from pathlib import Path
from typing import Any

from tinyvid.errors import ConfigError, DataError, raised_as

MAX_BYTES = 1 << 30  # of a table without compression
MAX_VALUES = 50_000_000
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
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise ConfigError(f"{path}: reading parquet needs the package pyarrow: pip install pyarrow") from error
        self.path = path
        with raised_as(DataError, f"{path} cannot be read as parquet", "download it again"), path.open("rb") as file:
            described = ParquetFile(file).metadata
            names = _check(path, described)
            self._table = ParquetFile(file, read_dictionary=names).read(use_threads=False)
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


def _check(path: Path, described: Any) -> list[str]:
    """Check the sizes that a file states, and return its columns of texts."""
    groups = [described.row_group(number) for number in range(described.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    size = sum(column.total_uncompressed_size for column in columns)
    values = max([described.num_rows, sum(column.num_values for column in columns)])
    if size > MAX_BYTES or values > MAX_VALUES or min([0, *(column.num_values for column in columns)]) < 0:
        raise DataError(
            f"{path} has {path.stat().st_size:,} bytes, but {size:,} bytes and {values:,} values without compression; "
            f"at most {MAX_BYTES:,} bytes and {MAX_VALUES:,} values are read. Convert it to JSON Lines, which can be "
            "larger than memory"
        )
    return sorted({column.path_in_schema for column in columns if column.physical_type == "BYTE_ARRAY"})


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
