"""Export a run for VLMEvalKit's scorers (https://github.com/open-compass/VLMEvalKit, ``vlmeval/dataset``).

VLMEvalKit is not needed here. It cannot be installed with tinyvid, because its omegaconf conflicts with Hydra's. A file
contains, for each question, the columns that the scorer reads, and the model's reply as ``prediction``.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvid.data.options import LETTERS
from tinyvid.errors import ConfigError, DataError
from tinyvid.evaluation.annotations import build_benchmark
from tinyvid.evaluation.items import Benchmark, Item, Outcome
from tinyvid.evaluation.reporting.predictions import ROWS, read_outcomes
from tinyvid.evaluation.reporting.report import Report
from tinyvid.files import expanded
from tinyvid.outputs import write_text

# VLMEvalKit's letter for "none of the options". Some of its scorers count an empty text, or its text for failures, as a
# correct answer.
NO_REPLY = "Z"
# Texts that pandas reads as missing values, which VLMEvalKit's MVBench scorer counts as correct answers.
MISSING = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
SECONDS = {"(8s, 15s]": 15, "(15s, 60s]": 60, "(180s, 600s]": 600, "(900s, 3600s]": 3600}  # ranges of LongVideoBench


@dataclass(frozen=True, slots=True)
class Table:
    """A data set of VLMEvalKit.

    Attributes:
        dataset: Its name in VLMEvalKit.
        row: Returns the columns of an item.
        suffix: File suffix that the scorer reads.
    """

    dataset: str
    row: Callable[[Item], dict[str, Any]]
    suffix: str = "tsv"


def export_run(folder: str | Path, out: str | Path, *, model: str) -> Path:
    """Write a finished run of ``eval.py`` to ``<out>/<model>_<dataset>.tsv`` (``.xlsx`` for MLVU).

    Args:
        folder: Folder of the run. The benchmark's annotation must not have moved.
        out: Folder of the exported file.
        model: Name of the model in the file name.

    Raises:
        ConfigError: The model's name is not a file name, or there is no scorer for the benchmark with its options.
        DataError: The folder does not contain a finished run of a whole benchmark, or the questions have changed.
    """
    report = Report.load(folder)
    if not model or Path(model).name != model:
        raise ConfigError(f"name={model!r} becomes part of a file name; choose a name without folders")
    options = report.data["settings"].get("options")
    if not options:
        raise DataError(f"{report.folder} does not record the options of its benchmark; run it with python eval.py")
    if report.data.get("blind"):
        raise DataError(
            f"{report.folder} shows {report.data['blind']} in place of the clips; export a run with "
            "benchmark.blind=null"
        )
    table = _table(report.data["benchmark"], options)
    outcomes = {outcome.id: outcome for outcome in read_outcomes(report.folder / ROWS)}
    rows = rows_of(table, build_benchmark(options), outcomes, where=str(report.folder))
    path = expanded(out) / f"{model}_{table.dataset}.{table.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    (_write_xlsx if table.suffix == "xlsx" else _write_tsv)(path, rows)
    return path


def rows_of(table: Table, benchmark: Benchmark, outcomes: Mapping[str, Outcome], *, where: str) -> list[dict[str, Any]]:
    """Return the rows of a table, in the order of the benchmark.

    Raises:
        DataError: Items are missing, or VLMEvalKit would misread the file.
    """
    items = [benchmark[index] for index in range(len(benchmark))]
    missing = [item.id for item in items if item.id not in outcomes]
    if missing or len(outcomes) != len(items):
        raise DataError(
            f"{where} has {len(outcomes):,} rows for the {len(items):,} items of benchmark '{benchmark.name}', and "
            f"{len(missing):,} are missing; VLMEvalKit scores whole data sets, so run the benchmark without limit="
        )
    rows = [
        {"index": index, **table.row(item), "prediction": prediction_of(outcomes[item.id])}
        for index, item in enumerate(items)
    ]
    for column in ("answer", "prediction"):
        if all(_is_number(row[column]) for row in rows):  # pandas would convert them to numbers, which equal no option
            raise DataError(
                f"{where}: every {column} is a number, which VLMEvalKit does not compare as text, so it cannot score "
                "this run"
            )
    return rows


def prediction_of(outcome: Outcome) -> str:
    """Return the prediction for the scorer: the reply, the letter with the highest likelihood, or ``NO_REPLY``."""
    reply = outcome.prediction if outcome.likelihoods else outcome.reply
    if reply is None or not reply.strip():
        return NO_REPLY
    return f"{reply}." if reply in MISSING else reply


def _table(name: str, options: Mapping[str, Any]) -> Table:
    """Return the table of a benchmark with its options.

    Raises:
        ConfigError: There is no table for it.
    """
    if name == "videomme":
        return Table("Video-MME", _videomme)
    if name == "mvbench":
        return Table("MVBench_MP4" if options.get("revision") == "video" else "MVBench", _mvbench)
    if name == "longvideobench" and options.get("split", "val") == "val":
        return Table("LongVideoBench", _longvideobench)
    choices = options.get("tasks", "choice") == "choice" and options.get("packing", "official") == "official"
    if name == "mlvu" and choices:
        return Table("MLVU_MCQ", _mlvu, suffix="xlsx")
    raise ConfigError(
        f"benchmark '{name}' with these options cannot be exported for VLMEvalKit; run videomme, mvbench, "
        "longvideobench (split=val) or mlvu (packing=official, tasks=choice)"
    )


def _videomme(item: Item) -> dict[str, Any]:
    stem = Path(str(item.sample.videos[0])).stem
    return {
        "video": stem,
        "video_path": f"./video/{stem}.mp4",
        "duration": item.groups["duration"],
        "domain": item.groups["domain"],
        "candidates": [f"{letter}. {text}" for letter, text in item.options.items()],
        "sub_category": item.groups["sub_category"],
        "task_type": item.groups["task"],
        "question": item.question,
        "answer": item.answer,
    }


def _mvbench(item: Item) -> dict[str, Any]:
    return {"task_type": item.groups["task"], **_worded(item)}


def _mlvu(item: Item) -> dict[str, Any]:
    task = item.groups["task"]
    # VLMEvalKit calls this task by the name of its file.
    return {"task_type": "needle" if task == "findNeedle" else task, **_worded(item)}


def _longvideobench(item: Item) -> dict[str, Any]:
    length = item.groups["duration_group"]
    return {
        "video": Path(str(item.sample.videos[0])).stem,
        "question": item.question,
        "candidates": list(item.options.values()),
        "question_category": item.groups["category"],
        "duration_group": SECONDS.get(length, length),
        "correct_choice": LETTERS.index(str(item.answer)),
        "answer": item.answer,
    }


def _worded(item: Item) -> dict[str, Any]:
    """Return the columns of data sets whose answers are texts, which the scorer compares with the candidates."""
    if "".join(item.options) != LETTERS[: len(item.options)]:
        raise DataError(f"item '{item.id}' has the options {list(item.options)}; VLMEvalKit needs letters without gaps")
    return {
        "video": Path(str(item.sample.videos[0])).name,
        "question": item.question,
        "answer": item.options[str(item.answer)],
        "candidates": list(item.options.values()),
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    write_text(path, text.getvalue())


def _write_xlsx(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    except ImportError as error:
        raise ConfigError("this scorer reads only .xlsx, which needs openpyxl; run pip install openpyxl") from error
    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(list(rows[0]))
    for row in rows:
        cells = []
        for value in row.values():
            text = value if isinstance(value, int) else ILLEGAL_CHARACTERS_RE.sub("", str(value))
            cells.append(WriteOnlyCell(sheet, value=text))
            if isinstance(text, str):
                cells[-1].data_type = "s"  # a reply that begins with "=" is not a formula
        sheet.append(cells)
    partial = path.with_name(f".{path.name}.partial")
    book.save(partial)
    partial.replace(path)
