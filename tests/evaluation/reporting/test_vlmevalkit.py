"""Exports for VLMEvalKit's scorers: columns, values that they would misread, and errors."""

import ast
import csv
import importlib.util
import json
from dataclasses import asdict

import pytest

from tests.benchmark_files import build, touch, write_json, write_parquet
from tests.runs import load_program
from tinyvid import ConfigError, DataError, Outcome
from tinyvid.evaluation.reporting.report import write_report
from tinyvid.evaluation.reporting.vlmevalkit import MISSING, NO_REPLY, export_run, prediction_of

LETTERED = ["A. Apples.", "B. Candles.", "C. Berries.", "D. None of them."]


def videomme(root):
    row = {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Law",
        "url": "https://example.org",
        "videoID": "yt001",
        "task_type": "Counting Problem",
        "options": LETTERED,
        "answer": "C",
    }
    rows = [row | {"question_id": f"001-{number}", "question": f'How\tmany "of {number}"?'} for number in (1, 2, 3)]
    write_parquet(root / "videomme/test-00000-of-00001.parquet", rows)
    touch(root / "data/yt001.mp4")


def mvbench(root):
    rows = [
        {"video": f"{number}.mp4", "question": "What moves?", "candidates": ["a dog", "3", "a cat"], "answer": answer}
        for number, answer in enumerate(["a cat", "3", "a dog"])
    ]
    write_json(root / "json/moving_count.json", rows)


def mlvu(root, task="findNeedle"):
    for file in ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning"):
        row = {"video": "v.mp4", "duration": 9, "question": "Color?", "candidates": ["Red", "Blue", "Green", "White"]}
        task = "findNeedle" if file == "2_needle" else file[2:]
        write_json(root / f"json/{file}.json", [row | {"answer": "Blue", "question_type": task}])


def longvideobench(root):
    row = {
        "video_id": "v",
        "video_path": "v.mp4",
        "subtitle_path": "v.json",
        "question": "Who?",
        "candidates": ["he", "she"],
        "correct_choice": 1,
        "duration": 12.0,
        "duration_group": 15,
        "question_category": "S2E",
        "topic_category": "KG",
        "level": "L1-Perception",
        "starting_timestamp_for_subtitles": 0.0,
    }
    write_json(root / "lvb_val.json", [row | {"id": "v_0"}, row | {"id": "v_1", "duration_group": 600}])


def write_run(folder, options, replies, **changes):
    """Write the folder of a finished run with these replies; ``None`` for a failed video."""
    benchmark = build(**options)
    items = [benchmark[index] for index in range(len(replies))]
    outcomes = [
        Outcome(
            item.id,
            "answered" if reply is not None else "media_failed",
            0.0,
            reply=reply,
            prediction=reply,
            answer=item.answer,
            groups=item.groups,
            **changes,
        )
        for item, reply in zip(items, replies, strict=True)
    ]
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))
    settings = {"options": options | {"root": str(options["root"])}}
    write_report(folder, benchmark, items, outcomes, settings)
    return folder


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.slow
def test_videomme(tmp_path):
    videomme(tmp_path / "data")
    run = write_run(tmp_path / "run", {"name": "videomme", "root": tmp_path / "data"}, ["C", None, "Two\nlines\tC"])
    path = export_run(run, tmp_path / "out", model="mine")
    assert path == tmp_path / "out/mine_Video-MME.tsv"
    rows = read(path)
    assert [row["prediction"] for row in rows] == ["C", NO_REPLY, "Two\nlines\tC"]
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert rows[0] | {"index": "", "prediction": ""} == {
        "index": "",
        "video": "yt001",
        "video_path": "./video/yt001.mp4",
        "duration": "short",
        "domain": "Knowledge",
        "candidates": str(LETTERED),
        "sub_category": "Law",
        "task_type": "Counting Problem",
        "question": 'How\tmany "of 1"?',
        "answer": "C",
        "prediction": "",
    }


def test_mvbench_states_answers_as_texts(tmp_path):
    mvbench(tmp_path)
    options = {"name": "mvbench", "root": tmp_path, "tasks": ["moving_count"]}
    path = export_run(write_run(tmp_path / "run", options, ["C) a cat", "", "None"]), tmp_path, model="mine")
    rows = read(path)
    assert path.name == "mine_MVBench.tsv"
    assert [row["prediction"] for row in rows] == ["C) a cat", NO_REPLY, "None."]
    assert [row["answer"] for row in rows] == ["a cat", "3", "a dog"]
    assert all(row["answer"] in ast.literal_eval(row["candidates"]) for row in rows)
    assert {row["task_type"] for row in rows} == {"Moving Count"}


def counts_as_right(reply, answer):
    """Return how VLMEvalKit scores MVBench for an answer such as "(A) a dog", before asking a judge."""
    said, right = reply.lower().split(" ")[0], answer.lower().split(" ")[0]
    return said.replace(".", "") in right or right in said


@pytest.mark.parametrize("reply", ["C", "C) a cat", "(C) a cat", "C."])
def test_a_right_reply_counts(reply):
    assert counts_as_right(prediction_of(Outcome("1", "answered", 1.0, reply=reply)), "(C) a cat")


@pytest.mark.parametrize("reply", [None, "", " \n", "B", "None"])
def test_no_reply_counts_as_wrong(reply):
    assert not counts_as_right(prediction_of(Outcome("1", "unparsed", 0.0, reply=reply)), "(C) a cat")
    assert counts_as_right("", "(C) a cat")  # why an empty text must not be written


