"""Questions about a plan, and their answers.

A clip is asked about a family if the answer can be seen and the question does not give it away. Answers that more plans
have are kept less often, so all answers of a family are equally likely, whatever else happens in a clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyvid.text.moments import marker
from tinyvid.worlds.asking import askable
from tinyvid.worlds.footage.plan import CORNERS, MOVES, Plan, half_of

LETTERS = "ABCD"
FORMATS: tuple[str, ...] = ("open", "choice", "yesno")
HALVES = ("first half", "second half")
CAMERA = {
    **{way: f"pan {way}" for way in ("left", "right", "up", "down")},
    "in": "zoom in",
    "out": "zoom out",
    "still": "stay still",
}
MOVING = {move: CAMERA[move] for move in MOVES[:6]}
SHOTS = {"1": "is there only one shot", "2": "are there exactly 2 shots", "3": "are there exactly 3 shots"}
PATCH = {
    "none": "no, never",
    "appears": "yes, it appears later",
    "always": "yes, all the time",
}
PATCHED = {
    "none": "is there never a small picture on top of the video",
    "appears": "does a small picture appear on top of the video later",
    "always": "is a small picture on top of the video all the time",
}
ORDINALS = ("first", "second", "third")


@dataclass(frozen=True, slots=True)
class FootageFamily:
    """A kind of question.

    Attributes:
        text: The question.
        replies: The reply for each answer; none for a question with a time or with "yes" and "no".
        claims: The question with the reply "yes" for each answer, without question mark.
        times: Whether the reply is a span of time.
    """

    text: str
    replies: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, str] = field(default_factory=dict)
    times: bool = False

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats in which it can be asked."""
        return ("open",) if self.times else FORMATS if self.replies else ("yesno",)


def _claims(form: str, words: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    return {key: form.format(words[key] if isinstance(words, Mapping) else key) for key in words}


def _same(words: Sequence[str]) -> dict[str, str]:
    return {word: word for word in words}


DIRECTION = {**_same(("left", "right", "up", "down")), "still": "not at all"}
FAMILIES: dict[str, FootageFamily] = {
    "camera": FootageFamily("How does the camera move?", CAMERA, _claims("does the camera {}", CAMERA)),
    "camera_first": FootageFamily(
        "What does the camera do first?", MOVING, _claims("does the camera first {}", MOVING)
    ),
    "camera_last": FootageFamily(
        "What does the camera do last?", MOVING, _claims("does the camera {} at the end", MOVING)
    ),
    "camera_return": FootageFamily("Does the camera return to where it began?"),
    "shots": FootageFamily("How many shots are there?", _same(("1", "2", "3")), SHOTS),
    "shot_return": FootageFamily("Is the first shot shown again at the end?"),
    "cut_when": FootageFamily(
        "In which half of the video is the cut?", _same(HALVES), _claims("is the cut in the {}", HALVES)
    ),
    "cut_at": FootageFamily("When is the {} shot visible?", times=True),
    "freeze": FootageFamily("Does the picture freeze?"),
    "freeze_when": FootageFamily(
        "In which half of the video does the picture freeze?",
        _same(HALVES),
        _claims("does the picture freeze in the {}", HALVES),
    ),
    "frozen": FootageFamily("When is the picture frozen?", times=True),
    "fade": FootageFamily(
        "How does the brightness change?",
        {"constant": "it stays constant", "darker": "it gets darker", "brighter": "it gets brighter"},
        {
            "constant": "does the brightness stay constant",
            "darker": "does the video get darker",
            "brighter": "does the video get brighter",
        },
    ),
    "patch": FootageFamily("Is there a small picture on top of the video?", PATCH, PATCHED),
    "patch_where": FootageFamily(
        "In which corner does a small picture appear?",
        _same(CORNERS),
        _claims("does a small picture appear in the {} corner", CORNERS),
    ),
    "patch_when": FootageFamily(
        "In which half of the video does a small picture appear?",
        _same(HALVES),
        _claims("does a small picture appear in the {}", HALVES),
    ),
    "patch_motion": FootageFamily(
        "How does the small picture move?",
        DIRECTION,
        {
            way: "does the small picture stay still" if way == "still" else f"does the small picture move {way}"
            for way in DIRECTION
        },
    ),
    "speed": FootageFamily(
        "How does the speed of the camera change?",
        {"steady": "it is steady", "faster": "it gets faster", "slower": "it gets slower"},
        {
            "steady": "is the speed of the camera steady",
            "faster": "does the camera get faster",
            "slower": "does the camera get slower",
        },
    ),
}
TIMED_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.times)  # asked only on request
DEFAULT_FAMILIES = tuple(name for name in FAMILIES if name not in TIMED_FAMILIES)
ABOUT_CAMERA = ("camera", "camera_first", "camera_last", "camera_return", "speed")
# Fraction of plans to keep for an answer that more plans have than the others: the ratio of their probabilities.
KEPT: dict[tuple[str, str], float] = {
    ("camera_return", "no"): 0.2345,  # 0.56 * 0.14 / (0.56 * (0.22 + 0.44 * 6 / 7))
    ("freeze", "yes"): 0.9429,  # 0.56 * 0.44 * 6 / 7 * 0.5 / (0.56 * 0.2)
    ("shots", "1"): 0.3929,  # 0.22 / 0.56
    ("fade", "constant"): 0.5,
    ("patch", "none"): 0.5,
    ("speed", "steady"): 0.5,
}


