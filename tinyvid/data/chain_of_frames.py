"""Rows of Chain-of-Frames (arXiv:2506.00318, ``cof_data.jsonl``) with references to times instead of frame numbers.

A published row shows a clip of 30 seconds as 30 frames, each from the middle of an equal segment, and its reply cites
them by number: ``Frame 7``, ``Frame-7``, ``Frame7``, ``Frames 3-5``. Another sampler shows other frames, so the numbers
become markers, ``<frame:6.5>``. ``key_frames`` lists the cited times, in the order of the reply.
"""

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tinyvid.data.traces import Arm
from tinyvid.errors import DataError
from tinyvid.text.moments import marker

SECONDS = 30.0  # length of a published clip
NUM_SEGMENTS = 30
MOST_SEGMENTS = 10_000
USED = {"video", "conversations", "num_segments", "aug", "indices", "length"}
_NUMBERS = r"\d{1,6}(?:\s{0,3}(?:,\s{0,3}(?:and\b)?|and\b|&|[-–—]|to\b|through\b)\s{0,3}\d{1,6})"
_END = r"(?![\w%]|\.\d)"  # of a number
_LABEL = r"(?:\s*(?:number|no\.|#)|[\s_-])?\s*"
_CITED = re.compile(
    rf"(?<!\w)<?(?:frames{_LABEL}({_NUMBERS}*){_END}"
    rf"|frame{_LABEL}({_NUMBERS}+{_END}(?=\s*(?:[.,;:!?)\]]|$))|\d{{1,6}}[-–—]\d{{1,6}}{_END}|\d{{1,6}}{_END}))>?",
    re.IGNORECASE,
)
_MISSED = re.compile(r"(?<!<)frames?[^\w<]{0,3}\d[\w.%]{0,9}", re.IGNORECASE)
_WORDS = re.compile(
    r"\b(?:(?:second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\d+(?:st|nd|rd|th))[ -]frames?"
    r"|frames? (?:one|two|three|four|five|six|seven|eight|nine|ten))\b",
    re.IGNORECASE,
)
# Repetitions are bounded, so that time is linear.
_MARKER = r"<frame:[\d.]{1,20}>"
_MARKERS = rf"{_MARKER}(?:(?:\s{{0,3}},\s{{0,3}}(?:and\s{{1,3}})?|\s{{1,3}}(?:and|to)\s{{1,3}}){_MARKER}){{0,30}}"
_ASIDE = re.compile(rf"\s{{0,3}}[(\[]\s{{0,3}}(?:(?:in|at|see|from)\s{{1,3}})?{_MARKERS}\s{{0,3}}[)\]]", re.IGNORECASE)
_HEADING = re.compile(rf"[*_]{{0,4}}{_MARKERS}[*_]{{0,4}}\s{{0,3}}:\s{{0,3}}", re.IGNORECASE)
_ADVERBIAL = re.compile(
    rf"(\s{{0,3}})\b(in|at|on|by|from|during|between|until|around)\s{{1,3}}(?:the\s{{1,3}})?{_MARKERS},?\s{{0,3}}(\w?)",
    re.IGNORECASE,
)
_OTHER = re.compile(rf"((?:^|[.!?]\s{{1,3}}|\n)?)(?:the\s{{1,3}})?({_MARKERS})", re.IGNORECASE)
_ANSWER = re.compile(r"[*_\s]{0,8}(?<!\w)(?:final\s{1,3})?answer[\s*_]{0,4}:[\s*_]{0,8}", re.IGNORECASE)


class UnusableRow(DataError):
    """A published row cannot be converted.

    Attributes:
        reason: Why, in a few words that rows with the same reason share.
    """

    def __init__(self, where: str, reason: str, detail: str) -> None:
        super().__init__(f"{where}: {detail}")
        self.reason = reason


class FramesOfRow(NamedTuple):
    """The frames that a published row shows: the middle of each in seconds, and the bounds of the shown part."""

    middles: list[float]
    clip: list[float] | None


def convert_row(row: Mapping[str, Any], where: str, *, arm: Arm = "cited", seed: int = 0) -> dict[str, Any]:
    """Return a published row as a row for ``data=jsonl``.

    Args:
        row: The row.
        where: Its location, for messages.
        arm: What replies contain before the answer: ``cited`` frames; the ``text`` without references; ``shuffled``
            references, to random frames; or ``none``. ``key_frames`` are the same.
        seed: Seed of random frames; they also depend on the row.

    Raises:
        UnusableRow: The row is malformed, changes the order or the orientation of its frames, or has a reference that
            is not to one of its frames.
    """
    turns = _turns(row, where)
    frames = _frames(row, where)
    name = f"cof:{row['video']}:{_digest(row)}"
    written = [{**turn, "value": _with_markers(turn["value"], frames, where)} for turn in turns]
    replies = [turn["value"] for turn in written if turn["from"] in ("gpt", "assistant")]
    key_frames = list(dict.fromkeys(float(second) for reply in replies for second in _seconds(reply)))
    rng = random.Random(f"{seed}:{name}")
    for turn in written if arm != "cited" else ():
        if turn["from"] in ("gpt", "assistant"):
            turn["value"] = _changed(turn["value"], arm, frames, rng, where)
    converted = {"id": name, "video": row["video"], "conversations": written, "source": "cof"}
    if frames.clip is not None:
        converted["clip"] = frames.clip
    return converted | ({"key_frames": key_frames} if key_frames else {})


