"""The keys of a row: their names in common formats, and the keys that a row must not have.

A key that nothing reads is metadata. It is an error if it looks like a mistake: its name is almost that of another
key, it asks for something that tinyvid does not do, or it contains the only media of the row.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tinyvid.errors import DataError

VIDEO_KEYS = ("video", "videos", "video_path", "video_paths", "video_file", "video_files")
IMAGE_KEYS = ("image", "images", "image_path", "image_paths", "image_file", "image_files")
TURN_KEYS = ("conversations", "messages")
SYSTEM_KEYS = ("system", "system_prompt")
START_KEYS = ("start", "start_time", "video_start")
END_KEYS = ("end", "end_time", "video_end")
ROLE_KEYS, TEXT_KEYS, LOSS_KEYS = ("from", "role"), ("value", "content"), ("loss", "train", "weight")
# All keys that end up in a sample or its messages. The others go to ``Sample.meta``.
READ = {"id", "clip", "fps", "subtitles"}.union(
    VIDEO_KEYS, IMAGE_KEYS, TURN_KEYS, SYSTEM_KEYS, START_KEYS, END_KEYS
)  # fmt: skip
# Also those that are read from ``Sample.meta``.
KNOWN = READ | {"options", "answer_index", "answer", "rule", "group", "key_frames"}
_SECONDS = "give 'clip': [start, end] in seconds"
_FRAMES = "set sampler.num_frames or another option of the sampler for the run"
_BOUNDS = f"{_SECONDS}, or 'clip': null for the whole video"
_NOT_LEARNED = "use 'loss': false for a reply to read but not to learn"
_SOUND = "tinyvid does not read sound; remove it"
_REFUSED = {
    "timestamp": _SECONDS,
    "timestamps": _SECONDS,
    "segment": _SECONDS,
    "nframes": _FRAMES,
    "num_frames": _FRAMES,
    "min_frames": _FRAMES,
    "max_frames": _FRAMES,
    "audio": _SOUND,
    "audios": _SOUND,
    "tools": "describe the tools in the system message",
}
_REFUSED_IN_TURN = dict.fromkeys((*VIDEO_KEYS, *IMAGE_KEYS), "list the media of all turns in the row's 'video'") | {
    **dict.fromkeys(("loss_scale", "mask", "masked", "trainable", "training"), _NOT_LEARNED),
    "tool_calls": "write the call in the text of the turn",
    "reasoning_content": "write the reasoning in the text of the turn",
}
_ROW_NAMES = (*sorted(KNOWN - {"id", "answer", "rule", "group"}), *_REFUSED)
_TURN_NAMES = (*ROLE_KEYS, *TEXT_KEYS, *LOSS_KEYS, *_REFUSED_IN_TURN)
# Names long enough that a word with one other letter is a typing error rather than another word.
_TYPED = {name for name in (*KNOWN, *TEXT_KEYS) if len(name) > 5} | {"video", "image"}
_MEDIA_FILE = re.compile(
    r".+\.(?:mp4|m4v|mov|mkv|webm|avi|wmv|flv|mpe?g|3gp|ogv|gif|png|jpe?g|bmp|webp)", re.IGNORECASE | re.DOTALL
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_LIMITS = {"start", "end", "begin", "stop"}
_UNITS = {"time", "timestamp", "s", "sec", "secs", "second", "seconds", "ms", "frame", "video", "clip", "segment"}
_MEDIA, _PLACES = {"video", "vid", "image", "img"}, {"id", "name", "dir", "folder", "url", "uri", "file", "path"}


def given(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the one of several names for the same thing that a row or a turn has; ``None`` if it has none of them.

    Null and empty lists count as absent.

    Raises:
        DataError: It has two of them.
    """
    found = [name for name in names if not _absent(values.get(name))]
    if len(found) > 1:
        raise DataError(f"the keys '{found[0]}' and '{found[1]}' mean the same; keep one")
    return found[0] if found else None


