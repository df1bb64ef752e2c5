"""The options and answers of a row."""

import re
from collections.abc import Mapping
from typing import Any

from tinyvid.data.media import is_number
from tinyvid.errors import DataError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHOICE_PROMPT = "Answer with the option's letter from the given choices directly."
PADDING = {"", "n/a"}  # texts that pad the options of published benchmarks
_LETTERED = re.compile(
    r"\s*\**(?:option\s)?(?:[(（]([a-z])[)）]|\[([a-z])\]|([a-z])(?:\s?(?:[.):、．：]|\*+:)|\s[-–—]\s))\**\s*(\S.*)",
    re.IGNORECASE | re.DOTALL,
)


def options_of(row: Mapping[str, Any]) -> list[str]:
    """Return the texts of a row's options, without letters that all of them carry (``A. a cat``, ``(B) a dog``).

    ``N/A`` may occur more than once.

    Raises:
        DataError: They are not 2 to 26 different texts or numbers, or their letters are not in order.
    """
    options = row.get("options")
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise DataError(f"'options' must be a list of 2 to {len(LETTERS)} choices, got {options!r:.80}")
    for option in options:
        if not (is_number(option) or (isinstance(option, str) and option.strip())):
            raise DataError(f"'options' must be texts or numbers, got {option!r:.80}; correct or remove it")
    texts = without_letters([str(option) for option in options])
    wordings = [text.strip() for text in texts]
    twins = [text for text in wordings if wordings.count(text) > 1 and not is_padding(text)]
    if twins:
        raise DataError(f"'options' contains {twins[0]!r:.80} twice; all options must differ")
    return texts


def is_padding(option: str) -> bool:
    """Return whether an option only fills up the list of options."""
    return option.strip().lower() in PADDING


def without_letters(options: list[str]) -> list[str]:
    """Return options without their letters if they carry A, B, C, ... in order; unchanged if some carry no letter.

    Example:
        >>> without_letters(["A. a cat", "B. a dog"])
        ['a cat', 'a dog']

    Raises:
        DataError: They carry the first letters of the alphabet in another order.
    """
    parts = [_LETTERED.fullmatch(option) for option in options]
    letters = "".join((part[1] or part[2] or part[3]).upper() for part in parts if part)
    expected = LETTERS[: len(options)]
    if letters == expected:
        return [part[4].strip() for part in parts if part]
    if len(options) > 1 and sorted(letters) == list(expected):
        raise DataError(f"'options' carry the letters {', '.join(letters)}; order them, or remove the letters")
    return options


def answer_index(row: Mapping[str, Any], options: list[str]) -> int:
    """Return the index of the correct option.

    Raises:
        DataError: It is not the index of an option, or ``answer`` names another option.
    """
    index = row.get("answer_index")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(options):
        raise DataError(f"'answer_index' must be a number from 0 to {len(options) - 1}, got {index!r:.80}")
    if is_padding(options[index]):
        raise DataError(f"'answer_index' is {index}, the option {options[index]!r}, which stands for no option")
    answer = row.get("answer")
    if isinstance(answer, str) and answer.strip() in options and answer.strip() != options[index]:
        raise DataError(
            f"'answer_index' is {index}, the option {options[index]!r}, but 'answer' is {answer!r}; correct one"
        )
    return index


def answers_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the correct answers of a row: ``answer``, a text, a number or a list of alternatives.

    Raises:
        DataError: The row has no answer, or one of another type.
    """
    answer = row.get("answer")
    if answer is None:
        raise DataError("the row has no answer; end it with an assistant turn or add 'answer'")
    answers = answer if isinstance(answer, list) else [answer]
    if not answers or not all(is_number(a) or (isinstance(a, str) and a.strip()) for a in answers):
        raise DataError(f"'answer' must be a text, a number or a list of alternatives, got {answer!r:.80}")
    return tuple(map(str, answers))
