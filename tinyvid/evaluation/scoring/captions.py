"""Read dense captions from texts, and score them: CIDEr-D and SODA.

An event is a span with a sentence, ``(start, end, sentence)``. It is written with markers, one event per line:
``<time:2.4> to <time:9.0> A man lights the stove.``

Words are those of the Penn Treebank in a simple form: lower case, without punctuation, contractions split (``do n't``).
The official scorers run a Java program for this, whose words differ in rare cases.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tinyvid.errors import DataError
from tinyvid.evaluation.scoring.spans import F1_THRESHOLDS, found_spans, iou_matrix, without_markup, write_spans

Event = tuple[float, float, str]
Weighted = tuple[dict[tuple[str, ...], float], list[float], int]
SIZES = 4  # CIDEr-D uses sequences of one to four words
SIGMA = 6.0  # CIDEr-D's tolerance of a difference in length

_CONTRACTION = re.compile(r"(?=n't\b)|(?='(?:s|m|re|ve|ll|d)\b)")
_WORD = re.compile(r"n't\b|'(?:s|m|re|ve|ll|d)\b|\w+(?:[-.]\w+)*")
_QUOTED = re.compile(r'"(?:caption|sentence|description|event|text|step)"\s{0,4}:\s{0,4}"((?:[^"\\]|\\.)*)"')
_BULLET = re.compile(r"(?:event|step|segment|scene|clip|moment)?\s?#?\d{0,3}[.):]?", re.IGNORECASE)
_FIRST_BULLET = re.compile(r"^\W{0,3}(?:\d{1,3}[.):]|•)\s")
_NEXT_BULLET = re.compile(r"\s(?:\d{1,3}[.)]|•)$")
_OUTER = " ,;:|•–—-()[]{}"


def read_events(text: str) -> list[Event]:
    """Return the events in a text as ``(start, end, sentence)``, in order.

    Spans are read as by ``read_spans``. The sentence of an event is the rest of its line, up to the next span. If
    nothing follows the span in its line, it is the text before the span, or else the lines below it. In JSON, it is
    the value of ``caption``, ``sentence``, ``description``, ``event``, ``text`` or ``step``. It may be empty.

    Example:
        >>> read_events("2.4 - 9.0 seconds, a man lights the stove. 9.0 - 12.5 seconds, he cooks.")
        [(2.4, 9.0, 'a man lights the stove.'), (9.0, 12.5, 'he cooks.')]
    """
    text = without_markup(text)
    found = found_spans(text)
    quoted = _QUOTED.findall(text) if '"' in text else []
    events = []
    for number, (span, start, end) in enumerate(found):
        if len(quoted) == len(found):
            events.append((*span, _unquoted(quoted[number])))
            continue
        before = text[found[number - 1][2] : start] if number else "\n" + text[:start]
        is_last = number + 1 == len(found)
        rest, newline, below = text[end : None if is_last else found[number + 1][1]].partition("\n")
        if not is_last and not newline:
            rest = _NEXT_BULLET.sub("", rest.rstrip(_OUTER))  # of the next span in this line
        front = before.rpartition("\n")[2] if "\n" in before else ""  # else it belongs to the span before
        lines = below if is_last else below.rpartition("\n")[0]  # the last line is the front of the next span
        events.append((*span, _tidy(rest) or _tidy(_FIRST_BULLET.sub("", front)) or _tidy(lines)))
    return events


def _unquoted(text: str) -> str:
    """Return the value of a JSON string in one line; unchanged if it is not valid JSON."""
    with suppress(ValueError):
        text = json.loads(f'"{text}"', strict=False)
    return " ".join(text.split())


def _tidy(text: str) -> str:
    """Return a text in one line without outer brackets, separators and bullets."""
    text = " ".join(text.split()).lstrip(_OUTER + ".").rstrip(_OUTER)
    return "" if _BULLET.fullmatch(text) else text


def write_events(events: Sequence[Event]) -> str:
    """Return events as text with markers, one per line. ``read_events`` reads it back."""
    return "\n".join(f"{write_spans([(start, end)])} {' '.join(text.split())}" for start, end, text in events)


def words_of(sentence: str) -> list[str]:
    """Return the words of a sentence, in lower case and without punctuation.

    Example:
        >>> words_of("The man doesn't stop; it's a close-up.")
        ['the', 'man', 'does', "n't", 'stop', 'it', "'s", 'a', 'close-up']
    """
    return _WORD.findall(_CONTRACTION.sub(" ", sentence.casefold().replace("’", "'")))


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return the CIDEr-D of each candidate, from 0 to 10 (arXiv:1411.5726).

    A candidate and a reference are compared by the TF-IDF vectors of their sequences of one to four words, with counts
    clipped to those of the reference, and a Gaussian penalty on the difference in length (in pairs of words, as in the
    official scorer). The document frequencies come from the references; those of one candidate are one document. So
    a single candidate always scores 0, and so does any sequence that is in the references of every candidate. A
    candidate that is equal to its only reference scores 10 if it has at least four words.

    Raises:
        DataError: The number of references is different, or a candidate has none.
    """
    if len(candidates) != len(references) or not all(references):
        raise DataError(f"{len(candidates)} candidates need as many non-empty lists of references: {len(references)}")
    counted = [[_sequences(words_of(text)) for text in texts] for texts in references]
    frequency = Counter(key for texts in counted for key in set().union(*texts))
    idf = {key: math.log(len(candidates) / count) for key, count in frequency.items()}
    unseen = math.log(max(1, len(candidates)))
    scores = []
    for candidate, texts in zip(candidates, counted, strict=True):
        given = _weighted(_sequences(words_of(candidate)), idf, unseen)
        pairs = [_cider_d(given, _weighted(text, idf, unseen)) for text in texts]
        scores.append(10 * sum(pairs) / len(pairs))
    return scores