@dataclass(frozen=True, slots=True)
class FootageQuestion:
    """A question about a clip, as a user asks it, and its reply.

    Attributes:
        family: A key of ``FAMILIES``.
        format: ``open``, ``choice`` or ``yesno``.
        text: The question; for ``choice``, followed by one option per line with its letter.
        reply: The correct reply: a few words, a letter, "yes" or "no", or a span of time.
        answer: The reply in words, even if it is a letter.
        options: Options of ``choice``, without letters.
        span: Start and end in seconds, if the reply is a span.
    """

    family: str
    format: str
    text: str
    reply: str
    answer: str
    options: tuple[str, ...] = ()
    span: tuple[float, float] | None = None

    def facts(self) -> dict[str, Any]:
        """Return what a row says about the options or the span."""
        if self.options:
            return {"options": list(self.options), "answer_index": self.options.index(self.answer)}
        return {} if self.span is None else {"span": list(self.span), "rule": "span"}


def check_families(families: Sequence[str], formats: Sequence[str]) -> None:
    """Check that some of the families can be asked in some of the formats; raises the errors of ``askable``."""
    known = {name: family.formats for name, family in FAMILIES.items()}
    askable(families, formats, known=known, forms=FORMATS)


def answers(plan: Plan, moments: np.ndarray) -> dict[str, str]:
    """Return the answer for each family that a plan has, except those with times, whose answer is empty.

    Args:
        plan: The plan.
        moments: Times of the frames that a model sees.
    """
    found = _camera_answers(plan) | _patch_answers(plan, moments) | {"shots": str(plan.num_shots)}
    if plan.num_shots == 3:
        found["shot_return"] = "yes" if plan.returns else "no"
    if plan.cuts:
        found["cut_at"] = ""
    if plan.num_shots == 2:
        found["cut_when"] = half_of(moments, plan.cuts[0])
    if plan.frozen is not None:
        found |= {"freeze": "yes", "freeze_when": half_of(moments, plan.frozen[0]), "frozen": ""}
    elif found.get("speed") == "steady":
        found["freeze"] = "no"
    if plan.frozen is None:
        found["fade"] = plan.fade
    return {family: answer for family, answer in found.items() if answer or FAMILIES[family].times}


