"""MLVU: seven multiple-choice and two writing tasks about videos of 3 minutes to 2 hours (arXiv:2406.04264).

Supports three packings: the official one (``json/`` and ``video/``, all nine tasks), and lmms-eval's packings of the
dev set and the test set, whose question texts include up to six options.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tinyvid import (
    BENCHMARKS,
    ConfigError,
    DataError,
    Item,
    Message,
    Outcome,
    Sample,
    by_group,
    lettered,
    macro,
    micro,
    require,
)
from tinyvid.files import expanded

from .prompts import BEST_OPTION, LETTER_PROMPT, bracketed, conversation
from .rows import Row, digest, first_of, numbered, read_rows

WATCH = "Carefully watch this video and pay attention to every detail. Based on your observations, "
CHOOSE = f"{WATCH}select the best option that accurately addresses the question."
WRITE = f"{WATCH}answer the given questions."
CHOICE_FILES = (
    "1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning",
)  # fmt: skip
WRITING = {"8_sub_scene": "mlvu_sub_scene", "9_summary": "mlvu_summary"}  # file to rubric
_BRACKETED = re.compile(r"(?:^|\n)\s*(?:Options?:\s*\n\s*)?\(A\)")
_LETTER = re.compile(r"\s*\(?([A-Z])[.)]\s*")


@BENCHMARKS.register("mlvu")
class MLVU:
    """Ask the questions of MLVU.

    Args:
        root: Folder with ``json/`` and ``video/``, or with the parquet file and the videos.
        packing: ``official``, or ``dev`` or ``test`` as repacked by lmms-eval.
        tasks: ``choice``; ``writing`` for sub-scene captioning and summary, which need a judge and the official
            packing; or ``all``.
        prompt_style: ``official``, or the prompts of TinyLLaVA-Video or lmms-eval.

    Raises:
        DataError: Annotation files are missing, or a row is malformed.
        ConfigError: The packing has no writing tasks.
    """

    name = "mlvu"
    source = (
        "https://huggingface.co/datasets/MLVU/MVLU (folder MLVU; packing=official), sy1998/MLVU_dev (packing=dev), "
        "sy1998/MLVU_Test (packing=test)"
    )

    def __init__(
        self,
        *,
        root: str,
        packing: Literal["official", "dev", "test"] = "official",
        tasks: Literal["choice", "writing", "all"] = "choice",
        prompt_style: Literal["official", "tinyllava_video", "lmms_eval"] = "official",
    ) -> None:
        if tasks != "choice" and packing != "official":
            raise ConfigError(
                f"benchmark.tasks={tasks}: packing={packing} has no writing tasks; choose benchmark.packing=official"
            )
        self.packing, self.prompt_style = packing, prompt_style
        self.folder = expanded(root)
        if packing == "official":
            files = [*(CHOICE_FILES if tasks != "writing" else ()), *(WRITING if tasks != "choice" else ())]
            require(root, [f"json/{file}.json" for file in files], source=self.source)
            found = [(file, row) for file in files for row in read_rows(self.folder / f"json/{file}.json")]
        else:
            found = [("", row) for row in read_rows(_parquet(root, self.source))]
        names = numbered([_id(row) for _, row in found])
        self.items = [self._item(name, *rest) for name, rest in zip(names, found, strict=True)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return a question."""
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return M-Avg, the mean accuracy over choice tasks in percent, and G-Avg, in points of 10.

        ``Micro`` is the mean over questions, which some papers call M-Avg. A reply without a verdict scores 0 points.
        """
        written = by_group([o for o in outcomes if o.groups["kind"] == "writing"], "task")
        chosen = [o for o in outcomes if o.groups["kind"] == "choice"]
        averages = {"M-Avg": 100 * macro(chosen, "task"), "Micro": 100 * micro(chosen)} if chosen else {}
        if written:
            points = {task: sum(sum(o.points.values()) for o in part) / len(part) for task, part in written.items()}
            averages |= {f"G-{task}": value for task, value in points.items()}
            averages["G-Avg"] = sum(points.values()) / len(points)
        return averages

    def files(self, outcomes: Sequence[Outcome]) -> Mapping[str, str]:
        """Return the submission file of the test server; an unparsed reply has an empty option."""
        if self.packing != "test":
            return {}
        rows = [
            {"question_id": o.id, "question_type": o.groups["task"], "option": o.prediction or ""} for o in outcomes
        ]
        return {"mlvu_test_results.json": json.dumps(rows, indent=1)}

    def _item(self, name: str, file: str, row: Row) -> Item:
        if file in WRITING:
            return self._writing(name, file, row)
        packed = self.packing != "official"
        options = lettered(_without_letters(row.texts("candidates")))
        question = _bare(row.text("question")) if packed else row.text("question")
        path = row.path("video_name" if packed else "video")
        places = [path, f"video/{path}", f"videos/{path}"] if packed else [f"video/{file}/{path}"]
        asked = row.text("question") if packed else f"{question}\n{bracketed(options)}"
        return Item(
            id=name,
            sample=Sample(self._prompt(question, options, asked), first_of(self.folder, places), id=name),
            answer=row.letter("answer", options) if packed else row.letter_of("answer", options),
            options=options,
            groups={"task": row.text("task_type" if packed else "question_type"), "kind": "choice"},
            prefix="Best Option: (" if self.prompt_style == "official" else "",
            question=question,
        )

    def _writing(self, name: str, file: str, row: Row) -> Item:
        points = row.texts("scoring_points") if row.has("scoring_points") else []
        answer = [row.text("answer")] if row.has("answer") else []
        if not points and not answer:
            raise DataError(f"{row.where}: the row has neither 'answer' nor 'scoring_points'; the judge needs one")
        system = WRITE if self.prompt_style == "official" else ""
        return Item(
            id=name,
            sample=Sample(
                conversation(row.text("question"), system=system),
                first_of(self.folder, [f"video/{file}/{row.path('video')}"]),
                id=name,
            ),
            rule="judge",
            answer="\n".join([*answer, *(f"Scoring point: {point}" for point in points)]),
            groups={"task": row.text("question_type"), "kind": "writing"},
            question=row.text("question"),
            rubric=WRITING[file],
        )

    def _prompt(self, question: str, options: Mapping[str, str], asked: str) -> list[Message]:
        if self.prompt_style == "tinyllava_video":
            return conversation(f"{question}\n{bracketed(options)}\n{LETTER_PROMPT}")
        if self.prompt_style == "lmms_eval":  # its test prompt ends with the question
            return conversation(asked if self.packing == "test" else f"{asked}\n{BEST_OPTION}\nBest option: (")
        return conversation(f"Question: {question}\nOptions:\n{bracketed(options)}\n{BEST_OPTION}", system=CHOOSE)


def _parquet(root: str, source: str) -> Path:
    """Find the annotation file of a repacked set."""
    folder = expanded(root)
    found = sorted([*folder.glob("data/test-*.parquet"), *folder.glob("test-*.parquet")])
    if len(found) > 1:
        raise DataError(f"{folder} contains several annotation files: {', '.join(map(str, found))}; keep only one")
    return found[0] if found else require(root, ["data/test-00000-of-00001.parquet"], source=source)


def _id(row: Row) -> str:
    if row.has("question_id"):
        return row.text("question_id")
    asked = digest(row.text("question"), row.values.get("candidates"))
    return f"{row.text('question_type')}/{row.text('video')}/{asked}"


def _bare(question: str) -> str:
    """Return the question without the options in its text."""
    options = _BRACKETED.search(question)
    return (question[: options.start()] if options else question).removeprefix("Question:").strip()


def _without_letters(texts: Sequence[str]) -> list[str]:
    """Strip the letters from options if each one starts with its own letter."""
    found = [_LETTER.match(text) for text in texts]
    if all(match and ord(match[1]) - ord("A") == place for place, match in enumerate(found)):
        return [text[match.end() :] for text, match in zip(texts, found, strict=True) if match]
    return list(texts)
