"""What a benchmark consists of: the items that are asked, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

from tinyvid.errors import DataError, suggest
from tinyvid.types import Sample

Rule = Literal["choice", "label", "number", "yes_no", "contains", "exact", "judge"]
Status = Literal["answered", "unparsed", "media_failed", "judge_failed"]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One question of a benchmark, written out: what is asked, and how the reply is scored.

    Attributes:
        id: Name, unique in the benchmark and the same in every run: never a position in a list of files.
        sample: The prompt, in the benchmark's prompt style, and its videos. Ends with the user's turn. Items whose
            videos and bounds are equal share one decode and one pass of the tower.
        rule: How the reply becomes a value in [0, 1]; ``tinyvid.evaluation.scoring.scores`` describes each rule.
        answer: The right letter (``choice``), the right key of ``options`` (``label``), a number as text (``number``),
            ``yes`` or ``no``, or the right text; ``None`` where the benchmark keeps it to itself.
        options: The choices of ``choice`` and ``label``: letter, or key, to text. Only what can be chosen: without the
            padding of a row (``N/A``, empty strings).
        groups: Kinds of groups to the group that the item is in: ``{"duration": "short", "task": "OCR Problems"}``.
        prefix: What the reply is made to begin with, such as ``Best option:(``; it is no part of the reply.
        question: The bare question, for a judge.
        rubric: What a judge is asked; a name of ``tinyvid.RUBRICS``.
    """

    id: str
    sample: Sample
    rule: Rule = "choice"
    answer: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    question: str = ""
    rubric: str = "qa"

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise DataError(f"item '{self.id}': rule {self.rule!r} is unknown. {suggest(self.rule, get_args(Rule))}")
        if not self.sample.messages or self.sample.messages[-1].role != "user":
            raise DataError(f"item '{self.id}': the conversation must end with the user's turn, to be answered")
        if self.rule in ("choice", "label") and len(self.options) < 2:
            raise DataError(f"item '{self.id}': rule '{self.rule}' needs at least 2 options, got {dict(self.options)}")
        if self.rule in ("choice", "label") and self.answer is not None and self.answer not in self.options:
            raise DataError(f"item '{self.id}': the answer {self.answer!r} is none of {list(self.options)}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item.

    Attributes:
        id: Of the item.
        status: ``answered``: the reply could be read. ``unparsed``: it could not. ``media_failed``: a video could not
            be read, so nothing was asked. ``judge_failed``: the judge gave no valid verdict.
        value: In [0, 1]; 0 unless answered; ``None`` where the benchmark states no answer.
        reply: What the model wrote, ``None`` if nothing was asked or options were scored by likelihood.
        prediction: What was read from the reply: a letter, a label, a number, a text.
        answer: Of the item.
        exact: The reply is the answer and nothing else (up to case, brackets and punctuation).
        groups: Of the item.
        points: Further marks of a judge, by name.
        likelihoods: Log-probability of each option, where options were scored by likelihood.
        video: The first video, with its bounds; items of one video are resampled together.
        duration: Length of the first video's clip in seconds; ``None`` if there is none.
        num_frames: Frames that were seen.
        reason: Why there is no answer.
    """

    id: str
    status: Status
    value: float | None
    reply: str | None = None
    prediction: str | None = None
    answer: str | None = None
    exact: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, float] = field(default_factory=dict)
    likelihoods: Mapping[str, float] = field(default_factory=dict)
    video: str = ""
    duration: float | None = None
    num_frames: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says.

    Attributes:
        value: In [0, 1]; ``None`` if there is no valid verdict.
        points: The whole-number marks, by name.
        error: Why there is no valid verdict.
    """

    value: float | None
    points: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


class Benchmark(Protocol):
    """Questions about videos, in a fixed order, and the averages that are published of them.

    Registered in ``registry.BENCHMARKS`` and built as ``Class(root=..., prompt_style=..., <options>)``. The constructor
    reads the annotation and no video, and raises ``DataError`` (``tinyvid.require``) where files of it are
    missing, or a choice of options leaves no item. Holds no open file, so that DataLoader workers can carry it.
    """

    name: str  # as registered, and what reports call it
    prompt_style: str  # as chosen: official, tinyllava_video or lmms_eval
    source: str  # where its files come from, for messages about missing ones

    def __len__(self) -> int:
        """Return how many items there are: the denominator, whatever happens to their videos."""

    def __getitem__(self, index: int) -> Item:
        """Return an item. Cheap, without opening a video, and the same every time."""

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the averages that the benchmark publishes, by their official names, in percent or points.

        Args:
            outcomes: Of every item of the run, in the benchmark's order; ``tinyvid.macro`` and ``micro``
                average them.
        """


@runtime_checkable
class ReadsTimes(Protocol):
    """A benchmark whose prompts depend on which frames are seen, such as subtitles of these frames."""

    def sample(self, item: Item, times: Sequence[float]) -> Sample:
        """Return what is asked: the item's sample, of which only the frames are settled, with its final text.

        Args:
            item: From ``__getitem__``.
            times: When the chosen frames of its first video are shown, in seconds from the beginning of the file.
        """


@runtime_checkable
class WritesFiles(Protocol):
    """A benchmark with a file format of its own, for an official scorer or a submission."""

    def files(self, outcomes: Sequence[Outcome]) -> Mapping[str, str]:
        """Return what to write into the run's folder: names of files to their content."""
