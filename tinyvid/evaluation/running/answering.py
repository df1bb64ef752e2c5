"""Ask the model: one forward pass of the tower per video, then the questions in batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TypeVar

import torch
from torch import Tensor

from tinyvid.assistant import Assistant
from tinyvid.data.skipped import Skipped, file_of
from tinyvid.errors import ConfigError, DataError, VideoError
from tinyvid.evaluation.items import NOT_ASKED, Item, Outcome
from tinyvid.evaluation.running.units import PreparedItem, VideoGroup
from tinyvid.evaluation.scoring.references import key_frames_of
from tinyvid.evaluation.scoring.scores import rescore
from tinyvid.evaluation.scoring.spans import in_file_seconds
from tinyvid.evaluation.scoring.timed import TIMED
from tinyvid.generation.decode import Decoding, log_probs, replies
from tinyvid.processing.batch import Batch, Example, VideoInput
from tinyvid.text.moments import Moments
from tinyvid.types import IGNORE_INDEX

Asked = tuple[PreparedItem, int]  # a question and the index of its group
Span = tuple[int, int]


Videos = tuple[VideoInput, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer to an item: a reply, or the log-probabilities of the options.

    Attributes:
        kept: Video tokens as a share of all patches; ``None`` without a reducer or a video.
    """

    index: int
    reply: str | None = None
    likelihoods: Mapping[str, float] = field(default_factory=dict)
    kept: float | None = None


class Answerer:
    """Ask a model the questions of video groups."""

    def __init__(self, assistant: Assistant, *, batch_size: int, decoding: Decoding) -> None:
        self.model = assistant.model
        self.processor = assistant.processor
        self.batch_size = batch_size
        self.decoding = decoding

    def ask(self, groups: Sequence[VideoGroup]) -> tuple[list[VideoGroup], list[Answer]]:
        """Return the groups and the answers. A long video that fails while the model reads it becomes a failure.

        Raises:
            ConfigError: The device has too little memory for the batch size.
        """
        try:
            return [*groups], [*self(groups)]
        except VideoError as error:
            if len(groups) == 1:
                return [replace(groups[0], example=None, questions=(), failure=str(error))], []
        asked = [self.ask([group]) for group in groups]
        return [*chain(*(one for one, _ in asked))], [*chain(*(answers for _, answers in asked))]

    def __call__(self, groups: Sequence[VideoGroup]) -> Iterator[Answer]:
        """Yield the answers to all questions, except those about unreadable videos.

        Raises:
            VideoError: A long video, which is decoded piece by piece, cannot be read.
            ConfigError: The device has too little memory for the batch size.
        """
        try:
            videos = self._encode(groups)
            asked = [(question, number) for number, group in enumerate(groups) for question in group.questions]
            for portion in _portions([entry for entry in asked if not entry[0].options], self.batch_size):
                yield from self._replies(portion, videos)
            yield from self._compare([entry for entry in asked if entry[0].options], videos)
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError(
                f"the device has too little memory for batch_size={self.batch_size}; run again with a smaller "
                "batch_size, which continues the run"
            ) from error

    @torch.inference_mode()
    def _encode(self, groups: Sequence[VideoGroup]) -> list[Videos]:
        """Return the videos of each group with features on the device. Videos that are too long stay lazy."""
        examples = [group.example for group in groups if group.example is not None and group.example.videos]
        if not examples:
            return [() for _ in groups]
        batch = self.processor.collate(examples).to(self.model.device)
        if self.processor.features is not None:
            batch = self.model.fill_features(batch, self.processor.features)
        features = iter(self.model.clips(batch))
        videos = (
            video if video.lazy is not None else replace(video, pixels=None, features=next(features))
            for video in batch.videos
        )
        return [tuple(islice(videos, len(group.example.videos) if group.example else 0)) for group in groups]

    def _replies(self, asked: Sequence[Asked], videos: Sequence[Videos]) -> Iterator[Answer]:
        batch = self._batch([question.examples[0] for question, _ in asked], [n for _, n in asked], videos, side="left")
        texts = replies(self.model, self.processor, batch, self.decoding)
        shares = self.model.kept or [None] * len(texts)
        for (question, _), reply, kept in zip(asked, texts, shares, strict=True):
            yield Answer(question.index, reply, kept=kept)

    def _compare(self, asked: Sequence[Asked], videos: Sequence[Videos]) -> Iterator[Answer]:
        """Yield the mean log-probability per token of each option.

        If options differ only in their last token, such as letters, one pass of the LLM scores all of them.
        """
        passes: list[tuple[Example, Span, int]] = []
        for question, number in asked:
            texts = _texts(question)
            count = 1 if len({text[:-1] for text in texts}) == 1 else len(texts)
            passes += zip(question.examples[:count], question.spans[:count], [number] * count, strict=True)
        rows = (row for portion in _portions(passes, self.batch_size) for row in self._log_probs(portion, videos))
        for question, _ in asked:
            texts = _texts(question)
            if len({text[:-1] for text in texts}) == 1:
                one, kept = next(rows)  # (tokens, vocabulary)
                before = _total(one[:-1], texts[0][:-1])
                totals = [before + float(one[-1, text[-1]]) for text in texts]
            else:
                passed = [(*next(rows), text) for text in texts]
                totals, kept = [_total(row, text) for row, _, text in passed], passed[0][1]
            means = [total / len(text) for total, text in zip(totals, texts, strict=True)]
            yield Answer(question.index, likelihoods=dict(zip(question.options, means, strict=True)), kept=kept)

    @torch.inference_mode()
    def _log_probs(
        self, passes: Sequence[tuple[Example, Span, int]], videos: Sequence[Videos]
    ) -> Iterator[tuple[Tensor, float | None]]:
        """Yield the log-probabilities (tokens, vocabulary) at the span of each example, and its ``kept``."""
        examples = [_learning(example, span) for example, span, _ in passes]
        batch = self._batch(examples, [number for _, _, number in passes], videos, side="right")
        rows = log_probs(self.model, batch)
        yield from zip(rows, self.model.kept or [None] * len(rows), strict=True)

    def _batch(
        self, examples: Sequence[Example], numbers: Sequence[int], videos: Sequence[Videos], *, side: str
    ) -> Batch:
        """Collate examples so that examples about the same videos share features and video tokens."""
        batch = self.processor.collate(examples, padding_side=side).to(self.model.device)
        offsets: dict[int, int] = {}
        shown: list[VideoInput] = []
        for number in dict.fromkeys(numbers):
            offsets[number] = len(shown)
            shown += videos[number]
        return replace(
            batch,
            slots=tuple(
                replace(slot, video=offsets[number] + slot.video)
                for example, number in zip(examples, numbers, strict=True)
                for slot in example.slots
            ),
            videos=tuple(shown),
        )


