"""Tokenize questions for connectors that read them: the text of a user turn, in tokens of the text decoder.

Training, benchmarks and ``ask`` all use this module, so a connector always sees a question in the same form. The text
that the LLM reads is not changed.
"""

import logging
import re
from typing import Any

from tinyvid.errors import ConfigError

logger = logging.getLogger(__name__)

_CHOICE = re.compile(r"\s*\(?([A-Z])[.):]\)?\s+\S")  # "A. a dog", "(A) a dog", "A) a dog", "A: a dog"


class QuestionReader:
    """Tokenize a question. Like LLaMA-VID, it cuts off the beginning of a question that is too long; it warns once.

    Args:
        tokenizer: The text decoder's own tokenizer, or the LLM's.
        max_length: Maximum number of tokens of a question, including special tokens.
        special_tokens: Whether to add the tokenizer's special tokens.
        choices: Whether to keep the choices of a multiple-choice question; see ``without_choices``.
        vocab_size: Vocabulary size of the text decoder; ``None`` if it reads the LLM's embeddings.
        part: What reads the question, for messages.

    Raises:
        ConfigError: The tokenizer is larger than ``vocab_size``, or ``max_length`` leaves no room for a question.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        special_tokens: bool,
        choices: bool = True,
        vocab_size: int | None = None,
        part: str = "text decoder",
    ) -> None:
        if vocab_size is not None and len(tokenizer) > vocab_size:
            raise ConfigError(
                f"text_decoder.tokenizer has {len(tokenizer):,} tokens, but the text decoder has "
                f"text_decoder.vocab_size={vocab_size:,}; choose the tokenizer that its weights were trained with"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.choices = choices
        self.part = part
        self._before, self._after = _frame(tokenizer) if special_tokens else ([], [])
        self._room = max_length - len(self._before) - len(self._after)
        if self._room < 1:
            raise ConfigError(f"text_decoder.max_length={max_length} leaves no room for a question; raise it")
        self._warned = False

    def __call__(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a question, at most ``max_length``."""
        words = text if self.choices else without_choices(text)
        ids = self.tokenizer(words, add_special_tokens=False, verbose=False).input_ids
        if len(ids) > self._room:
            self._warn(len(ids) - self._room)
        return (*self._before, *ids[-self._room :], *self._after)

    def _warn(self, num_lost: int) -> None:
        if not self._warned:
            logger.warning(
                "A question exceeds the %d tokens that the %s reads. The %s does not read its first %d tokens, but the "
                "LLM reads the whole question. This warning is shown only once.",
                self.max_length,
                self.part,
                self.part,
                num_lost,
            )
        self._warned = True


def without_choices(text: str) -> str:
    r"""Remove the choices from a question: at least two lines that begin with A, B, C, ... in this order.

    Example:
        >>> without_choices("Who barks?\nA. a dog\nB. a cat\nAnswer with a letter.")
        'Who barks?\nAnswer with a letter.'
    """
    lines = text.splitlines()
    letters = [found[1] if (found := _CHOICE.match(line)) else "" for line in lines]
    chosen: list[int] = []
    for number, letter in enumerate(letters):
        if letter and letter == chr(ord("A") + len(chosen)):
            chosen.append(number)
    if len(chosen) < 2:
        return text
    return "\n".join(line for number, line in enumerate(lines) if number not in chosen)


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and after a text."""
    plain, framed = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    first = next(n for n in range(len(framed) - len(plain) + 1) if framed[n : n + len(plain)] == plain)
    return framed[:first], framed[first + len(plain) :]
