"""LongVideoBench: questions that refer to moments of videos of 8 seconds to an hour, with subtitles (arXiv:2407.15754).

The official prompt interleaves frames and subtitles by time, as does ``prompt_style=interleaved``, which needs a
connector with video tokens per frame. In all other styles, the whole video comes before the text and the subtitles
follow in order; TinyLLaVA-Video marks the frames between them with ``[image]``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tinyvid import (
    BENCHMARKS,
    LETTERS,
    ConfigError,
    Cue,
    DataError,
    Item,
    Message,
    Outcome,
    Sample,
    by_group,
    lettered,
    micro,
    require,
)
from tinyvid.files import expanded

from .prompts import LETTER_PROMPT, conversation, dotted
from .rows import Row, first_of, read_rows
from .subtitles import interleaved, json_cues, moments

FILES = {
    "val": ("lvb_val.json", "validation-00000-of-00001.parquet"),
    "test": ("lvb_test_wo_gt.json", "test-00000-of-00001.parquet"),
}
GROUPS = {"15": "(8s, 15s]", "60": "(15s, 60s]", "600": "(180s, 600s]", "3600": "(900s, 3600s]"}
SUBMISSION = "longvideobench_test_for_submission.json"


@BENCHMARKS.register("longvideobench")
class LongVideoBench:
    """Ask the questions of LongVideoBench.

    Args:
        root: Folder with an annotation, ``videos/`` and ``subtitles/``.
        split: ``val``, or ``test``, which has no public answers: a submission file is written instead of scores.
        subtitles: Include the subtitles at the sampled frames, as published scores do.
        prompt_style: ``official``; ``interleaved``, the same with the subtitles between the frames, for connectors
            with video tokens per frame; or the prompts of TinyLLaVA-Video or lmms-eval.

    Raises:
        ConfigError: ``prompt_style`` interleaves subtitles, but ``subtitles`` is false.
        DataError: The annotation or subtitles are missing, or a row is malformed.
    """

    name = "longvideobench"
    source = "https://huggingface.co/datasets/longvideobench/LongVideoBench (gated; unpack videos and subtitles)"

    def __init__(
        self,
        *,
        root: str,
        split: Literal["val", "test"] = "val",
        subtitles: bool = True,
        prompt_style: Literal["official", "interleaved", "tinyllava_video", "lmms_eval"] = "official",
    ) -> None:
        if prompt_style == "interleaved" and not subtitles:
            raise ConfigError(
                "benchmark.prompt_style=interleaved puts subtitles between frames, but benchmark.subtitles=false; "
                "choose benchmark.prompt_style=official"
            )
        folder = expanded(root)
        annotation = next((name for name in FILES[split] if (folder / name).is_file()), FILES[split][0])
        self.folder = require(root, [annotation], source=self.source)
        self.split, self.prompt_style = split, prompt_style
        rows = read_rows(self.folder / annotation)
        self.items = [self._item(row) for row in rows]
        self.rows = {row.text("id"): row for row in rows}
        if subtitles:
            require(root, [f"subtitles/{row.path('subtitle_path')}" for row in rows], source=self.source)
            for row in rows:  # fail on a broken file before decoding any video
                self._cues(row)
            self.sample = self._with_subtitles  # makes this a ReadsTimes; otherwise frame times are not computed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return a question."""
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the accuracy over all questions and over each range of durations, in percent; empty for the test."""
        if self.split == "test":
            return {}
        parts = by_group(outcomes, "duration_group")
        lengths = {name: 100 * micro(parts[name]) for name in GROUPS.values() if name in parts}
        return {**lengths, "Overall": 100 * micro(outcomes)}

    def files(self, outcomes: Sequence[Outcome]) -> Mapping[str, str]:
        """Return the submission file of the test: the letter for each question, empty for unparsed replies."""
        if self.split == "val":
            return {}
        letters = {outcome.id: outcome.prediction or "" for outcome in outcomes}
        return {SUBMISSION: json.dumps(letters, indent=1)}

    def _item(self, row: Row) -> Item:
        options = _options(row)
        length = row.text("duration_group")
        keys = {"category": "question_category", "topic": "topic_category", "level": "level"}
        groups = {"duration_group": GROUPS.get(length, length)}
        groups |= {kind: row.text(key) for kind, key in keys.items() if row.has(key)}
        path = first_of(self.folder, [f"videos/{row.path('video_path')}"])
        return Item(
            id=row.text("id"),
            sample=Sample(self._prompt(row, options, []), path, id=row.text("id")),
            answer=None if self.split == "test" else _answer(row, options),
            options=options,
            groups=groups,
            question=row.text("question"),
        )

    def _with_subtitles(self, item: Item, times: Sequence[float]) -> Sample:
        """Return the sample with the subtitles at its frames, interleaved or in the prompt."""
        row = self.rows[item.id]
        if self.prompt_style == "interleaved":
            (video,) = item.sample.videos
            return replace(item.sample, video=replace(video, subtitles=moments(self._cues(row), times)))
        return replace(item.sample, messages=self._prompt(row, item.options, interleaved(self._cues(row), times)))

    def _cues(self, row: Row) -> tuple[Cue, ...]:
        return json_cues(
            Path(first_of(self.folder, [f"subtitles/{row.path('subtitle_path')}"])),
            origin=row.number("starting_timestamp_for_subtitles"),
            duration=row.number("duration"),
        )

    def _prompt(self, row: Row, options: Mapping[str, str], line: Sequence[str | None]) -> list[Message]:
        """Return the prompt; ``line`` lists subtitles in order, with ``None`` for each frame."""
        question, written = row.text("question"), dotted(options)
        if self.prompt_style == "tinyllava_video":
            mixed = "".join("[image]" if text is None else text for text in line)
            return conversation(f"subtitles:{mixed}\nquestion: \n{question}\n{written}\n{LETTER_PROMPT}")
        texts = [text for text in line if text is not None]
        if self.prompt_style == "lmms_eval":
            return conversation("\n".join([*texts, question, written, LETTER_PROMPT, ""]))
        return conversation("\n".join([*texts, f"Question: {question}", written, LETTER_PROMPT]))


def _options(row: Row) -> dict[str, str]:
    """Return the options, which are a list in JSON and columns padded with ``N/A`` in parquet."""
    if row.has("candidates"):
        return lettered(row.texts("candidates"))
    columns = [key for key in (f"option{number}" for number in range(5)) if row.has(key)]
    return lettered([row.text(key) for key in columns])


def _answer(row: Row, options: Mapping[str, str]) -> str:
    index = row.values.get("correct_choice")
    if type(index) is not int or not 0 <= index < len(LETTERS) or LETTERS[index] not in options:
        raise DataError(f"{row.where}: 'correct_choice' is {index!r}, not the index of an option in {dict(options)}")
    return LETTERS[index]