def notes_on(row: Mapping[str, Any]) -> list[str]:
    """Return what of a converted row is not used, for a summary."""
    notes = [f"'{key}' is not used" for key in row if key not in USED]
    if "gau" in _augmentations(row):
        notes.append("frames are not blurred (aug=gau)")
    texts = [turn["value"] for turn in row["conversations"]]
    return notes + (["frames named in words are kept as text"] if any(map(_WORDS.search, texts)) else [])


def num_references(row: Mapping[str, Any]) -> int:
    """Return the number of references in a converted row."""
    return sum(len(_seconds(turn["value"])) for turn in row["conversations"])


def without_references(text: str) -> str:
    """Return a text without its references to frames, as a text that does not mention frames.

    Example:
        >>> without_references("In <frame:1.5>, a dog runs (<frame:2.5>). <frame:3.5> shows a cat.")
        'A dog runs. The video shows a cat.'
    """
    for aside in (_ASIDE, _HEADING):
        text = aside.sub("", text)
    return _OTHER.sub(_named, _ADVERBIAL.sub(_shortened, text))


def _shortened(found: re.Match[str]) -> str:
    space, preposition, first = found.groups()
    return space + (first.upper() if preposition[0].isupper() else first) if first else ""


def _named(found: re.Match[str]) -> str:
    before, name = found[1], "the video" if found[2].count("<") == 1 else "the frames"
    return before + (name if found.start() and not before else name.capitalize())


def _turns(row: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    video, turns = row.get("video"), row.get("conversations")
    if "image" in row or "output_images" in row:
        key = "image" if "image" in row else "output_images"
        raise UnusableRow(
            where, f"rows with '{key}'", f"the row has '{key}', and only texts about a video are converted"
        )
    if not isinstance(video, str) or not isinstance(turns, list):
        raise UnusableRow(
            where, "malformed rows", "a row needs 'video' and 'conversations'; give cof_data.jsonl, not the meta file"
        )
    for turn in turns:
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("from", "value")):
            raise UnusableRow(where, "malformed rows", f"a turn needs 'from' and 'value', got {turn!r:.80}")
    return [dict(turn) for turn in turns]


def _frames(row: Mapping[str, Any], where: str) -> FramesOfRow:
    """Return the frames of a row in their final order, which its references count."""
    count = row.get("num_segments")
    count = NUM_SEGMENTS if count is None else count
    if type(count) is not int or not 1 <= count <= MOST_SEGMENTS:
        raise UnusableRow(where, "malformed rows", f"num_segments={count!r:.40} must be a whole number of at least 1")
    for name in _augmentations(row):
        if name != "gau":
            what = {"rev": "reverses the frames", "vflip": "flips the frames"}.get(name, "is unknown")
            raise UnusableRow(where, f"aug={name:.20}", f"aug={name!r:.40} {what}, and rows show videos as they are")
    picked, length = row.get("indices"), SECONDS / count
    if picked is None:
        return FramesOfRow([round((number + 0.5) * length, 3) for number in range(count)], None)
    if not isinstance(picked, Sequence) or not picked or any(type(i) is not int or not 0 <= i < count for i in picked):
        raise UnusableRow(where, "malformed rows", f"indices={picked!r:.60} must be a list of numbers below {count}")
    if sorted(set(picked)) != list(picked):
        raise UnusableRow(
            where, "indices that change the order", "'indices' change the order of the frames, which rows cannot"
        )
    clip = [round(picked[0] * length, 3), round((picked[-1] + 1) * length, 3)]
    return FramesOfRow([round((number + 0.5) * length, 3) for number in picked], clip)


def _augmentations(row: Mapping[str, Any]) -> list[str]:
    given = row.get("aug") or []
    return [str(name) for name in ([given] if isinstance(given, str) else given)]


def _with_markers(text: str, frames: FramesOfRow, where: str) -> str:
    def referred(number: re.Match[str]) -> str:
        if not 1 <= int(number[0]) <= len(frames.middles):
            shown = f"1 to {len(frames.middles)}"
            raise UnusableRow(where, "references outside the frames", f"Frame {number[0]} is not one of Frame {shown}")
        return marker("frame", frames.middles[int(number[0]) - 1])

    def cited(found: re.Match[str]) -> str:
        numbers = re.sub(r"\s*[-–—]\s*", " to ", found[1] or found[2]).replace("&", "and")
        return re.sub(r"\d+", referred, numbers)

    text = _CITED.sub(cited, text)
    missed = _MISSED.search(text)
    if missed:
        raise UnusableRow(where, "references that are not understood", f"{missed[0]!r} is not understood; correct it")
    return text


def _seconds(text: str) -> list[str]:
    return re.findall(r"<frame:([\d.]+)>", text)


def _changed(reply: str, arm: Arm, frames: FramesOfRow, rng: random.Random, where: str) -> str:
    """Return a reply with another trace."""
    if arm == "none":
        stated = list(_ANSWER.finditer(reply))
        if not stated:
            raise UnusableRow(where, "replies without 'Answer:'", "the reply has no 'Answer:', so its trace has no end")
        return without_references(reply[stated[-1].end() :].strip())
    if arm == "text":
        return without_references(reply)
    right = list(dict.fromkeys(_seconds(reply)))
    drawn = dict(zip(right, rng.sample(frames.middles, min(len(right), len(frames.middles))), strict=True))
    return re.sub(r"<frame:([\d.]+)>", lambda found: marker("frame", drawn[found[1]]), reply)


def _digest(row: Mapping[str, Any]) -> str:
    asked = [row["conversations"], row.get("aug"), row.get("indices"), row.get("num_segments")]
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:12]