def _camera_answers(plan: Plan) -> dict[str, str]:
    moves = plan.num_shots == 1 and plan.moves != ("still",)
    if plan.course == "two":
        return {"camera_first": plan.moves[0], "camera_last": plan.moves[1], "camera_return": "no"}
    if plan.course == "single":
        return {"camera": plan.moves[0], **({"camera_return": "no", "speed": plan.speed} if moves else {})}
    return {"camera_return": "yes"} if plan.course == "return" else {}


def _patch_answers(plan: Plan, moments: np.ndarray) -> dict[str, str]:
    if plan.patch is None:
        return {"patch": "none"}
    if not plan.patch.corner:
        moves = {} if plan.frozen else {"patch_motion": plan.patch.motion}
        return {"patch": "always", **moves}
    when = {} if plan.frozen else {"patch_when": half_of(moments, plan.patch.appears)}
    return {"patch": "appears", "patch_where": plan.patch.corner, **when}


def kept(
    found: Mapping[str, str], rng: np.random.Generator, families: Sequence[str], formats: Sequence[str]
) -> list[str]:
    """Return the families to ask about a plan with these answers; the numbers of all answers are balanced."""
    return [
        name
        for name in families
        if name in found
        and set(FAMILIES[name].formats) & set(formats)
        and rng.random() < KEPT.get((name, found[name]), 1.0)
    ]


def ask(
    plan: Plan,
    found: Mapping[str, str],
    family: str,
    rng: np.random.Generator,
    *,
    formats: Sequence[str],
    num: int,
    duration: float,
) -> list[FootageQuestion]:
    """Ask about a family in up to ``num`` different formats."""
    allowed = [form for form in formats if form in FAMILIES[family].formats]
    chosen = [allowed[index] for index in rng.permutation(len(allowed))[:num]]
    if FAMILIES[family].times:
        return [_span(plan, family, rng, duration)]
    return [_question(family, form, found[family], rng) for form in chosen]


def _question(family: str, form: str, answer: str, rng: np.random.Generator) -> FootageQuestion:
    """Ask for an answer; a wrong claim or option is any other answer of the family."""
    kind = FAMILIES[family]
    if not kind.replies:
        return FootageQuestion(family, form, kind.text, answer, answer)
    others = [other for other in kind.replies if other != answer]
    if form == "yesno":
        truth = bool(rng.random() < 0.5)
        claim = kind.claims[answer if truth else others[rng.integers(len(others))]]
        reply = "yes" if truth else "no"
        return FootageQuestion(family, form, f"{claim[0].upper()}{claim[1:]}?", reply, reply)
    if form == "open":
        return FootageQuestion(family, form, kind.text, kind.replies[answer], kind.replies[answer])
    wrong = [others[index] for index in rng.permutation(len(others))[: len(LETTERS) - 1]]
    shuffled = [kind.replies[option] for option in np.array([answer, *wrong])[rng.permutation(len(wrong) + 1)]]
    lines = [kind.text, *(f"{letter}. {option}" for letter, option in zip(LETTERS, shuffled, strict=False))]
    reply = LETTERS[shuffled.index(kind.replies[answer])]
    return FootageQuestion(family, form, "\n".join(lines), reply, kind.replies[answer], tuple(shuffled))


def _span(plan: Plan, family: str, rng: np.random.Generator, duration: float) -> FootageQuestion:
    """Ask from when to when a shot is visible, or the picture is frozen."""
    text = FAMILIES[family].text
    if family == "frozen":
        assert plan.frozen is not None  # otherwise the plan does not have the family
        start, end = plan.frozen
    else:
        edges = (0.0, *plan.cuts, 1.0)
        numbers = [1] if plan.returns else range(plan.num_shots)  # the first shot of A-B-A is visible twice
        number = int(rng.choice(numbers))
        start, end = edges[number], edges[number + 1]
        text = text.format(ORDINALS[number])
    span = (round(start * duration, 2), round(end * duration, 2))
    reply = f"From {marker('time', span[0])} to {marker('time', span[1])}."
    return FootageQuestion(family, "open", f"The video lasts {duration:g} seconds. {text}", reply, reply, span=span)
