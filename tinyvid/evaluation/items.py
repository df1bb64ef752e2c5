"""Items of a benchmark, their outcomes, and the protocols that a benchmark implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

from tinyvid.errors import DataError, suggest
from tinyvid.types import Sample

TimedRule = Literal["span", "spans", "events"]
Rule = Literal["choice", "label", "number", "yes_no", "contains", "exact", "judge", "span", "spans", "events"]
Status = Literal["answered", "unparsed", "media_failed", "prompt_failed", "judge_failed"]
NOT_ASKED: tuple[Status, ...] = ("media_failed", "prompt_failed")


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One question of a benchmark: the prompt, and how to score the reply.

    Attributes:
        id: Unique in the benchmark and the same in every run; not a position in a list of files.
        sample: The prompt, in the benchmark's prompt style, and its videos. It ends with a user turn. Items with the
            same videos and bounds share one decode and one forward pass of the tower.
        rule: How to score the reply with a value in [0, 1]; see ``tinyvid.evaluation.scoring.scores``.
        answer: The correct letter (``choice``), the correct key of ``options`` (``label``), a number as text
            (``number``), ``yes`` or ``no``, spans of time as ``<time:2.4> to <time:9.0>`` in seconds of the file
            (``span``; one per line for ``spans``; with a sentence behind each for ``events``), or the correct text;
            ``None`` if the benchmark does not publish it.
        options: The options of ``choice`` and ``label``: letter, or key, to text. Padding of a row (``N/A``, empty
            strings) is not included.
        groups: The group of the item for each kind of groups: ``{"duration": "short", "task": "OCR Problems"}``.
        prefix: Forced beginning of the reply, such as ``Best option:(``; it is not part of the reply.
        question: The question without instructions, for a judge.
        rubric: How a judge scores the reply; a key of ``tinyvid.RUBRICS``.
        alternatives: Other correct answers; the reply is scored by the one that it meets best.
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
    alternatives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise DataError(f"item '{self.id}': rule {self.rule!r} is unknown. {suggest(self.rule, get_args(Rule))}")
        if not self.sample.messages or self.sample.messages[-1].role != "user":
            raise DataError(f"item '{self.id}': the conversation must end with a user turn")
        if self.rule in ("choice", "label") and len(self.options) < 2:
            raise DataError(f"item '{self.id}': rule '{self.rule}' needs at least 2 options, got {dict(self.options)}")
        for answer in () if self.answer is None else (self.answer, *self.alternatives):
            if self.rule in ("choice", "label") and answer not in self.options:
                raise DataError(f"item '{self.id}': the answer {answer!r} must be one of {list(self.options)}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of asking an item.

    Attributes:
        id: Id of the item.
        status: ``answered``: the reply was parsed. ``unparsed``: it could not be parsed. ``media_failed``: a video
            could not be read, so the item was not asked. ``prompt_failed``: its prompt cannot be laid out, such as one
            that exceeds the context. ``judge_failed``: the judge returned no valid verdict.
        value: Value in [0, 1]; 0 unless answered; ``None`` if the benchmark has no answer for the item.
        reply: The reply; ``None`` if the item was not asked, or if options were scored by likelihood.
        prediction: What was parsed from the reply: a letter, a label, a number, spans with markers, or a text.
        answer: Answer of the item.
        exact: Whether the reply is the answer and nothing else (ignoring case, brackets and punctuation).
        groups: Groups of the item.
        points: Additional marks by name: those of a judge, and for items with key frames those of the cited frames
            (``tinyvid.evaluation.scoring.references``).
        likelihoods: Log-probability of each option, if options were scored by likelihood.
        video: The first video, with its bounds; items about one video are resampled together.
        duration: Duration of the first clip in seconds; ``None`` without a video.
        num_frames: Number of frames that the model saw.
        shown: Times of these frames in seconds of the file, for items with key frames.
        kept: Video tokens as a share of all patches; ``None`` without a reducer or a video.
        reason: Why the item was not answered.
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
    shown: Sequence[float] = ()
    kept: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's score of a reply.

    Attributes:
        value: Value in [0, 1]; ``None`` if the verdict is invalid.
        points: The integer marks, by name.
        error: Why the verdict is invalid.
    """

    value: float | None
    points: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


class Benchmark(Protocol):
    """Questions about videos in a fixed order, and the averages to report.

    Registered in ``registry.BENCHMARKS`` and built as ``Class(root=..., prompt_style=..., <options>)``. The constructor
    reads the annotation but no videos. It raises ``DataError`` (``tinyvid.require``) if annotation files are missing or
    no items match the options. It keeps no files open, so DataLoader workers can pickle it.
    """

    name: str  # as registered, and in reports
    prompt_style: str  # official, tinyllava_video or lmms_eval
    source: str  # where to get its files, for messages about missing ones

    def __len__(self) -> int:
        """Return the number of items, which is the denominator even if videos cannot be read."""

    def __getitem__(self, index: int) -> Item:
        """Return an item. This is cheap, opens no videos, and returns the same item every time."""

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the averages that the benchmark reports, by their official names, in percent or points.

        Args:
            outcomes: Outcomes of all items of the run, in the benchmark's order; average them with ``tinyvid.macro``
                and ``micro``.
        """


@runtime_checkable
class ReadsTimes(Protocol):
    """A benchmark whose prompts depend on the selected frames, such as subtitles of these frames."""

    def sample(self, item: Item, times: Sequence[float]) -> Sample:
        """Return the item's sample with its final text. The frames must not change.

        Args:
            item: An item from ``__getitem__``.
            times: Times of the selected frames of its first video, in seconds from the beginning of the file.
        """


@runtime_checkable
class WritesFiles(Protocol):
    """A benchmark that writes files for an official scorer or a submission."""

    def files(self, outcomes: Sequence[Outcome]) -> Mapping[str, str]:
        """Return the files to write into the run's folder, as file names to content."""
