"""Convert rows of tinyvid, LLaVA or LLaVA-Video to samples.

One parser suffices, because tinyvid's rows are LLaVA's with additional fields. It opens no files, and reports all
faults of a row at once.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyvid.errors import DataError, suggest
from tinyvid.text.subtitles import json_cue
from tinyvid.types import Cue, Message, Sample, Video

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
MARKER = re.compile(r"<(?:image|video)>")
_SURROGATE = re.compile("[\ud800-\udfff]")
MEDIA_KEYS = ("video", "image")
TURN_KEYS = ("conversations", "messages")
_READ = {"id", "clip", "start", "end", "fps", "subtitles", *MEDIA_KEYS, *TURN_KEYS}  # all other keys go to meta
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHOICE_PROMPT = "Answer with the option's letter from the given choices directly."


class RowError(DataError):
    """A row cannot be converted to a sample.

    Attributes:
        faults: All faults of the row, as pairs of a kind (``json``, ``turns``, ``media``, ``markers``,
            ``options``) and a message.
    """

    def __init__(self, message: str, faults: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


def to_sample(row: Mapping[str, Any], *, media_root: Path, default_id: str) -> Sample:
    """Convert a row to a sample.

    Keys: ``video`` or ``image`` (a path, or a list), ``clip`` ([start, end] in seconds, or ``start`` and ``end``),
    ``fps`` (of a folder of frames), ``subtitles`` (of a single video: a file, or a list of ``start``, ``end`` and
    ``text``), ``conversations`` or ``messages`` (turns with ``from``/``value`` or ``role``/``content``), and
    ``options`` with ``answer_index`` (multiple choice: if the last question has no reply, the options are appended and
    the letter becomes the reply). All other keys go to ``meta``.

    Markers (``<image>``, ``<video>``) say which turn shows the next video. They are removed from the text, because the
    template puts videos before their turn. Without markers, all videos come with the first user turn. If every user
    turn repeats the marker of a single video, it is shown once, with the first turn. As in LLaVA, a reply before the
    first question is dropped.

    Raises:
        RowError: The row has faults.
    """
    faults: list[tuple[str, str]] = []

    def attempt(kind: str, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except DataError as error:
            faults.append((kind, str(error)))

    turns = attempt("turns", _turns, row) or []
    messages = [attempt("turns", _turn, number, turn) for number, turn in enumerate(turns)]
    paths = attempt("media", _paths, row)
    places = [attempt("media", _inside, path, media_root) for path in paths or []]
    bounds, fps = attempt("media", _bounds, row, len(places)), attempt("media", _fps, row)
    subtitles = attempt("media", _subtitles, row, len(places), media_root)
    if messages and None not in messages:
        messages = attempt("turns", _from_question, messages) or messages
        if paths is not None:
            messages = attempt("markers", _place, messages, len(paths)) or messages
        messages = attempt("options", _with_options, messages, row) or messages
    if faults:
        raise RowError("; ".join(message for _, message in faults), faults)
    videos = [Video(place, start=bounds[0], end=bounds[1], fps=fps, subtitles=subtitles) for place in places]
    name = row.get("id")
    meta = {key: value for key, value in row.items() if key not in _READ}
    return Sample(messages=messages, video=videos or None, id=default_id if name is None else str(name), meta=meta)


def _turns(row: Mapping[str, Any]) -> list[Any]:
    given = [key for key in TURN_KEYS if row.get(key) is not None]
    if len(given) != 1 or not isinstance(row[given[0]], list) or not row[given[0]]:
        found = (
            ", ".join(f"{key}={row[key]!r:.80}" for key in given) or f"the keys {', '.join(map(repr, row)) or 'none'}"
        )
        raise DataError(f"a row needs one list of turns, 'conversations' or 'messages', got {found}")
    return row[given[0]]


def _turn(number: int, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"turn {number} must be an object with 'from' and 'value', got {turn!r:.80}")
    role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"turn {number} has the role {role!r:.80}. {suggest(str(role), ROLES)}")
    if not isinstance(text, str):
        raise DataError(f"turn {number} ({role}) needs a text in 'value', got {text!r:.80}")
    half = _SURROGATE.search(text)
    if half:  # JSON can contain a lone surrogate, but UTF-8 and tokenizers cannot
        raise DataError(
            f"turn {number} ({role}) contains half a character, {half[0]!r}, at character {half.start()}; remove it"
        )
    return Message(ROLES[role], text)  # type: ignore[arg-type]


def _from_question(messages: list[Message]) -> list[Message]:
    if messages[0].role == "assistant":
        messages = messages[1:]
    if not any(message.role == "user" for message in messages):
        raise DataError("the row contains no question; add a user turn")
    return messages


def _paths(row: Mapping[str, Any]) -> list[Any]:
    given = [key for key in MEDIA_KEYS if row.get(key) not in (None, [])]
    if len(given) == 2:
        raise DataError("the row has both 'video' and 'image'; keep one, as a list if there are several")
    if not given:
        return []
    return row[given[0]] if isinstance(row[given[0]], list) else [row[given[0]]]


def _bounds(row: Mapping[str, Any], num_videos: int) -> tuple[float | None, float | None]:
    """Return the start and end of a row's single video, in seconds."""
    given = [key for key in ("clip", "start", "end") if row.get(key) is not None]
    if not given:
        return None, None
    if num_videos != 1:
        raise DataError(f"'{given[0]}' needs exactly one video, but the row has {num_videos}")
    if "clip" in given and len(given) > 1:
        raise DataError(f"the row has both 'clip' and '{given[1]}'; keep one")
    clip = row["clip"] if "clip" in given else [row.get("start"), row.get("end")]
    if not isinstance(clip, list) or len(clip) != 2 or not all(t is None or is_number(t) for t in clip):
        raise DataError(f"'{given[0]}' must give seconds, as in 'clip': [2.5, 10], got {clip!r:.80}")
    return clip[0], clip[1]


