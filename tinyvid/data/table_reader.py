"""Read a parquet file in a separate process, because a damaged one can abort pyarrow or exhaust the memory.

``python -P table_reader.py FILE MAX_BYTES MAX_VALUES`` writes the table as an Arrow stream to standard output, or a
reason to standard error. It does not import tinyvid, so it starts in a fraction of a second.
"""

import os
import sys
from typing import Any

MAX_MEMORY = 8 << 30  # bytes of address space


def main(path: str, max_bytes: int, max_values: int) -> str | None:
    """Write the table, or return why it cannot be read."""
    import pyarrow
    from pyarrow import ipc
    from pyarrow.parquet import ParquetFile

    _limit_memory()
    with open(path, "rb") as file:
        described = ParquetFile(file).metadata
        groups = [described.row_group(number) for number in range(described.num_row_groups)]
        columns = [group.column(number) for group in groups for number in range(group.num_columns)]
        size = sum(abs(column.total_uncompressed_size) for column in columns)
        values = max(described.num_rows, sum(abs(column.num_values) for column in columns))
        if size > max_bytes or values > max_values:
            return (
                f"it has {size:,} bytes and {values:,} values without compression, and at most {max_bytes:,} bytes and "
                f"{max_values:,} values are read; convert it to JSON Lines, which can be larger than memory"
            )
        names = sorted({column.path_in_schema for column in columns if column.physical_type == "BYTE_ARRAY"})
        parquet = ParquetFile(file, read_dictionary=names)
        # One by one: pyarrow reads no dictionaries in lists over several groups.
        parts = [parquet.read_row_group(number, use_threads=False) for number in range(parquet.num_row_groups)]
        table = pyarrow.concat_tables(parts) if parts else parquet.schema_arrow.empty_table()
        table.validate(full=True)  # the process that uses the table relies on it
    options = ipc.IpcWriteOptions(unify_dictionaries=True)
    with ipc.new_stream(pyarrow.PythonFile(sys.stdout.buffer, mode="w"), table.schema, options=options) as stream:
        stream.write_table(table)
    return None


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit: Any = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    try:
        reason = main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].strip() + "; download it again"
    sys.stderr.write(reason or "")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(bool(reason))  # pyarrow's threads sometimes abort a normal exit
