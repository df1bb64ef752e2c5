"""The record of skipped rows: it survives a kill, and a damaged line is reported."""

from dataclasses import replace

import numpy as np
import pytest

from tinyvid import DataError, Video, VideoError
from tinyvid.data.skipped import Skipped, append_skipped, file_of, read_skipped, summarize_skipped, write_skipped

ROW = Skipped("rows.jsonl:3", "/clips/a.mp4", "VideoError", "/clips/a.mp4: is empty", "pyav")


def test_a_line_that_a_kill_truncated_is_removed(tmp_path):
    path = tmp_path / "skipped.jsonl"
    append_skipped(path, [ROW])
    append_skipped(path, [replace(ROW, row="rows.jsonl:4")])
    path.write_bytes(path.read_bytes()[:-20])
    assert read_skipped(path) == {ROW.row: ROW}
    append_skipped(path, [replace(ROW, row="rows.jsonl:5")])
    assert [*read_skipped(path)] == ["rows.jsonl:3", "rows.jsonl:5"]
    write_skipped(path, [ROW])
    assert read_skipped(path) == {ROW.row: ROW}
    write_skipped(path, [])
    assert not path.exists()


@pytest.mark.parametrize(
    "line", ["x", "[]", '{"row": "a"}', '{"row": [], "file": 1, "error": 2, "reason": 3, "reader": 4}']
)
def test_a_malformed_line_is_reported(tmp_path, line):
    path = tmp_path / "skipped.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"skipped.jsonl:1 is not a skipped row: .*; remove the line"):
        read_skipped(path)


def test_a_missing_record_is_reported(tmp_path):
    with pytest.raises(
        DataError, match=r"skipped.jsonl cannot be read: No such file.*; give the skipped.jsonl of a run"
    ):
        read_skipped(tmp_path / "skipped.jsonl")


def test_the_video_of_an_error():
    videos = [Video("clips/a"), Video("clips/a b.mp4"), Video(np.zeros((1, 2, 2, 3), np.uint8))]
    assert file_of(videos, VideoError("clips/a b.mp4: is empty")) == "clips/a b.mp4"
    assert file_of(videos, VideoError("clips/a: is empty")) == "clips/a"
    assert file_of(videos, VideoError("another wording")) == "clips/a"
    assert file_of(videos, DataError("clips/a: the row is too long")) is None
    assert file_of(videos[2:], VideoError("array: is empty")) is None


def test_the_summary_counts_by_type(tmp_path):
    rows = [ROW, replace(ROW, error="DataError"), ROW]
    assert summarize_skipped(rows, 1000, tmp_path / "s.jsonl") == (
        f"3 of 1,000 rows were skipped (2 VideoError, 1 DataError); {tmp_path / 's.jsonl'} lists them. "
        "The first: /clips/a.mp4: is empty"
    )
    assert summarize_skipped([], 1000, tmp_path) == "No rows were skipped."
