"""Generate balanced questions about a scene: draw an answer first, then a question that has it.

Families are drawn by weight, formats uniformly. "Yes" and "no" are equally likely, correct letters are uniform, and
answers are as uniform as the world permits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tinyvid.worlds.asking import askable
from tinyvid.worlds.layout import frame_times
from tinyvid.worlds.shapes import captions, happenings, looks, moves, spans
from tinyvid.worlds.shapes.facts import Asked, Claim, Look
from tinyvid.worlds.shapes.scene import Scene

FORMATS: tuple[str, ...] = ("open", "choice", "yesno", "caption")
LETTERS = "ABCD"
NUM_FRAMES = 16  # default number of frames for questions about frame numbers
TRIES = 8  # draws of a family and a format per question


class Family(NamedTuple):
    """A kind of question: a function per format, ``None`` for formats that it does not support."""

    open: Callable[[Look], list[Asked]] | None = None
    choice: Callable[[Look], list[Asked]] | None = None
    yesno: Callable[[Look], list[Claim]] | None = None
    caption: Callable[[Look], list[Asked]] | None = None
    weight: float = 1.0


FAMILIES: dict[str, Family] = {
    "color": Family(looks.color, looks.color, looks.color_claims),
    "shape": Family(looks.shape, looks.shape, looks.shape_claims),
    "count": Family(looks.count, looks.count, looks.count_claims),
    "existence": Family(None, looks.existence, looks.existence_claims, weight=0.8),
    "motion": Family(moves.motion, moves.motion, moves.motion_claims, weight=2.0),
    "order_within": Family(moves.order_within, moves.order_within, moves.order_within_claims, weight=2.5),
    "order_between": Family(
        happenings.order_between, happenings.order_between, happenings.order_between_claims, weight=2.5
    ),
    "event": Family(happenings.event, happenings.event, happenings.event_claims),
    "change": Family(happenings.change, happenings.change, happenings.change_claims),
    "position": Family(looks.position, looks.position, looks.position_claims),
    "when": Family(happenings.when_open, happenings.when, happenings.when_claims),
    "which_frame": Family(happenings.which_frame, happenings.which_frame, happenings.which_frame_claims),
    "pass": Family(moves.passing, moves.passing, moves.passing_claims, weight=1.5),
    "collision": Family(moves.collision, moves.collision, moves.collision_claims, weight=1.5),
    "caption": Family(caption=captions.caption),
    "event_list": Family(caption=captions.event_list, weight=0.7),
    "bounce_count": Family(moves.bounce_count, moves.bounce_count, moves.bounce_count_claims),
    "grounding": Family(spans.grounding),
    "dense_caption": Family(caption=spans.dense_caption),
}
# Asked only on request: reserved for teaching a new skill, or with times in their replies.
EXTRA_FAMILIES = ("bounce_count", "grounding", "dense_caption")
DEFAULT_FAMILIES = tuple(name for name in FAMILIES if name not in EXTRA_FAMILIES)
# Relative weights of answers, lower for answers that more scenes allow.
ANSWER_WEIGHTS: dict[str, dict[str, float]] = {
    "count": {"0": 0.5, "1": 0.5, "2": 1.0, "3": 2.0, "4": 4.0},
    "motion": {"still": 0.6},
    "event": {"nothing": 0.5},
    "grounding": {"inside": 6.0},
}
# Fraction of draws to keep for an answer ("yes" or "no") that more scenes allow than the opposite one.
KEPT: dict[tuple[str, bool], float] = {
    ("change", False): 0.32,
    ("collision", False): 0.12,
    ("event", False): 0.78,
    ("pass", False): 0.72,
}


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question about a scene, as a user asks it, and its reply.

    Attributes:
        family: A key of ``FAMILIES``.
        format: ``open``, ``choice``, ``yesno`` or ``caption``.
        text: The question; for ``choice``, followed by one option per line with its letter.
        reply: The correct reply: a few words, a letter, "yes" or "no", or sentences.
        options: Options of ``choice``, without letters.
        meta: ``answer``, the reply in words even if it is a letter; ``shapes``, the indices of the shapes in question;
            ``times``, the moments that decide the answer, from 0 to 1.
    """

    family: str
    format: str
    text: str
    reply: str
    options: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


