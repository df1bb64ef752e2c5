"""The timed rules: score replies that state spans of time, and average over questions.

``span``
    The reply states one span. The value is its IoU with the correct span.
``spans``
    The reply states several spans, the most certain first. The value is the mean average precision over IoU 0.50, 0.55,
    ... 0.95 (QVHighlights).
``events``
    The reply states spans with sentences. The value is the mean F1 over IoU 0.3, 0.5, 0.7, 0.9 (ActivityNet Captions).

A reply is read in seconds. If it states an answer ("the answer is", "Answer:"), spans before the last such statement do
not count for ``span`` and ``spans``. Of several spans, the first one counts for ``span``, the first ten for ``spans``,
and all of them for ``events``. A reply without spans is unparsed.

Answers and predictions are texts with markers: ``<time:2.4> to <time:9.0>``, one span or event per line.
"""

from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np

from tinyvid.errors import DataError
from tinyvid.evaluation.items import Item, Outcome, TimedRule
from tinyvid.evaluation.scoring.averages import micro
from tinyvid.evaluation.scoring.captions import Event, dense_cider_d, read_events, soda, write_events
from tinyvid.evaluation.scoring.choices import STATEMENT
from tinyvid.evaluation.scoring.replies import final_part
from tinyvid.evaluation.scoring.spans import (
    F1_THRESHOLDS,
    Span,
    average_precision,
    count_markers,
    f1_at,
    found_spans,
    has_backward_span,
    iou,
    precision_recall_at,
    read_spans,
    recall_at,
    without_markup,
    write_spans,
)

TIMED: tuple[str, ...] = get_args(TimedRule)
NAMES = {"span": "mIoU", "spans": "mAP", "events": "F1"}  # of the mean value of each rule
Read = tuple[list[Event], list[list[Event]]]  # predicted events, and those of each correct answer


def predict_spans(rule: str, reply: str) -> str | None:
    """Return the spans or events in a reply as text with markers, or ``None`` if there are none."""
    text = without_markup(final_part(reply))
    if rule == "events":
        return write_events(read_events(text)) or None
    found = found_spans(text)
    stated = [match.end() for match in STATEMENT.finditer(text) if found and match.end() <= found[-1][1]]
    spans = [span for span, start, _ in found if not stated or start >= stated[-1]]
    return write_spans(spans[:1] if rule == "span" else spans) or None


def value_of(rule: str, prediction: str, answer: str) -> float:
    """Return the value in [0, 1] of a prediction by a timed rule."""
    if rule == "events":
        return _mean_f1(read_events(prediction), read_events(answer))
    spans, right = read_spans(prediction), read_spans(answer)
    return iou(spans[0], right[0]) if rule == "span" else average_precision(spans, right)


def check_timed(item: Item, answer: str) -> None:
    """Raise ``DataError`` if an answer is not written as its timed rule needs."""
    where, events = f"item '{item.id}': the answer {answer!r:.80}", read_events(answer)
    if not events:
        raise DataError(f"{where} has no span; write it as '<time:2.4> to <time:9.0>', with the end after the start")
    if not count_markers(answer) and has_backward_span(answer):
        raise DataError(f"{where} has a span that ends before it starts; correct it, or write spans with markers")
    if count_markers(answer) not in (0, 2 * len(events)):
        raise DataError(
            f"{where} has {count_markers(answer)} markers of times, but {len(events)} readable spans; write each span "
            "as '<time:2.4> to <time:9.0>', with the end after the start and no other markers"
        )
    if item.rule == "span" and len(events) != 1:
        raise DataError(f"{where} has {len(events)} spans; rule 'span' needs one, or use rule 'spans'")
    if item.rule == "events" and not all(sentence for _, _, sentence in events):
        raise DataError(f"{where} has spans without a sentence; rule 'events' needs '<time:2.4> to <time:9.0> A man.'")


def timed_averages(items: Sequence[Item], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the published averages of the timed rules among the items, in percent.

    ``span``: mIoU, R@0.3, R@0.5, R@0.7. ``spans``: mAP, mAP@0.5, mAP@0.75, R1@0.5, R1@0.7. ``events``: F1, Precision
    and Recall (means over the thresholds), F1 at each threshold, CIDEr-D (1,000 at most, as published), SODA with the
    F1 of words as similarity. Items that are not answered count as 0. Of several correct answers, the best one counts
    for each number; for CIDEr-D, all are references.

    Args:
        items: Items of any rules.
        outcomes: Their outcomes, in the same order.
    """
    averages: dict[str, float] = {}
    for rule, function in (("span", _of_span), ("spans", _of_spans), ("events", _of_events)):
        pairs = zip(items, outcomes, strict=True)
        graded = [(item, outcome) for item, outcome in pairs if item.rule == rule and outcome.value is not None]
        if graded:
            values = function([_read(item, outcome) for item, outcome in graded])
            values = {NAMES[rule]: micro([outcome for _, outcome in graded])} | values
            averages |= {name: 100 * value for name, value in values.items()}
    return averages


def _read(item: Item, outcome: Outcome) -> Read:
    """Return the predicted events of an item, and the events of each of its answers."""
    answers = (str(item.answer), *item.alternatives)
    return read_events(outcome.prediction or ""), [read_events(answer) for answer in answers]


def _of_span(read: Sequence[Read]) -> dict[str, float]:
    return {f"R@{k}": _best(read, recall_at, k) for k in (0.3, 0.5, 0.7)}


def _of_spans(read: Sequence[Read]) -> dict[str, float]:
    precisions = {f"mAP@{k}": _best(read, _average_precision, k) for k in (0.5, 0.75)}
    return precisions | {f"R1@{k}": _best(read, recall_at, k) for k in (0.5, 0.7)}


def _of_events(read: Sequence[Read]) -> dict[str, float]:
    values = {
        "Precision": _mean([_best(read, _precision, k) for k in F1_THRESHOLDS]),
        "Recall": _mean([_best(read, _recall, k) for k in F1_THRESHOLDS]),
        **{f"F1@{k}": _best(read, f1_at, k) for k in F1_THRESHOLDS},
    }
    predicted = [events for events, _ in read]
    closest = [gold[int(np.argmax([_mean_f1(events, right) for right in gold]))] for events, gold in read]
    values["CIDEr-D"] = dense_cider_d(predicted, [[event for right in gold for event in right] for _, gold in read])
    return values | {"SODA (F1 of words)": soda(predicted, closest)}


def _average_precision(predicted: Sequence[Span], gold: Sequence[Span], threshold: float) -> float:
    return average_precision(predicted, gold, [threshold])


def _precision(predicted: Sequence[Span], gold: Sequence[Span], threshold: float) -> float:
    return precision_recall_at(predicted, gold, threshold)[0]


def _recall(predicted: Sequence[Span], gold: Sequence[Span], threshold: float) -> float:
    return precision_recall_at(predicted, gold, threshold)[1]


def _best(read: Sequence[Read], metric: Callable[..., float], threshold: float) -> float:
    """Return the mean of a metric of spans at a threshold, each item with the answer that gives the highest value."""
    return _mean([max(metric(_spans(events), _spans(right), threshold) for right in gold) for events, gold in read])


def _mean_f1(predicted: Sequence[Event], gold: Sequence[Event]) -> float:
    return _mean([f1_at(_spans(predicted), _spans(gold), threshold) for threshold in F1_THRESHOLDS])


def _spans(events: Sequence[Event]) -> list[Span]:
    return [event[:2] for event in events]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