def _learning(example: Example, span: Span) -> Example:
    """Return an example whose labels are the tokens of a span."""
    labels = torch.full_like(example.labels, IGNORE_INDEX)
    labels[span[0] : span[1]] = example.input_ids[span[0] : span[1]]
    return replace(example, labels=labels)


def _texts(question: PreparedItem) -> list[tuple[int, ...]]:
    """Return the tokens of each option."""
    return [
        tuple(example.input_ids[start:end].tolist())
        for example, (start, end) in zip(question.examples, question.spans, strict=True)
    ]


def _total(rows: Tensor, tokens: Sequence[int]) -> float:
    """Return the log-probability of tokens from log-probabilities (tokens, vocabulary)."""
    return sum(float(row[token]) for row, token in zip(rows, tokens, strict=True))


def _portions(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(entries), size):
        yield entries[first : first + size]


def failures_of(groups: Sequence[VideoGroup], items: Sequence[Item]) -> list[Outcome]:
    """Return the outcomes of items that could not be asked."""
    failed = [(items[index], group) for group in groups if group.failure for index in group.indices]
    rows = [(item, Outcome(item.id, s.status, 0.0, video=s.video, reason=s.failure)) for item, s in failed]
    return [rescore(item, row) for item, row in rows]


def skipped_of(items: Sequence[Item], outcomes: Sequence[Outcome], *, reader: str) -> list[Skipped]:
    """Return the record of the items that could not be asked."""
    rows = []
    for item, outcome in zip(items, outcomes, strict=True):
        if outcome.status in NOT_ASKED:
            error = (VideoError if outcome.status == "media_failed" else DataError)(outcome.reason)
            file = file_of(item.sample.videos, error)
            rows.append(Skipped(item.id, file, type(error).__name__, outcome.reason, reader))
    return rows


def outcome_of(item: Item, answer: Answer, group: VideoGroup, moments: Moments) -> Outcome:
    """Return the outcome of an answered item, before judging.

    In a reply whose times or frames are scored, markers with seconds of the file replace them. Other times in the reply
    to a timed rule count from the start of the clip, like those of the template, and are moved by it. With other rules,
    seconds replace steps.
    """
    reply, key_frames = answer.reply, key_frames_of(item)
    video = None if group.example is None else group.example.timeline
    if reply is not None and video is not None:
        if item.rule in TIMED:
            reply = moments.read(reply, video)
            reply = in_file_seconds(reply, video.start) if video.start else reply
        else:
            reply = moments.in_seconds(moments.read_frames(reply, video) if key_frames else reply, video)
    asked = Outcome(
        id=item.id,
        status="answered",
        value=None,
        reply=reply,
        likelihoods=dict(answer.likelihoods),
        video=group.video,
        duration=group.duration,
        num_frames=group.num_frames,
        shown=video.times if key_frames and video is not None else (),
        kept=answer.kept,
    )
    return rescore(item, asked)
