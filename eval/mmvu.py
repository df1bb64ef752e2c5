"""MMVU: 1,000 exam questions in 27 subjects about videos, 625 with options and 375 open (arXiv:2501.12380).

Empty options are not shown. The official code scores both kinds with a judge. This benchmark parses letters by rule,
and scores only open questions with a judge or by containment.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from tinyvid import BENCHMARKS, DataError, Item, Message, Outcome, Sample, by_group, micro, require, suggest

from .prompts import LETTER_PROMPT, conversation, dotted
from .rows import Row, below, first_of, read_rows

ANNOTATION = "validation.json"
REMOTE = "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/"  # prefix of the paths in rows
DIRECT = "Do not generate any intermediate reasoning process."
DIRECTLY = {  # by prompt style, and whether there are options
    ("official", True): "Answer directly with the option letter from the given choices.",
    ("official", False): "Directly output the final short answer.",
    ("lmms_eval", True): "Answer directly with the option letter from the\ngiven choices.",
    ("lmms_eval", False): "Directly output the final answer.",
}
SHORT = "Answer the question directly without explanation."
KINDS = ("multiple-choice", "open-ended")
DISCIPLINES = {
    "Science": (
        "Biology", "Chemistry", "Modern_Physics", "Astronomy", "Geography", "Materials_Science", "Neurobiology",
        "Electromagnetism", "Thermodynamics", "Mechanics",
    ),
    "Engineering": (
        "Civil_Engineering", "Electrical_Engineering", "Mechanical_Engineering", "Biomedical_Engineering",
        "Electronics_and_Communication", "Computer_Science",
    ),
    "Healthcare": ("Clinical_Medicine", "Basic_Medicine", "Preventive_Medicine", "Pharmacy", "Dentistry"),
    "Humanities_and_Social_Science": ("Art", "Literature", "History", "Law", "Economics", "Management"),
}  # fmt: skip
_DISCIPLINE = {subject: discipline for discipline, subjects in DISCIPLINES.items() for subject in subjects}


@BENCHMARKS.register("mmvu")
class MMVU:
    """Ask the questions of MMVU's validation set.

    Args:
        root: Folder with ``validation.json`` and ``videos/<subject>/``.
        questions: Kind of questions to ask.
        open_rule: How to score replies to open questions: ``judge``, or ``contains`` if the reply must contain the
            words of the correct answer.
        prompt_style: ``official`` (direct answers), or the prompts of TinyLLaVA-Video or lmms-eval.

    Raises:
        DataError: The annotation is missing, or a row is malformed.
    """

    name = "mmvu"
    source = "https://huggingface.co/datasets/yale-nlp/MMVU"

    def __init__(
        self,
        *,
        root: str,
        questions: Literal["all", "multiple-choice", "open-ended"] = "all",
        open_rule: Literal["judge", "contains"] = "judge",
        prompt_style: Literal["official", "tinyllava_video", "lmms_eval"] = "official",
    ) -> None:
        self.folder = require(root, [ANNOTATION], source=self.source)
        self.open_rule, self.prompt_style = open_rule, prompt_style
        rows = read_rows(self.folder / ANNOTATION)
        self.items = [self._item(row) for row in rows if questions in ("all", row.text("question_type"))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return a question."""
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the accuracy over all questions and over each kind, in percent."""
        parts = by_group(outcomes, "question_type")
        return {"Overall": 100 * micro(outcomes)} | {kind: 100 * micro(parts[kind]) for kind in KINDS if kind in parts}

    def _item(self, row: Row) -> Item:
        kind = row.text("question_type")
        if kind not in KINDS:
            raise DataError(f"{row.where}: unknown question_type {kind!r}. {suggest(kind, KINDS)}")
        path = below(row.text("video").removeprefix(REMOTE), where=f"{row.where}: 'video'")
        choice = kind == KINDS[0]
        options = {key: text.strip() for key, text in row.mapping("choices").items() if text.strip()} if choice else {}
        return Item(
            id=row.text("id"),
            sample=Sample(
                self._prompt(row.text("question"), options), first_of(self.folder, [path]), id=row.text("id")
            ),
            rule="choice" if choice else self.open_rule,
            answer=row.letter("answer", options) if choice else row.text("answer"),
            options=options,
            groups=_groups(path, row) | {"question_type": kind},
            question=row.text("question"),
            rubric="match",
        )

    def _prompt(self, question: str, options: Mapping[str, str]) -> list[Message]:
        if self.prompt_style == "tinyllava_video":
            return conversation(
                f"{question}\n{dotted(options)}\n{LETTER_PROMPT}" if options else f"{question}\n{SHORT}"
            )
        lines = "".join(f"{letter}: {text}\n" for letter, text in options.items())
        how = DIRECTLY[self.prompt_style, bool(options)]
        if self.prompt_style == "lmms_eval":
            return conversation(f"\nQuestion:{question}\n{lines}Visual Information: processed video\n{DIRECT} {how}\n")
        return conversation(f"\nQuestion: {question}\n{lines}\n{DIRECT} {how}\n")


def _groups(path: str, row: Row) -> dict[str, str]:
    """Return subject and discipline from the folder of the video; ``metadata.subject`` is wrong in some rows."""
    folder = path.split("/")[-2] if "/" in path else ""
    if folder not in _DISCIPLINE:
        raise DataError(f"{row.where}: {path!r} is not in the folder of a subject. {suggest(folder, _DISCIPLINE)}")
    return {"discipline": _DISCIPLINE[folder].replace("_", " "), "subject": folder.replace("_", " ")}
