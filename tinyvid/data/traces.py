"""Training rows whose replies cite frames before they answer, from timed sentences (Chain-of-Frames, arXiv:2506.00318).

A reply says what happens in which frame, then answers: ``In <frame:12> a man lights the stove, in <frame:31> he adds
oil. Answer: a man lights the stove.`` Every reference is the middle of a window, and ``key_frames`` lists them.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from tinyvid.data.formats import Moment, OnFault, refuse
from tinyvid.data.timed_questions import bare, when
from tinyvid.errors import DataError
from tinyvid.text.moments import marker

Kind = Literal["when", "order", "after", "before"]
Arm = Literal["cited", "text", "shuffled", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ARMS: tuple[Arm, ...] = get_args(Arm)

ORDER = 'Which of these happens first in the video: "{one}" or "{other}"?'
AFTER = 'What happens right after this in the video: "{sentence}"?'
BEFORE = 'What happens right before this in the video: "{sentence}"?'
# First words of a sentence that are not names, and begin with a small letter inside another sentence.
_PLAIN = {
    *("a", "an", "the", "he", "she", "it", "they", "we", "his", "her", "its", "their", "this", "that", "these"),
    *("those", "there", "one", "two", "three", "four", "another", "someone", "some", "several", "many", "people"),
    *("men", "women", "man", "woman", "person", "after", "before", "next", "then", "finally", "in", "on", "at"),
}


class Sentence(NamedTuple):
    """A sentence about a video, and the windows in which it happens, in order."""

    text: str
    windows: tuple[tuple[float, float], ...]
    where: str

    @property
    def clause(self) -> str:
        """The sentence as part of another one."""
        text = bare(self.text)
        return text[0].lower() + text[1:] if text.split()[0].lower() in _PLAIN else text

    @property
    def middles(self) -> list[float]:
        """The middle of each window, in seconds with three decimals."""
        return [round((start + end) / 2, 3) for start, end in self.windows]


def traces(
    moments: Sequence[Moment],
    *,
    kinds: Sequence[Kind] = KINDS,
    arm: Arm = "cited",
    seed: int = 0,
    on_fault: OnFault = refuse,
) -> Iterator[dict[str, Any]]:
    """Yield questions about the moments of one video, without ``id`` and ``video``.

    ``when`` asks for the windows of each sentence. ``order``, ``after`` and ``before`` are about two sentences that
    follow each other; both must occur once, and their windows must not overlap. For ``after`` and ``before``, no other
    sentence may happen between them.

    Args:
        moments: Moments of one video.
        kinds: Kinds of questions.
        arm: What the replies contain before the answer: what happens, with ``cited`` frames; the ``text`` without
            references; ``shuffled`` references, to random times between the first and the last window; or ``none``.
        seed: Seed of the order of options and of random times.
        on_fault: Called with an error for each sentence or pair that cannot be asked about; raises it by default.

    Raises:
        DataError: The windows of a sentence or of a pair overlap, a sentence of a pair occurs several times, or another
            one happens between them.
    """
    events = _events(moments)
    name = f"{seed}:{moments[0].code}:{len(moments)}" if moments else f"{seed}"
    rng, times = random.Random(name), random.Random(f"{name}:times")  # arms have the same options
    edges = [edge for event in events for window in event.windows for edge in window] or [0.0]
    bounds = min(edges), max(edges)
    for event in events if "when" in kinds else ():
        if _overlap(event.windows):
            on_fault(DataError(f"{event.where}: windows of {event.text!r:.60} overlap; join or separate them"))
            continue
        spans = [f"from {marker('time', start)} to {marker('time', end)}" for start, end in event.windows]
        answer = " and ".join(spans)
        question = when(event.text, several=len(spans) > 1)
        yield _row("when", question, [event], answer[0].upper() + answer[1:], arm, bounds, times)
    for first, second in pairwise(events) if set(kinds) - {"when"} else ():
        error = _unordered(first, second)
        if error is not None:
            on_fault(error)
            continue
        one, other = rng.sample([first, second], 2)
        asked = {
            "order": (ORDER.format(one=bare(one.text), other=bare(other.text)), first),
            "after": (AFTER.format(sentence=bare(first.text)), second),
            "before": (BEFORE.format(sentence=bare(second.text)), first),
        }
        error = _between(first, second, events)
        if error is not None and {"after", "before"}.intersection(kinds):
            on_fault(error)
        for kind in kinds:
            if kind in asked and (kind == "order" or error is None):
                question, right = asked[kind]
                yield _row(kind, question, [first, second], right.clause, arm, bounds, times)


def _events(moments: Sequence[Moment]) -> list[Sentence]:
    """Return the sentences of a video with their windows, in the order of the first window."""
    windows: dict[str, list[Moment]] = {}
    for moment in sorted(moments, key=lambda moment: (moment.start, moment.end)):
        windows.setdefault(moment.sentence, []).append(moment)
    return [
        Sentence(sentence, tuple((moment.start, moment.end) for moment in found), found[-1].where)
        for sentence, found in windows.items()
    ]


def _overlap(windows: Sequence[tuple[float, float]]) -> bool:
    return any(end > start for (_, end), (start, _) in pairwise(windows))


def _unordered(first: Sentence, second: Sentence) -> DataError | None:
    """Return why two events have no clear order, if so."""
    for event in (first, second):
        if len(event.windows) > 1:
            times = f"{len(event.windows)} times"
            return DataError(f"{event.where}: {event.text!r:.60} occurs {times}, so its order is not clear")
    if _overlap([*first.windows, *second.windows]):
        return DataError(
            f"{second.where}: the window {list(second.windows[0])} overlaps with {list(first.windows[0])} of "
            f"{first.text!r:.60}, so their order is not clear"
        )
    return None


def _between(first: Sentence, second: Sentence, events: Sequence[Sentence]) -> DataError | None:
    """Return why one event does not happen right after another one, if so."""
    (_, end), (start, _) = first.windows[0], second.windows[0]
    for event in events:
        if event not in (first, second) and any(begin < start and until > end for begin, until in event.windows):
            return DataError(
                f"{event.where}: {event.text!r:.60} happens between {first.text!r:.60} and {second.text!r:.60}, so it "
                "is not clear what happens right after and right before"
            )
    return None


def _row(
    kind: Kind,
    question: str,
    events: Sequence[Sentence],
    answer: str,
    arm: Arm,
    bounds: tuple[float, float],
    rng: random.Random,
) -> dict[str, Any]:
    middles = [middle for event in events for middle in event.middles]
    cited = middles if arm != "shuffled" else [round(rng.uniform(*bounds), 3) for _ in middles]
    clauses = [event.clause for event in events for _ in event.middles]
    if arm == "text":
        trace = ", then ".join(dict.fromkeys(clauses))
    else:
        trace = ", ".join(f"in {marker('frame', at)} {text}" for at, text in zip(cited, clauses, strict=True))
    answer = answer if answer.endswith((".", "!", "?")) else f"{answer}."
    reply = answer[0].upper() + answer[1:] if arm == "none" else f"{trace[0].upper()}{trace[1:]}. Answer: {answer}"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
    return {"kind": kind, "conversations": turns, "key_frames": middles}