def _sequences(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Return how often each sequence of one to four words occurs."""
    return Counter(
        tuple(words[first : first + size]) for size in range(1, SIZES + 1) for first in range(len(words) - size + 1)
    )


def _weighted(counts: Counter[tuple[str, ...]], idf: Mapping[tuple[str, ...], float], unseen: float) -> Weighted:
    """Return the weight of each sequence, the norm for each size, and the number of pairs of words."""
    weights = {key: count * idf.get(key, unseen) for key, count in counts.items()}
    squares = [0.0] * SIZES
    for key, weight in weights.items():
        squares[len(key) - 1] += weight * weight
    return weights, [math.sqrt(square) for square in squares], sum(n for key, n in counts.items() if len(key) == 2)


def _cider_d(given: Weighted, right: Weighted) -> float:
    products = [0.0] * SIZES
    for key, weight in given[0].items():
        if key in right[0]:
            products[len(key) - 1] += min(weight, right[0][key]) * right[0][key]
    norms = [first * second for first, second in zip(given[1], right[1], strict=True)]
    cosines = [product / norm if norm else 0.0 for product, norm in zip(products, norms, strict=True)]
    return sum(cosines) / SIZES * math.exp(-((given[2] - right[2]) ** 2) / (2 * SIGMA**2))


def dense_cider_d(
    predicted: Sequence[Sequence[Event]],
    gold: Sequence[Sequence[Event]],
    thresholds: Sequence[float] = F1_THRESHOLDS,
) -> float:
    """Return the CIDEr-D of dense captions, from 0 to 10, averaged over thresholds of IoU.

    The protocol is that of ActivityNet Captions (arXiv:1705.00754): at each threshold, the references of a predicted
    sentence are the correct sentences whose spans have an IoU above the threshold with its span. A sentence without
    references scores 0. The mean is over the predicted sentences of all videos, so events that a model omits do not
    lower it; F1 and SODA count them.

    Args:
        predicted: Predicted events of each video.
        gold: Correct events of each video; several annotations of a video are joined.
        thresholds: Thresholds of IoU.
    """
    candidates = [event[2] for events in predicted for event in events]
    if not candidates:
        return 0.0
    rows = [
        row
        for events, right in zip(predicted, gold, strict=True)
        for row in iou_matrix([event[:2] for event in events], [event[:2] for event in right])
    ]
    sentences = [[event[2] for event in right] for events, right in zip(predicted, gold, strict=True) for _ in events]
    means = []
    for threshold in thresholds:
        references = [
            [text for text, value in zip(texts, row, strict=True) if value > threshold] or [""]
            for texts, row in zip(sentences, rows, strict=True)
        ]
        means.append(sum(cider_d(candidates, references)) / len(candidates))
    return sum(means) / len(means)


def unigram_f1(candidate: str, reference: str) -> float:
    """Return the F1 of the words of two sentences; a repeated word counts as often as in both."""
    first, second = Counter(words_of(candidate)), Counter(words_of(reference))
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 0.0


def soda(
    predicted: Sequence[Sequence[Event]],
    gold: Sequence[Sequence[Event]],
    similarity: Callable[[str, str], float] = unigram_f1,
) -> float:
    """Return the SODA of dense captions, from 0 to 1 (Fujita et al., ECCV 2020), with a similarity of your choice.

    For each video, predicted and correct events are matched one to one, in the order of their starts, so that the sum
    of IoU times similarity is as large as possible. Precision is this sum over all videos by the number of predicted
    events, recall by the number of correct events, and the result is their harmonic mean.

    The published SODA_c uses METEOR as similarity, which is a Java program. Numbers with another similarity must not
    be compared with it.

    Args:
        predicted: Predicted events of each video.
        gold: Correct events of each video.
        similarity: Similarity of two sentences in [0, 1]; the F1 of their words by default.
    """
    total = sum(_best_match(events, right, similarity) for events, right in zip(predicted, gold, strict=True))
    num_events = sum(map(len, predicted)) + sum(map(len, gold))
    return 2 * total / num_events if num_events else 0.0  # the harmonic mean of total / predicted and total / gold


def _best_match(predicted: Sequence[Event], gold: Sequence[Event], similarity: Callable[[str, str], float]) -> float:
    """Return the largest sum of IoU times similarity over matches that keep the order of starts."""
    predicted, gold = (sorted(events, key=lambda event: event[0]) for events in (predicted, gold))
    ious = iou_matrix([event[:2] for event in predicted], [event[:2] for event in gold])
    best = [0.0] * (len(gold) + 1)
    for event, row in zip(predicted, ious, strict=True):
        after = [0.0]
        for column, right in enumerate(gold):
            value = float(row[column]) * similarity(event[2], right[2]) if row[column] else 0.0
            after.append(max(best[column] + value, best[column + 1], after[column]))
        best = after
    return best[-1]
