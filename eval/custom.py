"""Your own questions: rows in the format of ``data=jsonl``, with a correct answer. The example for new benchmarks.

A row with ``options`` and ``answer_index`` is multiple choice. Any other row gives the correct answer as its last
assistant turn or as ``answer``: a text, a number, or a list of alternatives. With ``key_frames``, a list of times in
seconds of the file, the report also says whether replies cite these frames.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tinyvid import (
    BENCHMARKS,
    CHOICE_PROMPT,
    DATASETS,
    LETTERS,
    DataError,
    Item,
    Outcome,
    Rule,
    Sample,
    lettered,
    macro,
    require,
)
from tinyvid.data.options import answers_of, options_of
from tinyvid.evaluation.scoring.references import answer_part, key_frames_of
from tinyvid.evaluation.scoring.scores import check_answers


@BENCHMARKS.register("custom")
class Custom:
    """Ask the rows of a file.

    Args:
        root: Folder of the file, and of the media if ``media_root`` is null.
        file: Name of the file in ``root``.
        media_root: Folder that media paths are relative to and must stay in; ``root`` if null.
        allowed_roots: Other folders that rows may use media from, by absolute path, ``..`` or link.
        group_by: Keys of a row by which the report groups results.
        rule: How to score replies to rows without ``answer_index``; ``rule`` in a row takes precedence.
        prompt_style: ``official`` formats options as in training on the same rows, ``bracketed`` as MVBench does.

    Raises:
        DataError: The file is missing, a row is malformed or has no answer, or two rows have the same id.
    """

    name = "custom"
    source = "you: write rows as described in recipes/README.md, one JSON object per line"

    def __init__(
        self,
        *,
        root: str,
        file: str = "rows.jsonl",
        media_root: str | None = None,
        allowed_roots: list[str] = (),  # type: ignore[assignment]
        group_by: list[str] = ("group",),  # type: ignore[assignment]
        rule: Rule = "exact",
        prompt_style: Literal["official", "bracketed"] = "official",
    ) -> None:
        folder = require(root, [file], source=self.source)
        media = {"media_root": media_root or str(folder), "allowed_roots": list(allowed_roots)}
        self.rows = DATASETS.build({"name": "jsonl", "path": str(folder / file), **media}, key="benchmark")
        self.group_by = list(group_by)
        self.rule = rule
        self.prompt_style = prompt_style
        counts = Counter(self[index].id for index in range(len(self)))
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise DataError(f"{folder / file}: several rows have the ids {twice[:8]}; make ids unique")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        """Return a row as an item."""
        where, sample = self.rows.where(index), self.rows[index]
        if sample.id == where:  # without an id, name the row by its line, independent of the folder
            sample = replace(sample, id=Path(where).name)
        groups = {key: str(sample.meta[key]) for key in self.group_by if sample.meta.get(key) is not None}
        make = _open if sample.meta.get("answer_index") is None else _choice
        try:
            rule = self.rule if sample.meta.get("rule") is None else sample.meta["rule"]
            item = make(sample, rule, groups)
            check_answers(item)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        return _bracketed(item) if self.prompt_style == "bracketed" and item.rule == "choice" else item

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the mean accuracy over groups for each key in ``group_by``, in percent."""
        kinds = [kind for kind in self.group_by if any(kind in outcome.groups for outcome in outcomes)]
        return {f"mean over {kind}": 100 * macro(outcomes, kind) for kind in kinds}


def _choice(sample: Sample, rule: str, groups: Mapping[str, str]) -> Item:
    """Return a multiple-choice item; for rows without a reply, the parser has appended the options and the letter."""
    *asked, reply = sample.messages
    if reply.role != "assistant":
        raise DataError("the row has 'answer_index', but its last question has no reply and no 'options'")
    options = options_of(sample.meta)
    written = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return Item(
        id=sample.id,
        sample=replace(sample, messages=asked),
        answer=LETTERS[sample.meta["answer_index"]],
        options=lettered(options),
        groups=groups,
        question=asked[-1].text.removesuffix("\n".join(["", *written, CHOICE_PROMPT])),
    )


def _open(sample: Sample, rule: Any, groups: Mapping[str, str]) -> Item:
    """Return an item whose answer is the row's last reply, or its ``answer``."""
    *asked, last = sample.messages
    replied = last.role == "assistant"
    messages = asked if replied else sample.messages
    answers = (last.text,) if replied else answers_of(sample.meta)
    item = Item(
        id=sample.id,
        sample=replace(sample, messages=messages),
        rule=rule,
        answer=answers[0],
        alternatives=answers[1:],
        options={str(option): str(option) for option in sample.meta.get("options") or ()},
        groups=groups,
        question=messages[-1].text,
    )
    # The reply of a row with key frames is a trace that ends with the answer.
    return replace(item, answer=answer_part(answers[0], rule).strip()) if key_frames_of(item) else item


def _bracketed(item: Item) -> Item:
    """Rewrite a multiple-choice item in MVBench's format, including the start of the reply."""
    *before, last = item.sample.messages
    options = [f"({letter}) {text}" for letter, text in item.options.items()]
    text = "\n".join([f"Question: {item.question}", "Options:", *options, "Only give the best option."])
    places = tuple(place + len("Question: ") for place in last.places)
    messages = [*before, replace(last, text=text, places=places)]
    return replace(item, sample=replace(item.sample, messages=messages), prefix="Best option:(")
