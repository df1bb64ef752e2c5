"""Score replies with values in [0, 1], by named rules. Every rule reads the final part of the reply and never guesses.

``choice``
    The letter from ``extract_choice``.
``label``
    An option by its text: the whole reply, the stated answer, or the only option in the reply.
``number``
    Mean relative accuracy (VSI-Bench, arXiv:2412.14171): the fraction of thresholds t in 0.50, 0.55, ... 0.95 for which
    ``|predicted - correct| / |correct| <= 1 - t``, including ties.
``yes_no``
    The first word, the stated answer, or the only one of the two words in the reply; "know" is not "no".
``contains``
    The reply contains the correct answer as a sequence of whole words. The reverse does not count, so an empty or
    one-letter reply is never correct.
``exact``
    The reply equals the answer, ignoring case, outer punctuation and a leading article.
``judge``
    A judge decides; see ``tinyvid.evaluation.judging.judge``.
``span``, ``spans``, ``events``
    The spans of time in the reply; see ``tinyvid.evaluation.scoring.timed``.

Of a reply to an item with key frames, the rules read only the answer, not the trace before it; see ``references``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from tinyvid.errors import DataError
from tinyvid.evaluation.items import NOT_ASKED, Item, Outcome, Verdict
from tinyvid.evaluation.scoring.choices import STATEMENT, extract_choice
from tinyvid.evaluation.scoring.references import answer_part, key_frames_of, marks_of
from tinyvid.evaluation.scoring.replies import final_part, plain, wording
from tinyvid.evaluation.scoring.timed import TIMED, check_timed, predict_spans, value_of

THRESHOLDS = [Fraction(k, 20) for k in range(10, 20)]  # 0.50 to 0.95 in steps of 0.05, without rounding errors
NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:\.\d{1,15})?(?:e[-+]?\d{1,2})?(?!\d)", re.IGNORECASE
)
SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SMALL += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SPELLED = re.compile(
    rf"\b(?:({'|'.join(TENS)})(?:[- ]({'|'.join(SMALL[1:10])}))?|({'|'.join(SMALL)}))\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of scoring a reply by a rule.

    Attributes:
        prediction: What was parsed; ``None`` if the reply cannot be parsed.
        value: Value in [0, 1]; ``None`` if the item has no answer, or if a judge decides.
        exact: Whether the reply is the answer and nothing else; for spans, whether they are those of the answer.
    """

    prediction: str | None
    value: float | None
    exact: bool = False


def read(item: Item, reply: str) -> Reading:
    """Score a reply by the item's rule. A reply that cannot be parsed has the value 0."""
    prediction = predict(item, reply)
    if item.answer is None or item.rule == "judge":
        return Reading(prediction, None)
    if prediction is None:
        return Reading(None, 0.0)
    readings = []
    for answer in (item.answer, *item.alternatives):
        exact = _is_exact(item, reply, prediction, answer)
        readings.append(Reading(prediction, _value(item, prediction, answer), exact))
    return max(readings, key=lambda reading: (reading.value, reading.exact))


def _is_exact(item: Item, reply: str, prediction: str, answer: str) -> bool:
    if item.rule in TIMED:
        return prediction == predict_spans(item.rule, answer)
    return wording(reply) == wording(item.options[answer] if item.rule == "label" else answer)


def check_answers(item: Item) -> None:
    """Raise ``DataError`` if no reply can match an answer of an item, or if its key frames are malformed.

    An answer of a timed rule must be written as ``Item.answer`` describes.
    """
    key_frames_of(item)
    readers = {"number": extract_number, "yes_no": extract_yes_no, "exact": wording, "contains": wording}
    for answer in () if item.answer is None else (item.answer, *item.alternatives):
        if item.rule in TIMED:
            check_timed(item, answer)
        if item.rule in readers and readers[item.rule](answer) in (None, ""):
            raise DataError(f"item '{item.id}': no reply can match the answer {answer!r:.80} with rule '{item.rule}'")


def rescore(item: Item, row: Outcome, verdict: Verdict | None = None) -> Outcome:
    """Return a row with the score of its reply, or with the score of the verdict if a judge decides."""
    row = replace(row, answer=item.answer, groups=dict(item.groups), points=marks_of(item, row))
    if row.status in NOT_ASKED:
        return replace(row, value=None if item.answer is None else 0.0)
    if row.likelihoods:
        best = max(row.likelihoods, key=lambda key: row.likelihoods[key])
        value = None if item.answer is None else float(best == item.answer)
        return replace(row, status="answered", prediction=best, value=value)
    reply = row.reply or ""
    reading = read(item, answer_part(reply, item.rule) if key_frames_of(item) else reply)
    row = replace(row, prediction=reading.prediction, value=reading.value, exact=reading.exact, reason="")
    if reading.prediction is None:
        return replace(row, status="unparsed", value=None if item.answer is None else 0.0)
    if verdict is None:
        return replace(row, status="answered")
    if verdict.error:
        return replace(row, status="judge_failed", value=0.0, reason=verdict.error)
    return replace(row, status="answered", value=verdict.value, points={**row.points, **verdict.points})