def faults_of_keys(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the keys of a row that nothing reads."""
    unread = {key: value for key, value in row.items() if key not in KNOWN and not _asks_nothing(value)}
    shows_video = not all(_absent(row.get(key)) for key in VIDEO_KEYS)
    shows_media = not row.keys().isdisjoint((*VIDEO_KEYS, *IMAGE_KEYS))  # "video": null says that it has none
    whole = not shows_video or not row.keys().isdisjoint(("clip", *START_KEYS, *END_KEYS))
    for key, value in unread.items():
        first = value[0] if isinstance(value, list) else value
        words = [word.lower() for word in _WORDS.findall(key[:40])]
        if fault := _fault(key, _ROW_NAMES, {key: _BOUNDS} if not whole and _is_bound(words) else _REFUSED):
            yield fault
        elif key in LOSS_KEYS and value is False:
            yield f"'{key}' is not read; give it in the turn of a reply"
        elif not shows_media and isinstance(first, str) and _MEDIA_FILE.fullmatch(first[:4096]):
            yield (
                f"'{key}' names the file {first!r:.80}, but the media of a row are in 'video' or 'image'; rename the "
                "key, or add 'video': null if the row has no media"
            )
        elif not shows_media and _names_medium(words, first):
            yield (
                f"'{key:.40}' seems to name the medium of the row, but media are in 'video' or 'image'; add its path "
                "there, or 'video': null if the row has no media"
            )


def _is_bound(words: Sequence[str]) -> bool:
    """Return whether the words of a name are those of a start or an end, such as ``clip_start_sec``."""
    return not _LIMITS.isdisjoint(words) and (_LIMITS | _UNITS).issuperset(words)


def _names_medium(words: Sequence[str], value: Any) -> bool:
    """Return whether a key and its value look like the name of a medium, such as ``video_id``."""
    if words == ["media"]:
        return not isinstance(value, str)
    return isinstance(value, str) and len(words) == 2 and words[0] in _MEDIA and words[1].rstrip("s") in _PLACES


def faults_of_turn(turn: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the keys of a turn that nothing reads."""
    read = (*ROLE_KEYS, *TEXT_KEYS, *LOSS_KEYS)
    for key in turn:
        if key not in read and not _asks_nothing(turn[key]) and (fault := _fault(key, _TURN_NAMES, _REFUSED_IN_TURN)):
            yield fault


def _absent(value: Any) -> bool:
    return value is None or value in ([], {})


def _asks_nothing(value: Any) -> bool:
    """Return whether the value of an unread key asks for nothing; LLaMA-Factory writes ``"tools": "[]"``."""
    return _absent(value) or value in ("", "[]", "{}")


def _fault(key: str, names: tuple[str, ...], refused: Mapping[str, str]) -> str | None:
    """Return what is wrong with a key that nothing reads, or ``None`` for metadata."""
    near = key if key in refused else _near(key, names)
    if near is None:
        return None
    advice = f"; {refused[near]}." if near in refused else f". Did you mean '{near}'?"
    return f"'{key:.40}' is not read{advice} Put your own notes below one key, such as 'meta'"


@lru_cache(maxsize=4096)
def _near(key: str, names: tuple[str, ...]) -> str | None:
    """Return a name that differs in case, separators, a plural s or, in longer names, by one typing error."""
    plain = _plain(key[:40])
    same = next((name for name in names if _plain(name) == plain), None)
    typed = [name for name in names if name in _TYPED and _one_error(_plain(name), plain)]
    return same or next(iter(typed), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower().removesuffix("s")


def _one_error(first: str, second: str) -> bool:
    """Return whether two words differ by one letter, or by two letters in the wrong order."""
    while first and second and first[0] == second[0]:
        first, second = first[1:], second[1:]
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    return max(len(first), len(second)) == 1 or (len(first) == 2 and first == second[::-1])
