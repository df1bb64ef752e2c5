"""Read spans of time from texts, and score them by the protocols of moment retrieval.

A span is a pair of seconds, ``(start, end)``. It is written with markers, ``<time:2.4> to <time:9.0>``. In other texts,
these forms are read: ``from 2.4 to 9.0 seconds``, ``2.4s - 9s``, ``between 3 and 7 seconds``, ``0:05 to 0:12``,
``1 minute 5 seconds to 1 minute 20 seconds``, ``{"start_time": 2.4, "end_time": 9.0}``, ``[[2.4, 9.0], [12, 15]]``,
``starts at 2.4 and ends at 9.0``. If a text has spans with markers, only these count. Otherwise, bare pairs such as
``2 - 3`` count only if the text has no span with a unit, a clock, brackets or words, because they may be other numbers.

Nothing is guessed. These are not spans: percentages, frame numbers, minutes without seconds, negative numbers, numbers
of a million seconds and more, a span that ends before it starts, and lists of other than two numbers. Reading takes
linear time.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from tinyvid.text.moments import digits

Span = tuple[float, float]
AP_THRESHOLDS = tuple(k / 100 for k in range(50, 100, 5))  # of IoU, as in QVHighlights
F1_THRESHOLDS = (0.3, 0.5, 0.7, 0.9)  # of IoU, as in ActivityNet Captions
MOST_RANKED = 10  # most predicted spans that average precision counts, as in QVHighlights
CLIP = 2.0  # seconds of a clip with a saliency score in QVHighlights

_NUMBER = r"\d{1,6}(?:\.\d{1,20})?"
_MARKER = rf"<(?:time|frame):({_NUMBER})>"
_UNIT = r"(?:[\s-]{0,2}(?:seconds?|secs?|s)\b\.?(?:\smark\b)?)?"
_OTHER_UNIT = r"%|per\s?cent|(?:m|mins?|minutes?|h|hrs?|hours?|ms|milliseconds?|frames?|fps|x)\b"
_TIME = (
    rf"(?:{_MARKER}|(?:"
    r"(?:(\d{1,2}):)?(\d{1,3}):([0-5]\d(?:[.,]\d{1,20})?)"
    rf"|(?:(\d{{1,4}})\s{{0,2}}(?:minutes?|mins?|m)\s{{0,2}}(?:and\s)?)?({_NUMBER})"
    rf"){_UNIT}(?!\d|[.:]\d|\s{{0,2}}(?:{_OTHER_UNIT})))"
)
_ABOUT = r"(?:(?:the|about|around|roughly|approximately|second|time)\s){0,2}"
_TO = r"\s{0,3}(?:to|until|till|through|-{1,2}>|→|[-–—~])\s{0,3}"
_FIRST = r"(?<![\w.-])(?<!\d[:,])"
_SIGNS = r"[\s\"':=(]"
_FILLER = (  # a word separates two repetitions, so that time stays linear
    rf"{_SIGNS}{{0,6}}(?:(?:time|timestamp|second|at|from|in|is|the|about|around|roughly|approximately)\b"
    rf"{_SIGNS}{{1,4}}){{0,5}}"
)
_KEY = rf"\w{{0,12}}\b{_FILLER}(?<!-){_TIME}"
_SPAN = re.compile(
    rf"\b(?:start|begin){_KEY}[^\d<>]{{0,24}}\b(?:end|finish|stop|until|till){_KEY}"
    rf"|\bbetween\s{{1,3}}{_ABOUT}{_TIME}\s{{1,3}}and\s{{1,3}}{_ABOUT}{_TIME}(?!,\d{{3}})"
    rf"|[\[(]\s{{0,4}}{_TIME}\s{{0,3}},\s{{0,3}}{_TIME}\s{{0,3}}[\])]"
    rf"|(?:\bfrom\s{{1,3}}{_ABOUT})?{_FIRST}{_TIME}{_TO}{_ABOUT}{_TIME}(?:(?<=>)|(?!,\d{{3}}|{_TO}\d))",
    re.IGNORECASE,
)
_PARTS = 6  # groups of a time: marker, hours, minutes and seconds of a clock, minutes and seconds with units
_STATED_UNIT = re.compile(r"\d\s{0,2}[sm]", re.IGNORECASE)
_FRAMES = re.compile(r"frames?\b(?!:\d)", re.IGNORECASE)
_BEFORE = re.compile(r"frames?[ :#]{0,3}$", re.IGNORECASE)
_MARKUP = re.compile(r"[*`$]")


def read_spans(text: str) -> list[Span]:
    """Return the spans in a text as ``(start, end)`` in seconds, in order.

    Overlapping and repeated spans are kept.

    Example:
        >>> read_spans("From 2.4 to 9.0 seconds, and 0:12 - 0:15.")
        [(2.4, 9.0), (12.0, 15.0)]
    """
    return [span for span, _, _ in found_spans(without_markup(text))]


def without_markup(text: str) -> str:
    """Return a text without emphasis, code marks and formula marks, which may surround numbers."""
    return _MARKUP.sub("", text)


def found_spans(text: str) -> list[tuple[Span, int, int]]:
    """Return the spans in a text, and where each one starts and ends in the text, in characters."""
    found: list[list[tuple[Span, int, int]]] = [[], [], []]
    for match, (start, end), kind in _found(text):
        if _seconds(start) <= _seconds(end):
            found[kind].append(((_seconds(start), _seconds(end)), match.start(), match.end()))
    return found[0] or found[1] or found[2]


def in_file_seconds(text: str, start: float) -> str:
    """Return a text whose spans in words count from the beginning of the file, not from ``start`` seconds after it.

    Times that are markers count from there already.

    Example:
        >>> in_file_seconds("<think>2 - 3</think> From 2.4 to 9 seconds.", 10.0)
        '<think>12 - 13</think> 12.4 s to 19 s.'
    """
    text, parts, last = without_markup(text), "", 0
    for match, times, kind in _found(text):
        if kind:
            moved = [digits(round(_seconds(time) + (0.0 if time[0] else start), 9)) for time in times]
            parts += text[last : match.start()] + ("{} s to {} s" if kind == 1 else "{} - {}").format(*moved)
            last = match.end()
    return parts + text[last:]


Time = Sequence[str | None]  # the groups of a time


def _found(text: str) -> Iterator[tuple[re.Match[str], list[Time], int]]:
    """Yield the matches in a text, the groups of their two times, and their kind.

    The kinds are 0 for markers, 1 for spans that state that they are spans, and 2 for bare pairs of numbers.
    """
    for match in _SPAN.finditer(text):
        before = text[max(0, match.start() - 10) : match.start()]
        if "<" not in match[0] and (_FRAMES.search(match[0]) or _BEFORE.search(before)):
            continue
        groups = match.groups()
        times = [groups[first : first + _PARTS] for first in range(0, len(groups), _PARTS)]
        start, end = [parts for parts in times if any(parts)]
        yield match, [start, end], 0 if start[0] and end[0] else 1 if _is_explicit(match[0]) else 2


def has_backward_span(text: str) -> bool:
    """Return whether a text has a span that ends before it starts, which ``read_spans`` does not read."""
    return any(_seconds(start) > _seconds(end) for _, (start, end), _ in _found(without_markup(text)))


def _is_explicit(text: str) -> bool:
    """Return whether a span states that it is one: by its first word, brackets, a clock, a marker or a unit."""
    return text[0] not in "0123456789" or ":" in text or _STATED_UNIT.search(text) is not None


def _seconds(parts: Time) -> float:
    marker, hours, minutes, seconds, long_minutes, number = parts
    if marker:
        return float(marker)
    if seconds:
        return 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds.replace(",", "."))
    return 60 * int(long_minutes or 0) + float(number or 0)


def count_markers(text: str) -> int:
    """Return how many markers of times and frames a text contains."""
    return len(re.findall(r"<(?:time|frame):", text))


def write_spans(spans: Sequence[Span]) -> str:
    """Return spans as text with markers, one per line. ``read_spans`` reads it back unchanged."""
    return "\n".join(f"{write_time(start)} to {write_time(end)}" for start, end in spans)


def write_time(seconds: float) -> str:
    """Return a time as a marker, with all digits of the number."""
    return f"<time:{digits(seconds)}>"


def iou(first: Span, second: Span) -> float:
    """Return the intersection over union of two spans: 1 for equal spans, 0 for disjoint ones."""
    if first == second:
        return 1.0
    shared = min(first[1], second[1]) - max(first[0], second[0])
    return max(0.0, shared) / (max(first[1], second[1]) - min(first[0], second[0]))


def iou_matrix(predicted: Sequence[Span], gold: Sequence[Span]) -> np.ndarray:
    """Return the IoU of each predicted with each correct span, as an array (predicted, gold)."""
    values = [[iou(span, right) for right in gold] for span in predicted]
    return np.array(values, dtype=float).reshape(len(predicted), len(gold))


def recall_at(predicted: Sequence[Span], gold: Sequence[Span], threshold: float, *, k: int = 1) -> float:
    """Return 1 if one of the first ``k`` predicted spans has an IoU of at least ``threshold`` with a correct span.

    The mean over questions is R@k of Charades-STA and, with ``k=1``, R1 of QVHighlights.
    """
    return float((iou_matrix(predicted[:k], gold) >= threshold).any())


def precision_recall_at(predicted: Sequence[Span], gold: Sequence[Span], threshold: float) -> tuple[float, float]:
    """Return the precision and recall of spans, as in ActivityNet Captions (arXiv:1705.00754).

    Precision is the fraction of predicted spans that have an IoU above ``threshold`` with a correct span. Recall is the
    fraction of correct spans that have one with a predicted span. The official scorer matches many to many.
    """
    hits = iou_matrix(predicted, gold) > threshold  # (predicted, gold)
    if not hits.size:
        return 0.0, 0.0
    return float(np.mean(np.any(hits, axis=1))), float(np.mean(np.any(hits, axis=0)))


def f1_at(predicted: Sequence[Span], gold: Sequence[Span], threshold: float) -> float:
    """Return the harmonic mean of ``precision_recall_at``."""
    precision, recall = precision_recall_at(predicted, gold, threshold)
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def average_precision(
    predicted: Sequence[Span], gold: Sequence[Span], thresholds: Sequence[float] = AP_THRESHOLDS
) -> float:
    """Return the mean average precision over thresholds of IoU, as in QVHighlights (arXiv:2107.09609).

    Args:
        predicted: Spans, the most certain first. Only the first ten count.
        gold: Correct spans.
        thresholds: Thresholds of IoU. At each, a predicted span matches the free correct span with the highest IoU of
            at least the threshold, and each correct span is matched once. Precision is interpolated: at each recall,
            it is the highest one at this recall or above.
    """
    ious = iou_matrix(predicted[:MOST_RANKED], gold)
    return float(np.mean([_average_precision(ious, threshold) for threshold in thresholds]))


def _average_precision(ious: np.ndarray, threshold: float) -> float:
    """Return the area under the interpolated curve of precision by recall for IoUs (predicted, gold)."""
    free = np.ones(ious.shape[1], dtype=bool)
    hits = np.zeros(ious.shape[0])
    for rank, row in enumerate(ious):
        best = int(np.argmax(np.where(free, row, -1.0))) if free.any() else -1
        if best >= 0 and row[best] >= threshold:
            free[best] = False
            hits[rank] = 1.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    return float((interpolated * hits).sum() / max(1, ious.shape[1]))


def clip_scores(predicted: Sequence[Span], num_clips: int) -> list[float]:
    """Return a saliency score for each clip of two seconds from ranked spans.

    A clip scores ``1 / rank`` of the first span that contains its middle, and 0 if none does.
    """
    middles = [(number + 0.5) * CLIP for number in range(num_clips)]
    ranks = [next((k for k, span in enumerate(predicted, 1) if span[0] <= at <= span[1]), 0) for at in middles]
    return [1 / rank if rank else 0.0 for rank in ranks]


def hit_at_1(scores: Sequence[float], gold: Sequence[Sequence[float]], *, minimum: float = 4) -> float:
    """Return 1 if the clip with the highest saliency is a highlight for one annotator, as in QVHighlights.

    Args:
        scores: Predicted saliency of each clip. Of equal ones, the first clip counts.
        gold: For each clip, the saliency that each annotator gave, from 0 to 4.
        minimum: Least saliency of a highlight: 2 is "fair", 3 "good", 4 "very good".
    """
    if not scores:
        return 0.0
    best = int(np.argmax(scores))
    return float(best < len(gold) and max(gold[best]) >= minimum)


def saliency_average_precision(
    scores: Sequence[float], gold: Sequence[Sequence[float]], *, minimum: float = 4
) -> float:
    """Return the average precision of highlights, averaged over the annotators, as in QVHighlights.

    Arguments are those of ``hit_at_1``. Missing scores are 0, and scores after the last clip do not count.
    """
    given = np.zeros(len(gold))
    given[: len(scores)] = scores[: len(gold)]
    right = np.asarray(gold, dtype=float) >= minimum  # (clips, annotators)
    return float(np.mean([_ranking_precision(given, labels) for labels in right.T]))


def _ranking_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of the interpolated precision at each score where recall increases.

    Clips with equal scores enter together. The official scorer weights all increases equally, however large.
    """
    if labels.all() or not labels.any():
        return float(labels[0])
    levels = np.unique(scores)[::-1]
    chosen = scores[None, :] >= levels[:, None]  # (levels, clips)
    hits = (chosen & labels).sum(axis=1)
    precision = np.maximum.accumulate((hits / chosen.sum(axis=1))[::-1])[::-1]
    return float(precision[np.diff(hits, prepend=0) > 0].mean())
