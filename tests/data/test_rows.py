"""Rows of files larger than memory: every valid layout, and every kind of broken file with its line."""

import json
import pickle
import tracemalloc

import pytest
from hypothesis import given, settings, strategies as st

from tinyvid import DataError
from tinyvid.data import rows, tables
from tinyvid.data.rows import RowFile, open_rows

ROWS = [
    {"id": 1, "text": 'quotes " and \\ and { [ ] } ,'},
    {"id": 2, "text": "视频 é \U0001f3ac\n\t\u2028"},
    {"id": 3, "nested": {"list": [1.5e-3, None, True, {"deep": []}], "number": -12}},
    {},
]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def write(folder, content):
    path = folder / "rows.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def contents(file):
    return [file[index] for index in range(len(file))]


def lines(file):
    return [int(file.where(index).rpartition(":")[2]) for index in range(len(file))]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_json_lines(tmp_path, bom, newline):
    text = "\n" + LINES.replace("\n", "\n\n  \n") + "\n\n"
    file = RowFile(write(tmp_path, bom + text.replace("\n", newline).encode()))
    assert contents(file) == ROWS
    assert lines(file) == [2, 5, 8, 11]


def test_json_lines_without_a_last_newline(tmp_path):
    assert contents(RowFile(write(tmp_path, LINES))) == ROWS


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 16, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_an_array_in_chunks_of_any_size(tmp_path, monkeypatch, chunk, indent, ascii_only, bom):
    """Rows, multi-byte characters, escapes and literals cross the boundaries of chunks."""
    monkeypatch.setattr(rows, "CHUNK", chunk)
    text = json.dumps(ROWS, indent=indent, ensure_ascii=ascii_only)
    file = RowFile(write(tmp_path, bom + f" \r\n{text}\n ".replace("\n", "\r\n").encode()))
    assert contents(file) == ROWS
    starts = [2] * 4 if indent is None else [number + 1 for number in (2, 6, 10, 24)]
    assert lines(file) == starts
    assert sum(file.size(index) for index in range(len(file))) <= file.path.stat().st_size


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.dictionaries(st.text(max_size=5), VALUES), min_size=1), chunk=st.integers(1, 40))
def test_any_json_output_is_read_back(tmp_path_factory, values, chunk):
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "CHUNK", chunk)
        for ascii_only in (True, False):
            text = json.dumps(values, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
            if b"\xed" in text:  # a lone surrogate cannot be written as UTF-8
                continue
            assert contents(RowFile(write(folder, text))) == values
            joined = b"\n".join(json.dumps(value, ensure_ascii=True).encode() for value in values)
            assert contents(RowFile(write(folder, joined))) == values


@pytest.mark.parametrize("chunk", [1, 4, 1 << 20])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows"),
        (" \n\n", "has no rows"),
        ("\ufeff", "has no rows"),
        ("[]", "has no rows"),
        ("\n[", r"rows.json:2: the array is not JSON: Expecting value"),
        ('[{"a": 1}', r"rows.json:1: expected ',' or '\]' after a row, found the end of the file: the array is trunc"),
        ('[{"a": 1},\n', r"rows.json:2: the array is not JSON: Expecting value"),
        ('[{"a": 1},\n]', r"rows.json:2: the array is not JSON: Expecting value"),
        ('[{"a": 1}\n{"a": 2}]', r"rows.json:2: expected ',' or '\]' after a row, found '{'"),
        ('[{"a": 1},\n\n{"a": 2', r"rows.json:3: the array is not JSON: Expecting"),
        ('[{"a": 1},\n{"a": "cut', r"rows.json:2: the array is not JSON: Unterminated string"),
        ('[{"a": 1},\n{"b": [1,\n2 3]},\n{"c": "and much more text to read after it"}]', r"rows.json:3: the array is"),
        ('[{"a": 1}]\n\n trailing', r"rows.json:3: expected the end of the file after the array, found 't'"),
        ('[{"a": 1}]]', r"expected the end of the file after the array, found '\]'"),
        ('[{"a": "line\nbreak"}]', r"rows.json:1: the array is not JSON: Invalid control character"),
        (b'[{"a": 1},\n{"b": "\xff"}]', r"rows.json:\d: the file is not UTF-8 near byte \d+"),
        (b'[{"a": "\xc3', r"the file is not UTF-8"),
        ("[" * 200_000, r"rows.json:1: the row is not JSON: maximum recursion"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, monkeypatch, chunk, content, message):
    if chunk < 1 << 20 and len(content) > 10_000:
        pytest.skip("too long to read byte by byte")
    monkeypatch.setattr(rows, "CHUNK", chunk)
    with pytest.raises(DataError, match=message):
        RowFile(write(tmp_path, content))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{'a': 1}", "the row is not JSON: Expecting property name enclosed in double quotes at character 2"),
        ('{"a": 1} {"b": 2}', "the row is not JSON: Extra data at character 10"),
        ('{"a": 1},', "the row is not JSON: Extra data"),
        ("17", "a row must be a JSON object, got int"),
        ('["a"]', "a row must be a JSON object, got list"),
        (b'{"a": "\xff"}', "the row is not JSON: .*invalid start byte"),
    ],
)
def test_a_broken_line_is_an_error_only_when_read(tmp_path, row, message):
    row = row if isinstance(row, bytes) else row.encode()
    file = RowFile(write(tmp_path, b'{"first": 1}\n\n' + row + b'\n{"last": 1}\n'))
    assert (file[0], file[2]) == ({"first": 1}, {"last": 1})
    with pytest.raises(DataError, match=r"rows.json:3: " + message):
        file[1]


