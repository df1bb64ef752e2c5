"""From what a model said to an outcome, and from a row of any age to what it is worth by the rules of today."""

from collections.abc import Sequence
from dataclasses import replace

from tinyvid.evaluation.items import Item, Outcome
from tinyvid.evaluation.judging.judge import Verdict
from tinyvid.evaluation.running.answering import Answer
from tinyvid.evaluation.running.units import Shot
from tinyvid.evaluation.scoring.scores import read


def failures_of(shots: Sequence[Shot], items: Sequence[Item]) -> list[Outcome]:
    """Return the outcomes of items whose videos cannot be read."""
    failed = [(items[index], shot) for shot in shots if shot.failure for index in shot.indices]
    rows = [(item, Outcome(item.id, "media_failed", 0.0, video=s.video, reason=s.failure)) for item, s in failed]
    return [rescore(item, row) for item, row in rows]


def outcome_of(item: Item, answer: Answer, shot: Shot) -> Outcome:
    """Return the outcome of an item that was asked; a judge comes later."""
    asked = Outcome(
        id=item.id,
        status="answered",
        value=None,
        reply=answer.reply,
        likelihoods=dict(answer.likelihoods),
        video=shot.video,
        duration=shot.duration,
        num_frames=shot.num_frames,
    )
    return rescore(item, asked)


def rescore(item: Item, row: Outcome, verdict: Verdict | None = None) -> Outcome:
    """Return a row with what its reply is worth; of a judge's item, by the verdict on it."""
    row = replace(row, answer=item.answer, groups=dict(item.groups))
    if row.status == "media_failed":
        return replace(row, value=None if item.answer is None else 0.0)
    if row.likelihoods:
        best = max(row.likelihoods, key=lambda key: row.likelihoods[key])
        value = None if item.answer is None else float(best == item.answer)
        return replace(row, status="answered", prediction=best, value=value)
    reading = read(item, row.reply or "")
    row = replace(row, prediction=reading.prediction, value=reading.value, exact=reading.exact, points={}, reason="")
    if reading.prediction is None:
        return replace(row, status="unparsed", value=None if item.answer is None else 0.0)
    if verdict is None:
        return replace(row, status="answered")
    if verdict.error:
        return replace(row, status="judge_failed", value=0.0, reason=verdict.error)
    return replace(row, status="answered", value=verdict.value, points=dict(verdict.points))


def is_judged(item: Item) -> bool:
    """Return whether a judge decides what a reply to an item is worth."""
    return item.rule == "judge" and item.answer is not None
