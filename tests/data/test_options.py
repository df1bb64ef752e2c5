"""Options and answers of rows: letters that they carry, and values that cannot be asked."""

import pytest

from tinyvid import DataError
from tinyvid.data.options import answers_of, options_of


@pytest.mark.parametrize(
    "form",
    [
        "{}. {}",
        "{}) {}",
        "({}) {}",
        "[{}] {}",
        "{}: {}",
        "{} . {}",
        "{} - {}",
        " {}.{} ",
        "({}){}",
        "{}、{}",
        "{}．{}",
        "（{}）{}",
        "{}：{}",
        "**{}.** {}",
        "**{}**: {}",
        "Option {}: {}",
    ],
)
@pytest.mark.parametrize("letters", ["ABC", "abc"])
def test_letters_are_stripped(form, letters):
    texts = ["a cat", "5.", "A. Lincoln"]
    options = [form.format(letter, text) for letter, text in zip(letters, texts, strict=True)]
    assert options_of({"options": options}) == texts


@pytest.mark.parametrize(
    "options",
    [
        ["A. a cat", "a dog"],
        ["C. elegans", "E. coli"],
        ["A cat", "B movie"],
        ["a", "b"],
        ["A", "B"],
        ["A.", "B."],
        ["1. a cat", "2. a dog"],
        ["Apple", "Banana"],
    ],
)
def test_options_without_a_series_of_letters_stay(options):
    assert options_of({"options": options}) == options


def test_padding_may_repeat():
    assert options_of({"options": ["A. x", "B. N/A", "C. N/A"]}) == ["x", "N/A", "N/A"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["B. a cat", "A. a dog"], "carry the letters B, A; order them"),
        (["a", None], "'options' must be texts or numbers, got None"),
        (["a", ""], "got ''"),
        (["a", " "], "got ' '"),
        (["a", True], "got True"),
        (["a", ["b"]], r"got \['b'\]"),
        (["a", float("nan")], "got nan"),
        (["a", 10**400], "got 1000"),
        (["a", "b", "a"], "contains 'a' twice"),
        (["A. a", "B. a"], "contains 'a' twice"),
        (["a", "a "], "contains 'a' twice"),
        (["3", 3], "contains '3' twice"),
        ({"A": "a", "B": "b"}, "must be a list of 2 to 26 choices, got {'A'"),
        ([], "must be a list"),
    ],
)
def test_options_that_cannot_be_asked(options, message):
    with pytest.raises(DataError, match=message):
        options_of({"options": options})


@pytest.mark.parametrize(("answer", "texts"), [("a", ("a",)), (3, ("3",)), (1.5, ("1.5",)), (["a", 2], ("a", "2"))])
def test_answers(answer, texts):
    assert answers_of({"answer": answer}) == texts


@pytest.mark.parametrize("answer", [True, "", " ", [], [""], [None], ["a", False], {"a": 1}, float("nan"), 10**400])
def test_an_answer_of_another_type(answer):
    with pytest.raises(DataError, match="'answer' must be a text, a number or a list of alternatives, got"):
        answers_of({"answer": answer})


def test_a_row_without_an_answer():
    with pytest.raises(DataError, match="the row has no answer"):
        answers_of({"answer": None})
