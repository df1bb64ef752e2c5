"""A file or an item that fails costs its items, not the report, and a second run can pass over it."""

from dataclasses import replace

import pytest

from tests.evaluation.running.test_runner import SHORT, Fixed, ask
from tests.factories import tiny_assistant
from tests.faulty_reader import EXCEPTIONS, FaultyReader, faulty_clips
from tests.questions import read_rows
from tinyvid import DataError, evaluate
from tinyvid.data.skipped import read_skipped

pytestmark = pytest.mark.slow


@pytest.fixture
def faulty(assistant):
    assistant.processor.reader = FaultyReader()
    return assistant


@pytest.mark.parametrize("workers", [0, 1])
def test_any_error_of_a_reader_costs_its_items(faulty, tmp_path, monkeypatch, workers):
    clips = faulty_clips(tmp_path, [kind.__name__ for kind in EXCEPTIONS])
    items = [ask(path.stem, path) for path in (*clips, tmp_path / "intact.mp4")]
    options = replace(SHORT, workers=workers)
    report = evaluate(faulty, Fixed(items), run_dir=tmp_path / "run", options=options)
    data = report.data
    assert (data["n_total"], data["n_media_failed"], data["n_prompt_failed"]) == (len(items), len(clips), 0)
    for entry in data["media_failed"]:
        assert entry["id"].partition(" ")[2] in entry["reason"]
    record = tmp_path / "run" / "skipped.jsonl"
    listed = read_skipped(record)
    assert [(row.row, row.file) for row in listed.values()] == [(path.stem, str(path)) for path in clips]
    assert {(row.error, row.reader) for row in listed.values()} == {("VideoError", "pyav")}
    assert f"{record} lists the items that were not asked." in report.text()

    opened = []
    probe = FaultyReader.probe
    monkeypatch.setattr(FaultyReader, "probe", lambda self, path: opened.append(path.name) or probe(self, path))
    options = replace(options, skip_listed=str(record))
    again = evaluate(faulty, Fixed(items), run_dir=tmp_path / "again", options=options)
    assert set(opened) == {"intact.mp4"}
    assert again.data["media_failed"] == data["media_failed"]
    with pytest.raises(DataError, match="lists 14 items, but none of them is asked in this run of benchmark 'fixed'"):
        evaluate(faulty, Fixed(items[-1:]), run_dir=tmp_path / "other", options=options)


def test_an_item_that_cannot_be_laid_out_costs_itself(faulty, tmp_path):
    (clip,) = faulty_clips(tmp_path, ["warning"], moments=["probe"])

    class Timed(Fixed):
        def sample(self, item, times):
            return {}[item.id] if item.id == "odd" else item.sample

    items = [ask("odd", clip), ask("word " * 2000, clip), ask("fine", clip)]
    report = evaluate(faulty, Timed(items), run_dir=tmp_path / "run", options=SHORT)
    assert (report.data["n_total"], report.data["n_media_failed"], report.data["n_prompt_failed"]) == (3, 0, 2)
    reasons = [entry["reason"] for entry in report.data["prompt_failed"]]
    assert "item 'odd': KeyError: 'odd'" in reasons[0]
    assert "exceed the limit llm.max_length" in reasons[1]
    assert [row["status"] for row in read_rows(tmp_path / "run")][:2] == ["prompt_failed"] * 2
    assert "prompt failed (counted wrong): 2" in (tmp_path / "run" / "report.md").read_text()
    assert {row.file for row in read_skipped(tmp_path / "run" / "skipped.jsonl").values()} == {None}


def test_a_long_video_that_fails_while_the_model_reads_it_costs_its_items(models, tmp_path):
    assistant = tiny_assistant(models, connector="mlp")
    assistant.processor.reader, assistant.processor.lazy_bytes = FaultyReader(), 0
    (clip,) = faulty_clips(tmp_path, ["ValueError"], moments=["read"])
    items = [ask("first", tmp_path / "intact.mp4"), ask("bad", clip), ask("text")]
    report = evaluate(assistant, Fixed(items), run_dir=tmp_path / "run", options=SHORT)
    assert [entry["id"] for entry in report.data["media_failed"]] == ["bad"]
    assert report.data["n_total"] == 3
