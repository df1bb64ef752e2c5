"""Rows that cannot be used: any error costs one row, a skipped row is not opened again, and runs agree on them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.factories import tiny_assistant
from tests.faulty_reader import EXCEPTIONS, FaultyReader, faulty_clips
from tests.runs import load_program, settings, turns, write_rows
from tinyvid import DataError, VideoError
from tinyvid.data.datasets import RowDataset
from tinyvid.data.skipped import read_skipped, write_skipped
from tinyvid.registry import VIDEO_READERS
from tinyvid.training import DataPolicy, TrainingData

pytestmark = pytest.mark.slow

program = load_program("train")
FAULTS = [kind.__name__ for kind in EXCEPTIONS]
SKIP = ["data.on_error=skip", "data.max_skip=0.9", "video_reader=pyav", "recipe.max_steps=null"]
SKIP += ["recipe.batch_size=2", "recipe.accumulate=1", "recipe.save_every=100"]


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    """Replace the reader by one that fails, and return the names of the files that it has opened."""
    names = []

    class Counted(FaultyReader):
        def probe(self, path):
            names.append(path.name)
            return super().probe(path)

    monkeypatch.setitem(VIDEO_READERS._entries, "pyav", Counted)
    return names


def write_faulty_rows(folder, faults, count=4):
    """Write good rows and a row for each faulty clip, and return the file and the names of these clips."""
    path = write_rows(folder, count=count)
    clips = faulty_clips(folder, faults)
    bad = [{"video": clip.name, "conversations": turns("Q?", "A.")} for clip in clips]
    path.write_text("".join(json.dumps(row) + "\n" for row in bad) + path.read_text())
    return path, [str(clip) for clip in clips]


def test_any_error_of_a_reader_costs_one_row(models, tmp_path):
    rows, clips = write_faulty_rows(tmp_path / "data", FAULTS)
    how = [*SKIP, "recipe.batch_size=6", "recipe.workers=1", f"eval_path={rows}"]
    assert program.train(settings(models, rows, *how), tmp_path / "run").is_dir()
    skipped = read_skipped(tmp_path / "run" / "skipped.jsonl")
    assert sorted(row.file for row in skipped.values()) == sorted(clips)
    assert {row.row for row in skipped.values()} == {f"{rows}:{line}" for line in range(1, len(clips) + 1)}
    for row in skipped.values():
        assert (row.error, row.reader) == ("VideoError", "pyav")
        assert row.file.rpartition(" ")[2].removesuffix(".mp4") in row.reason


def test_errors_are_raised_with_their_row(processor, tmp_path):
    rows, _ = write_faulty_rows(tmp_path / "data", ["Panic"])
    processor.reader = FaultyReader()
    data = TrainingData(RowDataset(path=str(rows)), processor, DataPolicy())
    with pytest.raises(VideoError, match=r"rows.jsonl:1: .*Panic"):
        data[0]
    processor.tokenizer = None  # an error of the program, not of a file
    with pytest.raises(DataError, match=r"rows.jsonl:4: TypeError.*correct or remove the row"):
        data[3]


def test_a_long_video_is_decoded_before_the_model_reads_it(models, tmp_path):
    rows, _ = write_faulty_rows(tmp_path / "data", ["ValueError"])
    processor = tiny_assistant(models, connector="mlp").processor
    processor.reader, processor.lazy_bytes = FaultyReader(), 0
    data = TrainingData(RowDataset(path=str(rows)), processor, DataPolicy(on_error="skip"))
    assert [row.error for row in data[1]] == ["VideoError"]
    assert data[2].videos[0].lazy is not None


def test_a_listed_row_is_passed_over_without_opening_its_video(processor, tmp_path, opened):
    rows, clips = write_faulty_rows(tmp_path / "data", ["ValueError"], count=1)
    rows.write_text(rows.read_text() + "no row\n")
    processor.reader = VIDEO_READERS.build({"name": "pyav"})

    def load(**policy):
        data = TrainingData(RowDataset(path=str(rows)), processor, DataPolicy(**policy))
        return [row for items in map(data.__getitem__, range(len(data))) if isinstance(items, list) for row in items]

    found = load(on_error="skip")
    expected = [(f"{rows}:1", clips[0], "VideoError"), (f"{rows}:2", clips[1], "VideoError")]
    assert [(row.row, row.file, row.error) for row in found] == [*expected, (f"{rows}:4", None, "RowError")]
    record = tmp_path / "skipped.jsonl"
    write_skipped(record, found)
    opened.clear()
    assert load(skip_listed=str(record)) == found
    assert opened == ["clip_0.mp4"]
    good, bad, *rest = rows.read_text().splitlines()
    rows.write_text("\n".join([bad, good, *rest]))
    assert load(on_error="skip", skip_listed=str(record))[0].file == clips[1], "the rows have moved, so they are tried"
    assert opened[1:] == ["read ValueError.mp4", "probe ValueError.mp4", "clip_0.mp4"]


def test_a_crash_of_the_decoder_names_isolation(models, tmp_path):
    rows, _ = write_faulty_rows(tmp_path / "data", ["abort"], count=2)
    with pytest.raises(DataError, match=r"DataLoader worker.*set video_reader.isolate=true"):
        program.train(settings(models, rows, *SKIP, "recipe.workers=1"), tmp_path / "run")


def test_a_list_of_other_rows_is_refused(models, tmp_path):
    rows, _ = write_faulty_rows(tmp_path / "data", ["ValueError"], count=1)
    (tmp_path / "list.jsonl").write_text(
        json.dumps({"row": "other.jsonl:1", "file": None, "error": "DataError", "reason": "", "reader": "pyav"}) + "\n"
    )
    with pytest.raises(DataError, match="list.jsonl lists 1 rows, but none of them is in the data"):
        program.train(settings(models, rows, *SKIP, f"data.skip_listed={tmp_path / 'list.jsonl'}"), tmp_path / "run")


def test_a_resumed_run_skips_the_same_rows(models, tmp_path, opened):
    rows, _ = write_faulty_rows(tmp_path / "data", ["ValueError", "IndexError"])
    how = [*SKIP, "recipe.epochs=2", "recipe.save_every=4", "recipe.keep=9"]
    configuration = settings(models, rows, *how)
    program.train(configuration, tmp_path / "whole")
    assert len([name for name in opened if "Error" in name]) == 4, "a skipped row is not opened again"
    record = (tmp_path / "whole" / "skipped.jsonl").read_text()
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoint-8")
    (tmp_path / "run" / "skipped.jsonl").write_text(record[: record.index("\n") + 20])  # the second line is torn
    program.train(configuration | {"resume": True}, tmp_path / "run")
    names = [set(read_skipped(tmp_path / name / "skipped.jsonl")) for name in ("whole", "run")]
    assert names[0] == names[1]
    whole, run = (load_file(tmp_path / name / "checkpoint-8" / "trained.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(whole[key], run[key]) for key in whole)
