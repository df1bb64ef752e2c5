"""Your own questions: rows in the format of ``data=jsonl``, with a correct answer. The example for new benchmarks.

A row with ``options`` and ``answer_index`` is multiple choice. Any other row gives the correct answer as its last
assistant turn or as ``answer``.
"""

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
    Message,
    Outcome,
    Rule,
    Sample,
    lettered,
    macro,
    require,
)


@BENCHMARKS.register("custom")
class Custom:
    """Ask the rows of a file.

    Args:
        root: Folder of the file, and of the media if ``media_root`` is null.
        file: Name of the file in ``root``.
        media_root: Folder that media paths are relative to; ``root`` if null.
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
        group_by: list[str] = ("group",),  # type: ignore[assignment]
        rule: Rule = "exact",
        prompt_style: Literal["official", "bracketed"] = "official",
    ) -> None:
        folder = require(root, [file], source=self.source)
        self.rows = DATASETS.build(
            {"name": "jsonl", "path": str(folder / file), "media_root": media_root or str(folder)}, key="benchmark"
        )
        self.group_by = list(group_by)
        self.rule = rule
        self.prompt_style = prompt_style
        ids = [self[index].id for index in range(len(self))]
        twice = {name for name in ids if ids.count(name) > 1} if len(set(ids)) < len(ids) else set()
        if twice:
            raise DataError(f"{folder / file}: several rows have the ids {sorted(twice)[:8]}; make ids unique")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        """Return a row as an item."""
        where, sample = self.rows.where(index), self.rows[index]
        if sample.id == where:  # without an id, name the row by its line, independent of the folder
            sample = replace(sample, id=Path(where).name)
        groups = {key: str(sample.meta[key]) for key in self.group_by if key in sample.meta}
        make = _choice if "answer_index" in sample.meta else _open
        try:
            item = make(sample, sample.meta.get("rule", self.rule), groups)
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
        raise DataError(f"the row has 'answer_index' without 'options': {dict(sample.meta)!r:.200}")
    written = [f"{letter}. {option}" for letter, option in zip(LETTERS, sample.meta["options"], strict=False)]
    return Item(
        id=sample.id,
        sample=replace(sample, messages=asked),
        answer=LETTERS[sample.meta["answer_index"]],
        options=lettered([str(option) for option in sample.meta["options"]]),
        groups=groups,
        question=asked[-1].text.removesuffix("\n".join(["", *written, CHOICE_PROMPT])),
    )


def _open(sample: Sample, rule: Any, groups: Mapping[str, str]) -> Item:
    """Return an item whose answer is the row's last reply, or its ``answer``."""
    messages = sample.messages
    answer = sample.meta.get("answer")
    if messages[-1].role == "assistant":
        messages, answer = messages[:-1], messages[-1].text
    if answer is None:
        raise DataError("the row has no answer; end it with an assistant turn or add 'answer'")
    options = {str(option): str(option) for option in sample.meta.get("options") or ()}
    return Item(
        id=sample.id,
        sample=replace(sample, messages=messages),
        rule=rule,
        answer=str(answer),
        options=options,
        groups=groups,
        question=messages[-1].text,
    )


def _bracketed(item: Item) -> Item:
    """Rewrite a multiple-choice item in MVBench's format, including the start of the reply."""
    *before, last = item.sample.messages
    options = [f"({letter}) {text}" for letter, text in item.options.items()]
    text = "\n".join([f"Question: {item.question}", "Options:", *options, "Only give the best option."])
    messages = [*before, Message("user", text, last.videos)]
    return replace(item, sample=replace(item.sample, messages=messages), prefix="Best option:(")
