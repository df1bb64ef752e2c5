"""Write numbers in English words."""

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_LARGE = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))


def in_words(number: int) -> str:
    """Return a number of at least 0 in English words, as the package num2words writes it.

    Example:
        >>> in_words(21), in_words(1_105)
        ('twenty-one', 'one thousand, one hundred and five')
    """
    if number < len(_SMALL):
        return _SMALL[number]
    for size, name in _LARGE:
        if number >= size:
            high, rest = divmod(number, size)
            joint = " and " if rest < 100 else ", "
            return f"{in_words(high)} {name}" + (f"{joint}{in_words(rest)}" if rest else "")
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_SMALL[ones]}" if ones else "")