@pytest.mark.slow
def test_longvideobench_states_answers_as_numbers(tmp_path):
    longvideobench(tmp_path)
    options = {"name": "longvideobench", "root": tmp_path, "subtitles": False}
    rows = read(export_run(write_run(tmp_path / "run", options, ["B", "A"]), tmp_path, model="mine"))
    assert [(row["correct_choice"], row["duration_group"], row["question_category"]) for row in rows] == [
        ("1", "15", "S2E"),
        ("1", "600", "S2E"),
    ]


def test_likelihoods_export_the_letter_they_chose():
    assert prediction_of(Outcome("1", "answered", 1.0, prediction="B", likelihoods={"A": -2.0, "B": -1.0})) == "B"


@pytest.mark.parametrize("reply", sorted(MISSING))
def test_no_reply_is_read_as_a_missing_value(reply):
    assert prediction_of(Outcome("1", "unparsed", 0.0, reply=reply)) not in MISSING


@pytest.mark.slow
def test_what_vlmevalkit_would_misread_is_refused(tmp_path):
    mvbench(tmp_path)
    options = {"name": "mvbench", "root": tmp_path, "tasks": ["moving_count"]}
    with pytest.raises(DataError, match="every prediction is a number"):
        export_run(write_run(tmp_path / "run", options, ["1", "2", "3"]), tmp_path, model="mine")
    write_json(tmp_path / "json/moving_count.json", [])
    row = {"video": "0.mp4", "question": "How many?", "candidates": ["1", "3"], "answer": "3"}
    write_json(tmp_path / "json/moving_count.json", [row])
    with pytest.raises(DataError, match="every answer is a number"):
        export_run(write_run(tmp_path / "other", options, ["B"]), tmp_path, model="mine")


@pytest.mark.slow
def test_part_of_a_benchmark_is_refused(tmp_path):
    videomme(tmp_path)
    run = write_run(tmp_path / "run", {"name": "videomme", "root": tmp_path}, ["C", "C"])
    with pytest.raises(DataError, match=r"2 rows for the 3 items of benchmark 'videomme', and 1 are missing"):
        export_run(run, tmp_path, model="mine")


@pytest.mark.slow
def test_other_benchmarks_are_refused(tmp_path):
    mlvu(tmp_path)
    options = {"name": "mlvu", "root": tmp_path}
    run = write_run(tmp_path / "run", options, ["B"] * 7)
    report = json.loads((run / "report.json").read_text())
    for settings in ({"packing": "test"}, {"tasks": "all"}):
        report["settings"]["options"] = {"name": "mlvu", "root": str(tmp_path), **settings}
        (run / "report.json").write_text(json.dumps(report))
        with pytest.raises(ConfigError, match="benchmark 'mlvu' with these options cannot be exported"):
            export_run(run, tmp_path, model="mine")
    with pytest.raises(ConfigError, match="becomes part of a file name"):
        export_run(run, tmp_path, model="a/b")
    (run / "report.json").write_text(json.dumps(report | {"blind": "black"}))
    with pytest.raises(DataError, match="shows black in place of the clips; export a run with benchmark.blind=null"):
        export_run(run, tmp_path, model="mine")
    del report["settings"]["options"]
    (run / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match="does not record the options of its benchmark"):
        export_run(run, tmp_path, model="mine")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openpyxl") is not None, reason="openpyxl is installed")
def test_mlvu_reports_the_missing_package(tmp_path):
    mlvu(tmp_path)
    run = write_run(tmp_path / "run", {"name": "mlvu", "root": tmp_path}, ["B"] * 7)
    with pytest.raises(ConfigError, match="pip install openpyxl"):
        export_run(run, tmp_path, model="mine")


def test_mlvu_is_a_workbook(tmp_path):
    pytest.importorskip("openpyxl")
    pandas = pytest.importorskip("pandas")
    mlvu(tmp_path)
    replies = ["B) Blue", "=1+1", "bell\x07", "None", None, "", "B"]
    run = write_run(tmp_path / "run", {"name": "mlvu", "root": tmp_path}, replies)
    path = export_run(run, tmp_path, model="mine")
    assert path.name == "mine_MLVU_MCQ.xlsx"
    table = pandas.read_excel(path)
    assert list(table["prediction"]) == ["B) Blue", "=1+1", "bell", "None.", NO_REPLY, NO_REPLY, "B"]
    assert list(table["index"]) == list(range(7))
    assert table["task_type"][1] == "needle"
    assert all(
        answer in ast.literal_eval(texts) for answer, texts in zip(table["answer"], table["candidates"], strict=True)
    )


def test_pandas_reads_the_table_as_it_was_written(tmp_path):
    pandas = pytest.importorskip("pandas")
    videomme(tmp_path / "data")
    replies = ["null", None, 'quoted "C",\n\tand more']
    run = write_run(tmp_path / "run", {"name": "videomme", "root": tmp_path / "data"}, replies)
    table = pandas.read_csv(export_run(run, tmp_path, model="mine"), sep="\t")
    assert list(table["prediction"]) == ["null.", NO_REPLY, 'quoted "C",\n\tand more']
    assert not table.isna().any().any()
    assert list(table["index"]) == [0, 1, 2]


@pytest.mark.slow
def test_the_program(tmp_path, capsys, monkeypatch):
    videomme(tmp_path / "data")
    run = write_run(tmp_path / "a run", {"name": "videomme", "root": tmp_path / "data"}, ["C", "C", "A"])
    program = load_program("export_vlmevalkit")
    arguments = ["export_vlmevalkit.py", f"run={run}", "name=my model (1)", f"out={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", [*arguments])
    program.run_hydra(program.main, config="export_vlmevalkit")
    assert (tmp_path / "out/my model (1)_Video-MME.tsv").is_file()
    assert "Wrote" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", arguments[:2])
    with pytest.raises(SystemExit):
        program.run_hydra(program.main, config="export_vlmevalkit")
    assert "name= is missing" in capsys.readouterr().err
