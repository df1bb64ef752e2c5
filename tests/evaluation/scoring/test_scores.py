"""Rules that score replies."""

from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from tinyvid import DataError, Item, Message, Sample
from tinyvid.evaluation.scoring.scores import (
    extract_label,
    extract_number,
    extract_yes_no,
    mean_relative_accuracy,
    read,
)

SAMPLE = Sample([Message("user", "Q?")])
CLASSES = {name: name for name in ("Abuse", "Arson", "Accident", "Road Accident", "Normal Video")}


def item(rule, answer, options=None):
    return Item("x", SAMPLE, rule=rule, answer=answer, options=options or {})


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("3", 3),
        ("3.5 meters", "3.5"),
        ("There are 1,200 people.", 1200),
        ("-4", -4),
        ("50%", 50),
        ("1e3", 1000),
        ("three", 3),
        ("Twenty-one chairs", 21),
        ("forty", 40),
        ("I count 2 here and 3 there. The answer is 5.", 5),
        ("Answer: 7\nbecause 3 + 4 = 7", 7),
        ("First 2, then 3.\nSo there are 5.", 5),
        ("<think>10 or 12</think> 12", 12),
        ("2 and 3", None),
        ("", None),
        ("many", None),
        ("stone", None),
        ("phone", None),
        ("12:30", None),
        ("9" * 400, None),
    ],
)
def test_reads_a_number(reply, number):
    assert extract_number(reply) == (None if number is None else Fraction(number))


@pytest.mark.parametrize(
    ("predicted", "right", "value"),
    [
        (10, 10, 1.0),
        (9, 10, 0.9),  # an error of 0.1 meets 0.50 to 0.90: nine of ten
        (8, 10, 0.7),  # ties count; floats would miss one
        (5, 10, 0.1),
        (4, 10, 0.0),
        (21, 10, 0.0),
        (-10, -10, 1.0),
        (0, 0, 1.0),
        (1, 0, 0.0),
    ],
)
def test_mean_relative_accuracy(predicted, right, value):
    assert mean_relative_accuracy(Fraction(predicted), Fraction(right)) == value


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("Arson", "Arson"),
        ("arson.", "Arson"),
        ("**Normal Video**", "Normal Video"),
        ("Road Accident", "Road Accident"),
        ("The video shows a road accident on a street.", "Road Accident"),
        ("It is no abuse and no arson. The answer is Normal Video.", "Normal Video"),
        ("Abuse, Arson or Accident? Answer: Arson, since it burns", "Arson"),
        ("Abuse or Arson\nAbuse", "Abuse"),
        ("Abuse or Arson", None),
        ("Normal", None),
        ("accidental", None),
        ("", None),
    ],
)
def test_reads_a_label(reply, label):
    assert extract_label(reply, CLASSES) == label


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("No, it does not.", "no"),
        ("**Yes**, there is.", "yes"),
        ("I think so, yes", "yes"),
        ("The answer is no", "no"),
        ("Is it? No: yes, the answer is yes", "yes"),
        ("I know it", None),
        ("I do not know", None),
        ("not sure, nothing, notice", None),
        ("No one knows", None),
        ("There is no dog but yes, a cat", None),
        ("", None),
    ],
)
def test_reads_yes_or_no(reply, word):
    assert extract_yes_no(reply) == word


@pytest.mark.parametrize(
    ("rule", "answer", "reply", "value", "exact"),
    [
        ("exact", "The dog.", "dog", 1.0, True),
        ("exact", "dog", "a dog runs", 0.0, False),
        ("contains", "dog", "A dog runs.", 1.0, False),
        ("contains", "dog", "dogged", 0.0, False),
        ("contains", "a red dog", "red", 0.0, False),
        ("contains", "dog", "", 0.0, False),
        ("contains", "dog", "<think>dog</think>cat", 0.0, False),
        ("yes_no", "no", "No.", 1.0, True),
        ("number", "10", "about 9", 0.9, False),
        ("number", "10", "none", 0.0, False),
    ],
)
def test_rules(rule, answer, reply, value, exact):
    reading = read(item(rule, answer), reply)
    assert (reading.value, reading.exact) == (value, exact)


def test_a_choice_is_exact_if_it_is_only_the_letter():
    options = {"A": "a cat", "B": "a dog"}
    assert [read(item("choice", "B", options), reply).exact for reply in ("(b)", "B. a dog", "A")] == [
        True,
        False,
        False,
    ]
    assert read(item("choice", None, options), "B").value is None, "no answer is published"


@settings(deadline=None)
@given(st.text(), st.sampled_from(["label", "number", "yes_no", "contains", "exact"]), st.text())
def test_no_reply_raises_and_unparsed_replies_are_wrong(reply, rule, answer):
    reading = read(item(rule, "Arson" if rule == "label" else answer, CLASSES), reply)
    assert 0.0 <= reading.value <= 1.0
    assert reading.prediction is not None or reading.value == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "choise"}, r"rule 'choise' is unknown. Did you mean 'choice'\?"),
        ({"rule": "choice", "options": {"A": "x"}}, "needs at least 2 options"),
        ({"rule": "choice", "options": {"A": "x", "B": "y"}, "answer": "C"}, "the answer 'C' must be one of"),
        ({"rule": "exact", "sample": Sample([Message("assistant", "A")])}, "must end with a user turn"),
    ],
)
def test_an_item_that_cannot_be_scored_is_refused(options, message):
    with pytest.raises(DataError, match=message):
        Item("x", **{"sample": SAMPLE, **options})
