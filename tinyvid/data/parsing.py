"""Convert rows of tinyvid, LLaVA, LLaVA-Video, LLaMA-Factory or ms-swift to samples.

One parser suffices, because the formats differ only in the names of keys. It opens no files, and reports all faults of
a row at once.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyvid.data.keys import (
    LOSS_KEYS,
    READ,
    ROLE_KEYS,
    SYSTEM_KEYS,
    TEXT_KEYS,
    TURN_KEYS,
    faults_of_keys,
    faults_of_turn,
    given,
)
from tinyvid.data.media import bounds_of, checked_path, fps_of, is_number, media_of, subtitles_of
from tinyvid.data.options import CHOICE_PROMPT, LETTERS, answer_index, answers_of, options_of
from tinyvid.errors import DataError, suggest
from tinyvid.types import Message, Sample, Video

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
MARKER = re.compile(r"<(image|video)>")
_NEAR_MARKER = re.compile(r"<\|?/?(?:image|video|img)s?[\s_-]?(?:\d+|pad|token|placeholder)?\|?>", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")


class RowError(DataError):
    """A row cannot be converted to a sample.

    Attributes:
        faults: All faults of the row, as pairs of a kind (``json``, ``keys``, ``turns``, ``media``, ``markers``,
            ``options``, ``no_reply`` or ``row``) and a message.
    """

    def __init__(self, message: str, faults: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults) or (("row", message),)


def to_sample(row: Mapping[str, Any], *, media_root: Path, default_id: str, allowed: Sequence[Path] = ()) -> Sample:
    """Convert a row to a sample.

    Keys: ``video`` or ``image`` (a path, or a list), ``clip`` ([start, end] in seconds, or ``start`` and ``end``),
    ``fps`` (of a folder of frames), ``subtitles`` (of a single video: a file, or a list of ``start``, ``end`` and
    ``text``), ``system`` (a text), ``conversations`` or ``messages`` (turns with ``from``/``value`` or
    ``role``/``content``, and ``loss``: false for a reply that is not learned), and ``options`` with ``answer_index``
    (multiple choice: if the last question has no reply, the options are appended and the letter becomes the reply).
    ``tinyvid.data.keys`` lists other names of these keys. All other keys go to ``meta``.

    Markers (``<image>``, ``<video>``) say which turn shows the next medium. They are removed from the text. A question
    that has text between its markers shows each medium in its place; otherwise, media come before their question.
    Without markers, all media come with the first user turn. If every user turn repeats the marker of a single video,
    it is shown once, with the first turn. As in LLaVA, a reply before the first question is dropped.

    Args:
        row: The row.
        media_root: Folder that media paths are relative to and must stay in.
        default_id: Id of a row without one.
        allowed: Other folders that media may be in.

    Raises:
        RowError: The row has faults.
    """
    faults: list[tuple[str, str]] = [("keys", fault) for fault in faults_of_keys(row)]

    def attempt(kind: str, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except DataError as error:
            faults.append((kind, str(error)))

    turns = attempt("turns", _turns, row) or []
    messages = [attempt("turns", _turn, number, turn) for number, turn in enumerate(turns)]
    media = attempt("media", media_of, row)
    paths = [attempt("media", checked_path, path, media_root, allowed) for _, path in media or []]
    bounds, fps = attempt("media", bounds_of, row, len(paths)), attempt("media", fps_of, row)
    subtitles = attempt("media", subtitles_of, row, len(paths), media_root, allowed)
    order = list(range(len(paths)))
    if messages and None not in messages:
        messages = attempt("turns", _from_question, messages) or messages
        attempt("no_reply", _refuse_empty_replies, messages)
        messages = attempt("turns", _with_system, messages, row) or messages
        if media is not None:
            messages, order = attempt("markers", _place, messages, [kind for kind, _ in media]) or (messages, order)
        messages = attempt("options", _with_options, messages, row) or messages
    name = attempt("keys", _id, row, default_id)
    if faults:
        raise RowError("; ".join(message for _, message in faults), faults)
    videos = [Video(paths[i], start=bounds[0], end=bounds[1], fps=fps, subtitles=subtitles) for i in order]
    meta = {key: value for key, value in row.items() if key not in READ}
    return Sample(messages=messages, video=videos or None, id=name, meta=meta)


NO_REPLY = "the row has no reply to learn; add an assistant turn with text"


def learns(messages: Sequence[Message]) -> bool:
    """Return whether a conversation has a reply to learn. Training and ``check_data.py`` refuse rows without one."""
    return any(message.role == "assistant" and message.loss and message.text.strip() for message in messages)


def _id(row: Mapping[str, Any], default: str) -> str:
    name = row.get("id")
    if name is None or name == "":
        return default
    if not (isinstance(name, str) or is_number(name)) or len(str(name)) > 1000 or _SURROGATE.search(str(name)):
        raise DataError(f"'id' must be a text of at most 1,000 characters or a number, got {name!r:.80}")
    return str(name)


def _turns(row: Mapping[str, Any]) -> list[Any]:
    found = [key for key in TURN_KEYS if row.get(key) is not None]
    if len(found) != 1 or not isinstance(row[found[0]], list) or not row[found[0]]:
        got = ", ".join(f"{key}={row[key]!r:.80}" for key in found) or f"the keys {', '.join(map(repr, row)) or 'none'}"
        raise DataError(f"a row needs one list of turns, 'conversations' or 'messages', got {got:.400}")
    return row[found[0]]


def _turn(number: int, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"turn {number} must be an object with 'from' and 'value', got {turn!r:.80}")
    for fault in faults_of_turn(turn):
        raise DataError(f"turn {number}: {fault}")
    role_key, text_key, loss_key = (given(turn, names) for names in (ROLE_KEYS, TEXT_KEYS, LOSS_KEYS))
    role, text = (turn[key] if key else None for key in (role_key, text_key))
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"turn {number} has the role {role!r:.80}. {suggest(str(role)[:80], ROLES)}")
    if not isinstance(text, str):
        raise DataError(f"turn {number} ({role}) needs a text in 'value', got {text!r:.80}")
    half = _SURROGATE.search(text)
    if half:  # JSON can contain a lone surrogate, but UTF-8 and tokenizers cannot
        raise DataError(
            f"turn {number} ({role}) contains half a character, {half[0]!r}, at character {half.start()}; remove it"
        )
    loss = turn[loss_key] if loss_key else None
    if loss is not None and loss not in (True, False):  # also 1 and 0, as in the key 'weight'
        raise DataError(f"turn {number} ({role}): '{loss_key}' must be true or false, got {loss!r:.80}")
    if loss and ROLES[role] != "assistant":
        raise DataError(f"turn {number} ({role}): '{loss_key}' is true, but only replies can be learned; remove it")
    return Message(ROLES[role], text, loss=loss is None or bool(loss))  # type: ignore[arg-type]


def _from_question(messages: list[Message]) -> list[Message]:
    if messages[0].role == "assistant":
        messages = messages[1:]
    if not any(message.role == "user" for message in messages):
        raise DataError("the row contains no question; add a user turn")
    return messages


def _refuse_empty_replies(messages: list[Message]) -> None:
    for message in messages:
        if message.role == "assistant" and message.loss and not message.text.strip():
            raise DataError(
                "a reply is empty, so the model would learn to say nothing; add its text, or 'loss': false to read it "
                "without learning it"
            )


def _with_system(messages: list[Message], row: Mapping[str, Any]) -> list[Message]:
    key = given(row, SYSTEM_KEYS)
    if key is None or row[key] == "":
        return messages
    if not isinstance(row[key], str) or _SURROGATE.search(row[key]):
        raise DataError(f"'{key}' must be a text, got {row[key]!r:.80}")
    if messages[0].role == "system":
        raise DataError(f"the row has both '{key}' and a system turn; keep one")
    return [Message("system", row[key]), *messages]


def _place(messages: list[Message], kinds: list[str]) -> tuple[list[Message], list[int]]:
    """Convert markers to ``Message.videos``; return the messages, and the order in which they show the media."""
    for number, message in enumerate(messages):
        odd = next((found for found in _NEAR_MARKER.finditer(message.text) if not MARKER.fullmatch(found[0])), None)
        if odd and kinds and message.role == "user":
            raise DataError(f"turn {number} contains {odd[0]!r}; a marker is <image> or <video>, without a number")
    marks = [MARKER.findall(message.text) for message in messages]
    if not any(marks):
        if len(set(kinds)) > 1:
            raise DataError(
                "the row has both 'video' and 'image'; show their order with markers, <video> and <image>, in the turns"
            )
        return messages, list(range(len(kinds)))
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    for number, found in enumerate(marks):
        if found and number not in users:
            role = messages[number].role
            raise DataError(
                f"turn {number} ({role}) contains a marker (<image> or <video>); only user turns can show media"
            )
    if len(kinds) == 1 and len(users) > 1 and all(len(marks[number]) == 1 for number in users):
        plain = [replace(message, text=_unmarked(message.text)) for message in messages]
        return [replace(m, videos=int(number == users[0])) for number, m in enumerate(plain)], [0]
    shown = [kind for found in marks for kind in found]
    if len(shown) != len(kinds):
        raise DataError(
            f"the turns contain {len(shown)} markers (<image> or <video>) for {len(kinds)} media; use one for each"
        )
    return [_marked(message) for message in messages], _order(shown, kinds)


def _order(shown: list[str], kinds: list[str]) -> list[int]:
    """Return which medium each marker shows. With media of one kind, either marker shows the next one."""
    if len(set(kinds)) == 1:
        return list(range(len(kinds)))
    if sorted(shown) != sorted(kinds):
        raise DataError(
            f"the turns contain {shown.count('video')} <video> and {shown.count('image')} <image> for "
            f"{kinds.count('video')} videos and {kinds.count('image')} images; use one for each"
        )
    next_of = {kind: iter([i for i, other in enumerate(kinds) if other == kind]) for kind in set(kinds)}
    return [next(next_of[kind]) for kind in shown]


def _marked(message: Message) -> Message:
    """Return a message without markers, with the number of its media and, if text separates them, their places."""
    parts = MARKER.split(message.text)[::2]
    if any(part.strip() for part in parts[1:-1]):
        places = [sum(map(len, parts[: n + 1])) for n in range(len(parts) - 1)]
        return replace(message, text="".join(parts), videos=len(places), places=tuple(places))
    return replace(message, text=_unmarked(message.text), videos=len(parts) - 1)


def _unmarked(text: str) -> str:
    without = MARKER.sub("", text)
    return text if without == text else without.strip()


def _with_options(messages: list[Message], row: Mapping[str, Any]) -> list[Message]:
    """Append the options to a last question without a reply, and reply with the letter of the correct one."""
    question, options = messages[-1], row.get("options")
    if options is None and row.get("answer_index") is not None:
        raise DataError("the row has 'answer_index' without 'options'; add the options, or remove it")
    if options is None:
        if question.role == "user" and row.get("answer") is not None:
            answers_of(row)
        return messages
    texts = options_of(row)
    if question.role != "user":
        if row.get("answer_index") is not None:
            answer_index(row, texts)
        return messages
    index = answer_index(row, texts)
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, texts, strict=False)]
    text = "\n".join([question.text, *lines, CHOICE_PROMPT])
    return [*messages[:-1], replace(question, text=text), Message("assistant", LETTERS[index])]
