import pytest

from tinyvid.text.numerals import in_words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (9, "nine"),
        (13, "thirteen"),
        (20, "twenty"),
        (64, "sixty-four"),
        (100, "one hundred"),
        (101, "one hundred and one"),
        (999, "nine hundred and ninety-nine"),
        (1_000, "one thousand"),
        (1_013, "one thousand and thirteen"),
        (1_105, "one thousand, one hundred and five"),
        (21_400, "twenty-one thousand, four hundred"),
        (1_000_001, "one million and one"),
        (2_000_300_040, "two billion, three hundred thousand and forty"),
    ],
)
def test_numbers_in_words_as_num2words_writes_them(number, words):
    assert in_words(number) == words