def is_judged(item: Item) -> bool:
    """Return whether a judge scores the replies to an item."""
    return item.rule == "judge" and item.answer is not None


def predict(item: Item, reply: str) -> str | None:
    """Return what is parsed from a reply, or ``None``."""
    if item.rule == "choice":
        return extract_choice(reply, item.options)
    if item.rule == "label":
        return extract_label(reply, item.options)
    if item.rule == "number":
        number = extract_number(reply)
        return None if number is None else str(int(number) if number.denominator == 1 else float(number))
    if item.rule == "yes_no":
        return extract_yes_no(reply)
    if item.rule in TIMED:
        return predict_spans(item.rule, reply)
    return plain(final_part(reply)) or None


def _value(item: Item, prediction: str, answer: str) -> float:
    if item.rule in TIMED:
        return value_of(item.rule, prediction, answer)
    if item.rule == "number":
        right = extract_number(answer)
        return mean_relative_accuracy(Fraction(prediction), right) if right is not None else 0.0
    if item.rule == "contains":
        return float(contains(prediction, answer))
    if item.rule in ("exact", "yes_no"):
        return float(wording(prediction) == wording(answer))
    return float(prediction == answer)


def extract_label(reply: str, options: Mapping[str, str]) -> str | None:
    """Return the key of the option in a reply, or ``None``.

    If a reply contains several options, one of them must be stated as the answer. "Road Accident" does not count as
    "Accident".
    """
    text = plain(final_part(reply))
    keys = {wording(label): key for key, label in options.items() if wording(label)}
    for piece in (text, *reversed(_stated(text)), text.split("\n")[-1]):
        if wording(piece) in keys:
            return keys[wording(piece)]
    for piece in (*reversed(_stated(text)), text):
        named = _named(wording(piece), keys)
        if named:
            return keys[named[0]] if len(named) == 1 else None
    return None


def _stated(text: str) -> list[str]:
    """Return the text after each "the answer is", up to the end of the line."""
    return [text[match.end() :].lstrip().partition("\n")[0] for match in STATEMENT.finditer(text)]


def _named(text: str, labels: Mapping[str, str]) -> list[str]:
    """Return the labels that a text contains as whole words. Longer labels take precedence over labels inside them."""
    found = []
    for label in sorted(labels, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(label)}(?!\w)"
        if re.search(pattern, text):
            found.append(label)
            text = re.sub(pattern, "|", text)
    return found


def extract_number(reply: str) -> Fraction | None:
    """Return the number in a reply: the first one after the last "answer:", or the only one in its last line.

    It may be written in digits, with commas and decimals, or in words up to ninety-nine.
    """
    text = plain(final_part(reply))
    for piece in reversed(_stated(text)):
        numbers = _numbers(piece)
        if numbers:
            return numbers[0]
    numbers = list(dict.fromkeys(_numbers(text.split("\n")[-1])))
    return numbers[0] if len(numbers) == 1 else None


def _numbers(text: str) -> list[Fraction]:
    """Return the numbers in a text, in order."""
    spelled = [(m.start(), Fraction(_spelled(*m.groups()))) for m in _SPELLED.finditer(text)]
    digits = [(m.start(), Fraction(m[0].replace(",", ""))) for m in NUMBER.finditer(text)]
    return [number for _, number in sorted(spelled + digits)]


def _spelled(ten: str | None, one: str | None, small: str | None) -> int:
    if small:
        return SMALL.index(small.lower())
    assert ten is not None  # the pattern matches one or the other
    return 10 * (TENS.index(ten.lower()) + 2) + (SMALL.index(one.lower()) if one else 0)


def mean_relative_accuracy(predicted: Fraction, right: Fraction) -> float:
    """Return the fraction of thresholds that a number meets; for a correct answer of 0, whether the number is 0."""
    if right == 0:
        return float(predicted == 0)
    error = abs(predicted - right) / abs(right)
    return sum(error <= 1 - threshold for threshold in THRESHOLDS) / len(THRESHOLDS)


def extract_yes_no(reply: str) -> str | None:
    """Return ``yes`` or ``no`` from a reply, or ``None``."""
    text = plain(final_part(reply))
    for piece in (*reversed(_stated(text)), text, text.split("\n")[-1]):
        first = re.match(r"\W*(yes|no)(?!\w)(?!\s+(?:one|idea|doubt|matter)\b)", piece, re.IGNORECASE)
        if first:
            return first[1].lower()
    words = {word.lower() for word in re.findall(r"(?<!\w)(?:yes|no)(?!\w)", text, re.IGNORECASE)}
    return words.pop() if words == {"yes"} else None  # "no" inside a sentence can negate anything


def contains(reply: str, answer: str) -> bool:
    """Return whether ``reply`` contains ``answer`` as a sequence of whole words."""
    words = wording(answer)
    return bool(words) and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", wording(reply)) is not None
