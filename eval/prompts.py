"""How the benchmarks write options, and the lines that several of them share."""

from collections.abc import Mapping

from tinyvid import CHOICE_PROMPT, Message

LETTER_PROMPT = CHOICE_PROMPT  # the line of TinyLLaVA-Video, lmms-eval and LongVideoBench
BEST_OPTION = "Only give the best option."


def dotted(options: Mapping[str, str]) -> str:
    """Return options as lines ``A. a cat``."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def bracketed(options: Mapping[str, str]) -> str:
    """Return options as lines ``(A) a cat``."""
    return "\n".join(f"({letter}) {text}" for letter, text in options.items())


def conversation(text: str, *, system: str = "") -> list[Message]:
    """Return what the user asks, after a system message if there is one."""
    return [*([Message("system", system)] if system else []), Message("user", text)]
