"""The token that stands for video tokens in other programs: tinyvid itself has none, and never resizes a vocabulary."""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from tinyvid.errors import ConfigError

# Tokens that the makers of a tokenizer keep free for others.
RESERVED = re.compile(r"<\|?(reserved_special_token_|reserved_|unused|extra_)\d+\|?>|<(reponame|file_sep|gh_stars)>")


@dataclass(frozen=True, slots=True)
class Placeholders:
    """The placeholders of an exported model.

    Attributes:
        tokenizer: A copy of the tokenizer that knows them.
        texts: Their texts.
        ids: Their ids.
        rows: Rows that the embedding must have.
        notes: What was changed other than adding tokens to unused rows.
    """

    tokenizer: Any
    texts: dict[str, str]
    ids: dict[str, int]
    rows: int
    notes: tuple[str, ...]


def place(tokenizer: Any, wanted: Mapping[str, str], *, rows: int, used: frozenset[str], enlarge: bool) -> Placeholders:
    """Find a row of the embedding for each placeholder.

    It is the row of that token if the tokenizer has it, else the first row behind the tokenizer's, else that of a
    reserved token, and with ``enlarge`` a new row.

    Args:
        tokenizer: The tokenizer; it is not changed.
        wanted: The placeholders: what they stand for, and their texts.
        rows: Rows of the embedding.
        used: Tokens that prompts contain.
        enlarge: Whether rows may be added.

    Raises:
        ConfigError: There is no row.
    """
    tokenizer = deepcopy(tokenizer)
    texts: dict[str, str] = {}
    ids: dict[str, int] = {}
    notes = []
    for name, text in wanted.items():
        vocabulary = tokenizer.get_vocab()
        following = max(vocabulary.values()) + 1
        if text in vocabulary and vocabulary[text] < rows:
            pass
        elif text not in vocabulary and following < rows:
            _add(tokenizer, text)
        elif reserved := _reserved(vocabulary, rows, {*used, *texts.values()}):
            notes.append(f"The reserved token {reserved!r} of the tokenizer stands for a frame or a video.")
            text = reserved
        elif enlarge and text not in vocabulary:
            _add(tokenizer, text)
            rows = following + 1
            notes.append(f"The embedding was enlarged to {rows:,} rows, for the token {text!r}.")
        else:
            raise ConfigError(
                f"the embedding has {rows:,} rows, all of them used by the tokenizer, so there is none for the token "
                f"{text!r} that stands for video tokens; enlarge=true adds rows"
            )
        texts[name], ids[name] = text, tokenizer.convert_tokens_to_ids(text)
    return Placeholders(tokenizer, texts, ids, rows, tuple(notes))


def _add(tokenizer: Any, text: str) -> None:
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False)], special_tokens=True)


def _reserved(vocabulary: Mapping[str, int], rows: int, used: set[str]) -> str | None:
    found = [text for text, number in vocabulary.items() if RESERVED.fullmatch(text) and number < rows]
    return min((text for text in found if text not in used), key=lambda text: vocabulary[text], default=None)