def ask(
    scene: Scene,
    rng: np.random.Generator,
    *,
    num: int = 1,
    families: Sequence[str] | Mapping[str, float] = DEFAULT_FAMILIES,
    formats: Sequence[str] = FORMATS,
    moments: Sequence[float] | np.ndarray | None = None,
    duration: float | None = None,
) -> list[SceneQuestion]:
    """Generate questions about a scene.

    Args:
        scene: The scene.
        rng: Source of randomness.
        num: Number of different questions. The result is shorter if the scene does not allow that many.
        families: Families to ask, or a mapping from families to weights.
        formats: Formats to use.
        moments: Times of the frames that a model sees, from 0 to 1, for questions about frame numbers; sixteen evenly
            spaced ones by default. ``sampled_times`` returns those of a file.
        duration: Duration of the clip in seconds; without it, no question is about seconds.

    Raises:
        ConfigError: A family or a format is unknown, or no family supports any of the formats.
    """
    weights = _weights(families, formats)
    seen = frame_times(NUM_FRAMES) if moments is None else np.asarray(moments, dtype=np.float64)
    look = Look(scene, rng, seen, duration)
    names, shares = list(weights), np.cumsum(list(weights.values()))
    questions: dict[str, SceneQuestion] = {}
    for _ in range(TRIES * num):
        if len(questions) == num:
            break
        family = names[int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))]
        allowed = [name for name in formats if getattr(FAMILIES[family], name)]
        question = draw_question(look, family, allowed[rng.integers(len(allowed))])
        if question:
            questions.setdefault(question.format + question.text.split("\n")[0], question)  # regardless of options
    return list(questions.values())


def draw_question(look: Look, family: str, form: str) -> SceneQuestion | None:
    """Draw a question of a family and a format; ``None`` if the scene has none, or to keep answers balanced."""
    if form == "yesno":
        return _yes_or_no(look, family)
    asked: list[Asked] = getattr(FAMILIES[family], form)(look)
    if not asked:
        return None
    item = _balanced(look, family, asked, [each.balanced or each.answer for each in asked])
    meta = {"answer": item.answer, "shapes": list(item.shapes), "times": [round(t, 4) for t in item.times]}
    if form != "choice":
        return SceneQuestion(family, form, item.text, item.answer, meta=meta)
    options = _options(look, item)
    lines = [item.listed or item.text, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options))]  # noqa: B905
    return SceneQuestion(family, form, "\n".join(lines), LETTERS[options.index(item.answer)], tuple(options), meta)


def _yes_or_no(look: Look, family: str) -> SceneQuestion | None:
    claims_of_family = FAMILIES[family].yesno
    assert claims_of_family is not None  # the caller only chooses formats that the family supports
    claims = claims_of_family(look)
    truth = bool(look.rng.random() < 0.5)
    fitting = [claim for claim in claims if claim.truth is truth]
    if not fitting or look.rng.random() >= KEPT.get((family, truth), 1.0):
        return None
    claim = _balanced(look, family, fitting, [each.word for each in fitting])
    reply = "yes" if truth else "no"
    meta = {"answer": reply, "shapes": list(claim.shapes), "times": [round(t, 4) for t in claim.times]}
    return SceneQuestion(family, "yesno", claim.text, reply, meta=meta)


def _balanced(look: Look, family: str, items: Sequence[Any], answers: Sequence[str]) -> Any:
    """Draw an answer, then an item with this answer."""
    different = list(dict.fromkeys(answers))
    rarity = ANSWER_WEIGHTS.get(family, {})
    shares = np.cumsum([rarity.get(answer, 1.0) for answer in different])
    answer = different[int(np.searchsorted(shares, look.rng.random() * shares[-1], side="right"))]
    fitting = [item for item, given in zip(items, answers, strict=True) if given == answer]
    return fitting[look.rng.integers(len(fitting))]


def _options(look: Look, item: Asked) -> list[str]:
    """Return the answer and up to three wrong options, at most two of them near, in random order."""
    near = [item.near[place] for place in look.rng.permutation(len(item.near))][:2]
    rest = [answer for answer in item.wrong if answer not in near]
    options = [item.answer, *near, *(rest[place] for place in look.rng.permutation(len(rest)))][: len(LETTERS)]
    return [options[place] for place in look.rng.permutation(len(options))]


def _weights(families: Sequence[str] | Mapping[str, float], formats: Sequence[str]) -> dict[str, float]:
    """Return the weights of the families that support at least one of the formats."""
    known = {name: [form for form in FORMATS if getattr(family, form)] for name, family in FAMILIES.items()}
    found = askable(families, formats, known=known, forms=FORMATS)
    given = families if isinstance(families, Mapping) else {name: FAMILIES[name].weight for name in families}
    return {name: float(given[name]) for name in found if given[name] > 0}
