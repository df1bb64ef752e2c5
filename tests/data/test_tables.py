"""Rows of parquet: the same rows as in JSON Lines, and sizes that are refused before they take memory."""

import json
import pickle
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tinyvid import DataError
from tinyvid.data import tables
from tinyvid.data.datasets import RowDataset
from tinyvid.data.rows import open_rows

TALK = [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": "A bike é 数据."}]
ROWS = [
    {"id": "a", "video": ["a.mp4"], "conversations": TALK, "clip": [1.0, 2.5], "options": None},
    {"id": "b", "video": [], "conversations": [TALK[1], {"from": "human", "value": "Hi"}, TALK[1]], "clip": None},
]


def write(path, rows, **options):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_parquet_gives_the_rows_of_json_lines(tmp_path, name):
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    lines = RowDataset(path=str(tmp_path / "lines.jsonl"))
    table = pickle.loads(pickle.dumps(RowDataset(path=str(write(tmp_path / name, ROWS)))))
    assert [table[n].messages for n in range(2)] == [lines[n].messages for n in range(2)]
    assert [table[n].id for n in range(2)] == ["a", "b"]
    assert (table[0].videos[0].source, table[0].videos[0].end) == (str(tmp_path / "a.mp4"), 2.5)
    assert table.where(1) == f"{tmp_path}/{name}:row 2"
    assert all(table.size(n) > 50 for n in range(2))


@pytest.mark.parametrize("size", [1, 2])
def test_parquet_in_several_row_groups(tmp_path, size):
    talks = [[TALK[0], {"from": "gpt", "value": f"Bike {n}."}] for n in range(5)]
    rows = RowDataset(
        path=str(write(tmp_path / "a.parquet", [{"messages": talk} for talk in talks], row_group_size=size))
    )
    assert [rows.rows[n] for n in range(5)] == [{"messages": talk} for talk in talks]


def test_a_table_that_unpacks_to_gigabytes_is_refused(tmp_path):
    text = "x" * 100_000
    path = write(tmp_path / "rows.parquet", [{"text": text + str(n)} for n in range(20)], compression="zstd")
    assert open_rows(path).size(0) > 100_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "MAX_BYTES", 1_000_000)
        with pytest.raises(DataError, match=r"it has 2,[\d,]+ bytes and 20 values without compression, and at most"):
            open_rows(path)
        patch.setattr(tables, "MAX_VALUES", 19)
        with pytest.raises(DataError, match="20 values without compression, and at most .* 19 values"):
            open_rows(path)


def test_repeated_texts_take_memory_once(tmp_path):
    """A dictionary stores a text once: 0.1 MB in the file and in memory, 60 MB as rows."""
    text = "x" * 100_000
    path = write(tmp_path / "rows.parquet", [{"turns": [{"value": text}] * 200} for _ in range(3)], compression="zstd")
    rows = open_rows(path)
    assert rows._table.nbytes < 1_000_000
    with pytest.raises(DataError, match=r"rows.parquet:row 3: the row has 20,\d+,\d+ bytes; at most 16,777,216"):
        rows[2]


def test_a_damaged_table_that_aborts_its_reader():
    with pytest.raises(DataError, match="damaged.parquet cannot be read as parquet: it is damaged; download it again"):
        open_rows(Path(__file__).with_name("damaged.parquet"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 and then nothing", b"PAR1" + b"\0" * 100 + b"PAR1", b"text"])
def test_a_broken_table(tmp_path, content):
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"rows.parquet cannot be read as parquet: .*; download it again"):
        open_rows(tmp_path / "rows.parquet")


def test_a_table_without_rows(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(DataError, match="the file has no rows"):
        open_rows(path)


def test_every_type_of_a_column(tmp_path):
    import datetime
    import decimal

    row = {"a": datetime.datetime(2020, 1, 1), "b": decimal.Decimal("1.5"), "c": b"\xff", "d": {"e": [[1]]}, "f": True}
    assert open_rows(write(tmp_path / "rows.parquet", [row]))[0] == row
