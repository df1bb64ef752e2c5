"""Check the frames that a reply cites: whether they were shown, and whether they are the key frames of the item.

A reference is a marker of a reply, ``<frame:SECONDS>`` for a frame that was shown and ``<frame:-1>`` for a number that
was not. The key frames of an item are times, ``key_frames`` in ``Sample.meta``. Both are compared as numbers of shown
frames; a key frame is the shown frame nearest to its time. A reference meets a key frame that is at most ``TOLERANCE``
frames away, and each meets at most one of the other, so that citing many frames does not help.

Marks of an item with key frames, all but the first in [0, 1]:

``references``
    Number of references.
``reference_validity``
    Share of the references that were shown; only of replies with references.
``reference_precision``
    Share of the cited frames that meet a key frame; only of replies with references. A frame that is cited twice counts
    once. A reference that was not shown meets nothing.
``reference_recall``
    Share of the key frames that are met; 0 without references.
``reference_f1``
    Harmonic mean of precision and recall; 0 without references, also for items that were not asked.
``reference_f1_chance``
    Expected F1 of as many different shown frames, chosen at random.
``reference_order``
    Share of the neighboring references to key frames that are in the order of the key frames; only of replies with two.
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from numbers import Real

from tinyvid.errors import DataError
from tinyvid.evaluation.items import Item, Outcome, Rule
from tinyvid.evaluation.scoring.replies import LONGEST, final_part
from tinyvid.text.moments import NOT_SHOWN, nearest
from tinyvid.video.open_video import Clip

TOLERANCE = 1  # frames
SHARES = tuple(f"reference_{name}" for name in ("validity", "precision", "recall", "f1", "f1_chance", "order"))
_REFERENCE = re.compile(rf"{NOT_SHOWN}|<frame:([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)>")
_ANSWER = re.compile(r"(?<!\w)answer[\s*_]{0,4}:", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def key_frames_of(item: Item) -> tuple[float, ...]:
    """Return the times of the key frames of an item; empty if it has none.

    Raises:
        DataError: They are not a list of times, or the item does not have exactly one video.
    """
    given = item.sample.meta.get("key_frames")
    if given in (None, []):
        return ()
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(map(_is_time, given)):
        raise DataError(f"item '{item.id}': key_frames={given!r:.80} must be a list of times, in seconds of the video")
    if len(item.sample.videos) != 1:
        raise DataError(f"item '{item.id}': key_frames need exactly one video, got {len(item.sample.videos)}")
    return tuple(map(float, given))


def _is_time(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf


def check_key_frames(item: Item, clips: Sequence[Clip]) -> None:
    """Check that the key frames of an item are in its clip.

    Raises:
        DataError: A key frame is outside the clip, or the key frames are malformed.
    """
    for second in key_frames_of(item):
        if not clips[0].start <= second <= clips[0].end:
            bounds = f"from {clips[0].start:g} to {clips[0].end:g} s"
            raise DataError(
                f"item '{item.id}': the key frame at {second:g} s is not in the clip {bounds}; use seconds of the file"
            )


def cited_frames(reply: str, times: Sequence[float]) -> list[int | None]:
    """Return the shown frame of each reference in a reply, counted from 0; ``None`` for one that was not shown.

    Args:
        reply: The reply, with markers.
        times: Times of the shown frames, in seconds.

    Example:
        >>> cited_frames("In <frame:1.5> and <frame:-1>.", [0.5, 1.5])
        [1, None]
    """
    seconds = [found[1] for found in _REFERENCE.finditer(reply[-LONGEST:])]
    return [nearest(times, float(second)) if second and times else None for second in seconds]


def num_met(cited: Sequence[int], keys: Sequence[int], tolerance: int = TOLERANCE) -> int:
    """Return how many pairs of a cited frame and a key frame are at most ``tolerance`` apart, each frame in one pair.

    Both lists are increasing.
    """
    pairs = number = 0
    for frame in cited:
        while number < len(keys) and keys[number] < frame - tolerance:
            number += 1
        if number < len(keys) and keys[number] <= frame + tolerance:
            pairs, number = pairs + 1, number + 1
    return pairs


def expected_f1(num_cited: int, keys: Sequence[int], num_frames: int, tolerance: int = TOLERANCE) -> float:
    """Return the expected F1 of citing different frames at random. It is exact.

    Args:
        num_cited: Number of cited frames.
        keys: The key frames, counted from 0, increasing.
        num_frames: Number of shown frames.
        tolerance: See ``num_met``.

    Example:
        >>> round(expected_f1(1, [5], 16), 4) == round(3 / 16, 4)
        True
    """
    if not num_cited or not keys or not num_frames:
        return 0.0
    drawn, met = min(num_cited, num_frames), 0.0
    states = {(0, 0): 1.0}  # probability of (frames drawn so far, key frames that are met or too early)
    for frame in range(num_frames):
        after: dict[tuple[int, int], float] = {}
        for (count, passed), share in states.items():
            number = passed
            while number < len(keys) and keys[number] < frame - tolerance:
                number += 1
            meets = number < len(keys) and keys[number] <= frame + tolerance
            chosen = share * (drawn - count) / (num_frames - frame)
            met += chosen * meets
            for state, value in (((count + 1, number + meets), chosen), ((count, number), share - chosen)):
                after[state] = after.get(state, 0.0) + value
        states = {state: value for state, value in after.items() if value > 0}
    return 2 * met / (num_cited + len(keys))


def marks(reply: str, key_frames: Sequence[float], times: Sequence[float]) -> dict[str, float]:
    """Return the marks of a reply, by name; the module describes them.

    Args:
        reply: The reply, with markers.
        key_frames: Times of the key frames in seconds, at least one, in the order in which a reply should cite them.
        times: Times of the shown frames in seconds; empty for an item that was not asked.
    """
    references = cited_frames(reply, times)
    shown = [frame for frame in references if frame is not None]
    distinct = sorted(set(shown))
    ordered = list(dict.fromkeys(nearest(times, second) for second in key_frames)) if times else []
    keys = sorted(ordered)
    num_cited = len(distinct) + len(references) - len(shown)
    met = num_met(distinct, keys)
    found = {"references": float(len(references))}
    if references:
        found["reference_validity"] = len(shown) / len(references)
        found["reference_precision"] = met / num_cited
    found["reference_recall"] = met / len(keys) if keys else 0.0
    found["reference_f1"] = 2 * met / (num_cited + len(keys)) if keys else 0.0
    found["reference_f1_chance"] = expected_f1(num_cited, keys, len(times))
    near = [min((abs(key - frame), place) for place, key in enumerate(ordered)) for frame in shown]
    places = [place for distance, place in near if distance <= TOLERANCE]
    if len(places) > 1:
        found["reference_order"] = sum(a <= b for a, b in pairwise(places)) / (len(places) - 1)
    return found


def marks_of(item: Item, row: Outcome) -> dict[str, float]:
    """Return the marks of a row; empty if its item has no key frames, or if no reply was asked for."""
    key_frames = key_frames_of(item)
    return marks(row.reply or "", key_frames, row.shown) if key_frames and not row.likelihoods else {}


def answer_part(reply: str, rule: Rule) -> str:
    """Return the part of a reply with references that answers the question, without the trace that leads to it.

    It is the text after the last "Answer:". Without one, rules that accept an answer anywhere in the reply read only
    the sentences without references, so that a trace that names the answer does not score.

    Example:
        >>> answer_part("In <frame:1.5> a dog runs. Answer: a dog", "contains")
        ' a dog'
        >>> answer_part("In <frame:1.5> a dog runs.", "contains")
        ''
    """
    text = final_part(reply).strip()
    stated = list(_ANSWER.finditer(text))
    if stated:
        return text[stated[-1].end() :]
    if rule in ("contains", "label"):
        return " ".join(sentence for sentence in _SENTENCE.split(text) if not _REFERENCE.search(sentence))
    return _REFERENCE.sub("", text)