def test_elements_that_are_not_objects_are_errors_only_when_read(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "CHUNK", 1)
    file = RowFile(write(tmp_path, '[1234, "text",\n{"a": 1}]'))
    assert len(file) == 3
    assert file[2] == {"a": 1}
    for index in (0, 1):
        with pytest.raises(DataError, match="rows.json:1: a row must be a JSON object"):
            file[index]


def test_an_early_error_is_found_without_reading_further(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "CHUNK", 64)
    path = write(tmp_path, '[{"a" 1},' + '{"b": 2},' * 20_000)
    tracemalloc.start()
    with pytest.raises(DataError, match="Expecting ':' delimiter"):
        RowFile(path)
    assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 2
    tracemalloc.stop()


@pytest.mark.parametrize("array", [True, False])
def test_only_offsets_stay_in_memory(tmp_path, monkeypatch, array):
    monkeypatch.setattr(rows, "CHUNK", 1 << 12)
    row = json.dumps({"text": "x" * 2_000})
    path = write(tmp_path, f"[{','.join([row] * 2_000)}]" if array else "\n".join([row] * 2_000))
    tracemalloc.start()
    file = RowFile(path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(file) == 2_000
    assert file.size(7) == pytest.approx(len(row), abs=1)
    assert peak < path.stat().st_size / 10
    assert held < 100 * len(file)


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(DataError, match="is a folder; give the file of rows in it"):
        open_rows(tmp_path)


def test_a_name_that_begins_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~rows.jsonl").write_text('{"a": 1}\n')
    assert open_rows("~rows.jsonl")[0] == {"a": 1}


def test_it_can_be_sent_to_workers(tmp_path):
    assert contents(pickle.loads(pickle.dumps(RowFile(write(tmp_path, LINES))))) == ROWS


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path, message in ((tmp_path / "nowhere.jsonl", "does not exist"), (tmp_path, "is a folder; give the file")):
        with pytest.raises(DataError, match=f"data file '.*' {message}"):
            open_rows(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n "id": 1,\n "x": [2]\n}\n{\n "id": 2\n}', r"the first JSON object spans 4 lines or more; .*jq -c \. FILE"),
        ('\ufeff\n{"data": [\n{"id": 1},\n{"id": 2}', "the first JSON object spans 3 lines or more"),
        ("video,question\na.mp4,What?\n", "does not contain rows: its first line is 'video,question'.*prepare.py"),
        (b"\x1f\x8b\x08", "is a gzip file; unpack it"),
        (b"PK\x03\x04", "is a zip file; unpack it"),
        ('{"id": 1}'.encode("utf-16"), "is not a text file in UTF-8"),
        (b"\x00\x01\x02", "is not a text file in UTF-8"),
    ],
)
def test_another_format_is_one_error_that_names_it(tmp_path, content, message):
    with pytest.raises(DataError, match=r"rows.json:? .*" + message):
        open_rows(write(tmp_path, content))


@pytest.mark.parametrize("content", ['{"a": 1\n{"b": 2}', '{"a": 1}\nx', 'x\n{"a": 1}', '{"a": "cut\n{"b": 2}\n'])
def test_a_broken_row_is_not_another_format(tmp_path, content):
    assert len(open_rows(write(tmp_path, content))) == 2


BROKEN = [
    ('{"a": ' + "9" * 5_000 + "}", "Exceeds the limit .* value has 5000 digits$"),
    ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "maximum recursion depth"),
    ('{"video": "a.mp4", "video": "b.mp4"}', "the key 'video' occurs twice in an object"),
    ('{"a": [{"b": 1, "c": 2, "b": 3}]}', "the key 'b' occurs twice in an object"),
]


@pytest.mark.parametrize(("row", "message"), BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("form", ["{}\n{}", "[{}, {}]"])
def test_a_row_that_json_cannot_hold(tmp_path, row, message, form):
    with pytest.raises(DataError, match=rf"rows.json:\d: the row is not JSON: {message}"):
        open_rows(write(tmp_path, form.format('{"id": 1}', row)))[1]


@pytest.mark.parametrize("form", ["{}\n{}", "[{}, {}]"])
def test_a_row_of_absurd_length_is_refused(tmp_path, monkeypatch, form):
    monkeypatch.setattr(tables, "MAX_ROW", 1_000)
    monkeypatch.setattr(rows, "MAX_ROW", 1_000)
    monkeypatch.setattr(rows, "CHUNK", 100)
    path = write(tmp_path, form.format('{"id": 1}', json.dumps({"text": "x" * 5_000})))
    with pytest.raises(DataError, match=r"rows.json:\d: .*(has 5,\d+ bytes; at most|more than) 1,000"):
        open_rows(path)[1]


@pytest.mark.parametrize("path", ["x" * 5_000, "~nosuchuser/rows.jsonl", "a\0b", "a\ud800b"])
def test_a_path_that_no_file_has(path):
    with pytest.raises(DataError, match="data file"):
        open_rows(path)