def _fps(row: Mapping[str, Any]) -> float | None:
    fps = row.get("fps")
    if fps is not None and not (is_number(fps) and fps > 0):
        raise DataError(f"'fps' must be a positive number of frames per second, got {fps!r:.80}")
    return fps


def _subtitles(row: Mapping[str, Any], num_videos: int, media_root: Path) -> str | tuple[Cue, ...] | None:
    """Return the subtitles of a row's single video: the path of a file, or cues."""
    given = row.get("subtitles")
    if given is None:
        return None
    if num_videos != 1:
        raise DataError(f"'subtitles' need exactly one video, but the row has {num_videos}")
    if isinstance(given, str):
        return _inside(given, media_root)
    if not isinstance(given, list) or not all(isinstance(cue, Mapping) for cue in given):
        raise DataError(f"'subtitles' must be a file or a list of objects with start, end and text, got {given!r:.80}")
    cues = [json_cue(cue, where=f"subtitle {n}", last=n + 1 == len(given)) for n, cue in enumerate(given)]
    return tuple(sorted(cues, key=lambda cue: cue.start))


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _inside(path: Any, media_root: Path) -> str:
    """Return a media path, which must stay inside ``media_root``; symbolic links there are trusted."""
    if not isinstance(path, str) or not path:
        raise DataError(f"a media path must be a string, got {path!r:.80}")
    root = os.path.normpath(media_root)
    whole = os.path.normpath(os.path.join(root, path))
    if whole != root and not whole.startswith(root.rstrip(os.sep) + os.sep):
        raise DataError(
            f"the path {path!r} leaves the media folder {str(media_root)!r}; set data.media_root to a parent folder"
        )
    return whole


def _place(messages: list[Message], num_videos: int) -> list[Message]:
    """Convert markers to ``Message.videos`` and remove them from the text."""
    counts = [len(MARKER.findall(message.text)) for message in messages]
    if not any(counts):
        return messages
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    if num_videos == 1 and sum(counts) == len(users) > 1 and all(counts[number] == 1 for number in users):
        counts = [int(number == users[0]) for number in range(len(messages))]
    for number, count in enumerate(counts):
        if count and number not in users:
            role = messages[number].role
            raise DataError(
                f"turn {number} ({role}) contains a marker (<image> or <video>); only user turns can show media"
            )
    if sum(counts) != num_videos:
        raise DataError(
            f"the turns contain {sum(counts)} markers (<image> or <video>) for {num_videos} media; use one for each"
        )
    return [
        Message(message.role, _unmarked(message.text), videos=count)
        for message, count in zip(messages, counts, strict=True)
    ]


def _unmarked(text: str) -> str:
    without = MARKER.sub("", text)
    return text if without == text else without.strip()


def _with_options(messages: list[Message], row: Mapping[str, Any]) -> list[Message]:
    """Append the options to a last question without a reply, and reply with the letter of the correct one."""
    options, question = row.get("options"), messages[-1]
    if options is None or question.role != "user":
        return messages
    index = row.get("answer_index")
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise DataError(f"'options' must be a list of 2 to {len(LETTERS)} choices, got {options!r:.80}")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(options):
        raise DataError(f"'answer_index' must be a number from 0 to {len(options) - 1}, got {index!r:.80}")
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    text = "\n".join([question.text, *lines, CHOICE_PROMPT])
    return [*messages[:-1], Message("user", text, question.videos), Message("assistant", LETTERS[index])]
