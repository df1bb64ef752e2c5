"""MSVD-QA, MSRVTT-QA and ActivityNet-QA: short open questions about web videos, scored by a judge as in Video-ChatGPT.

A judge decides whether a reply is correct and scores it from 0 to 5 (arXiv:2306.05424). A reply without a verdict
counts as wrong, with score 0.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from tinyvid import BENCHMARKS, DataError, Item, Outcome, Sample, micro, require
from tinyvid.files import expanded

from .prompts import conversation
from .rows import Row, below, digest, first_of, numbered, read_rows

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
WORD = " Answer the question using a single word or phrase."
TYPES = (
    "motion", "spatial relation", "temporal relation", "yes/no", "color", "object", "location", "number", "other",
)  # fmt: skip  # of ActivityNet-QA, by number
Split = Literal["train", "val", "test"]


class VideoQA:
    """Questions with short answers, scored by a judge.

    Args:
        name: Name of the benchmark.
        source: Where to download its files.
        prompt_style: Prompt style of the items.
        items: All items.
    """

    def __init__(self, *, name: str, source: str, prompt_style: str, items: Sequence[Item]) -> None:
        self.name, self.source, self.prompt_style, self.items = name, source, prompt_style, list(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return a question."""
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the accuracy in percent and the mean score from 0 to 5."""
        return accuracy_and_score(outcomes)


def accuracy_and_score(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the percentage of replies that the judge finds correct, and its mean score; no verdict scores 0."""
    scores = [outcome.points.get("score", 0.0) for outcome in outcomes if outcome.value is not None]
    return {"Accuracy": 100 * micro(outcomes), "Score": sum(scores) / len(scores)} if scores else {}


@BENCHMARKS.register("msvd_qa")
def msvd_qa(*, root: str, split: Split = "test", prompt_style: Literal["official"] = "official") -> VideoQA:
    """Ask the questions of MSVD-QA.

    Args:
        root: Folder with ``test_qa.json`` and ``videos/``, and with ``youtube_mapping.txt`` if the videos have their
            original names.
        split: Split to ask; published scores are on ``test`` or ``val``.
        prompt_style: ``official`` asks the question without instructions.
    """
    source = "https://github.com/xudejing/video-question-answering (MSVD-QA) and MSVD's YouTubeClips"
    file = expanded(root) / "youtube_mapping.txt"
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    original = {line[1]: line[0] for line in lines if len(line) == 2}
    items = _numbered_videos(root, split, source, "vid", original)
    return VideoQA(name="msvd_qa", source=source, prompt_style=prompt_style, items=items)


@BENCHMARKS.register("msrvtt_qa")
def msrvtt_qa(*, root: str, split: Split = "test", prompt_style: Literal["official"] = "official") -> VideoQA:
    """Ask the questions of MSRVTT-QA.

    Args:
        root: Folder with ``test_qa.json`` and ``videos/``.
        split: Split to ask; published scores are on ``test`` or ``val``.
        prompt_style: ``official`` asks the question without instructions.
    """
    source = "https://github.com/xudejing/video-question-answering (MSRVTT-QA) and the videos of MSR-VTT"
    items = _numbered_videos(root, split, source, "video", {})
    return VideoQA(name="msrvtt_qa", source=source, prompt_style=prompt_style, items=items)


@BENCHMARKS.register("activitynet_qa")
def activitynet_qa(
    *, root: str, split: Split = "test", prompt_style: Literal["official", "lmms_eval"] = "official"
) -> VideoQA:
    """Ask the questions of ActivityNet-QA.

    Args:
        root: Folder with ``test_q.json``, ``test_a.json`` and ``videos/``.
        split: Split to ask.
        prompt_style: ``official`` asks the question without instructions; ``lmms_eval`` asks for a word or phrase.

    Raises:
        DataError: Files are missing, or questions and answers do not match.
    """
    source = "https://github.com/MILVLG/activitynet-qa and the videos of ActivityNet"
    folder = require(root, [f"{split}_q.json", f"{split}_a.json"], source=source)
    asked, answers = read_rows(folder / f"{split}_q.json"), read_rows(folder / f"{split}_a.json")
    if len(asked) != len(answers):
        raise DataError(
            f"{folder}: {split}_q.json has {len(asked)} questions, but {split}_a.json has {len(answers)} answers; "
            "download both again"
        )
    items = []
    for row, answer in zip(asked, answers, strict=True):
        name, question = row.text("question_id"), row.text("question")
        if answer.has("question_id") and answer.text("question_id") != name:
            raise DataError(
                f"{answer.where} answers question '{answer.text('question_id')}', but the questions list '{name}' at "
                "this position; sort both files in the same order"
            )
        text = f"{question.capitalize()}?{WORD}" if prompt_style == "lmms_eval" else question
        stem = below(row.text("video_name"), where=row.where)
        path = first_of(folder / "videos", [f"{part}{stem}{suffix}" for part in ("v_", "") for suffix in SUFFIXES])
        groups = {"type": _type(answer)} if answer.has("type") else {}
        items.append(_item(name, question, answer.text("answer"), path, groups, text))
    return VideoQA(name="activitynet_qa", source=source, prompt_style=prompt_style, items=items)


def _numbered_videos(root: str, split: str, source: str, prefix: str, original: Mapping[str, str]) -> list[Item]:
    """Return the items of a set whose rows refer to videos by number or by file stem."""
    folder = require(root, [f"{split}_qa.json"], source=source)
    rows = read_rows(folder / f"{split}_qa.json")
    ids = numbered([_row_id(row) for row in rows])
    paths: dict[str, str] = {}
    items = []
    for id, row in zip(ids, rows, strict=True):
        video = below(row.text("video_id"), where=row.where)
        if video not in paths:
            known = original.get(f"{prefix}{video}")
            stems = [*([below(known, where="youtube_mapping.txt")] if known else []), f"{prefix}{video}", video]
            paths[video] = first_of(folder / "videos", [f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES])
        question = row.text("question")
        groups = {"question_word": next(iter(question.lower().split()), "")}
        items.append(_item(id, question, row.text("answer"), paths[video], groups, question))
    return items


def _item(id: str, question: str, answer: str, path: str, groups: Mapping[str, str], text: str) -> Item:
    return Item(
        id=id,
        sample=Sample(conversation(text), path, id=id),
        rule="judge",
        answer=answer,
        groups=groups,
        question=question,
        rubric="qa",
    )


def _row_id(row: Row) -> str:
    return row.text("id") if row.has("id") else f"{row.text('video_id')}/{digest(row.text('question'))}"


def _type(row: Row) -> str:
    number = row.text("type")
    return TYPES[int(number)] if number.isdecimal() and int(number) < len(TYPES) else number
