"""What a family of questions returns: open questions, and claims that are true or false."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tinyvid.worlds.shapes.palette import COLORS, RGB
from tinyvid.worlds.shapes.scene import Scene
from tinyvid.worlds.shapes.wording import name

NEAR_SHARE = 0.6  # fraction of the wrong claims that use a plausible wrong answer


@dataclass(frozen=True, slots=True)
class Look:
    """What a question can refer to.

    Attributes:
        scene: The scene that the questions are about.
        rng: Chooses wordings and wrong answers.
        moments: Times of the frames that a model sees, (T,) from 0 to 1; questions about frames count these.
        duration: Duration of the clip in seconds, or ``None`` if unknown.
    """

    scene: Scene
    rng: np.random.Generator
    moments: np.ndarray
    duration: float | None = None

    def the(self, index: int) -> str:
        """Return a name of a shape with its article."""
        return f"the {name(self.scene, index, self.rng)}"

    @property
    def palette(self) -> tuple[str, ...]:
        """The colors of wrong answers: the usual ones, or all if the scene contains another one."""
        used = {color for shape in self.scene.shapes for color in shape.colors}
        return COLORS if used <= set(COLORS) else tuple(RGB)

    @property
    def colors(self) -> tuple[str, ...]:
        """The colors in the scene."""
        return tuple(dict.fromkeys(color for shape in self.scene.shapes for color in shape.colors))


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer.

    Attributes:
        text: The question.
        answer: The right answer.
        wrong: Every other answer that can be offered.
        near: Those of ``wrong`` that are plausible because of something else in the clip.
        shapes: Numbers of the shapes that it is about.
        times: Moments that determine the answer, from 0 to 1.
        listed: The question above a list of options, if it differs.
        balanced: What is drawn first, so that all of its values are equally common, if not the answer.
    """

    text: str
    answer: str
    wrong: tuple[str, ...]
    near: tuple[str, ...] = ()
    shapes: tuple[int, ...] = ()
    times: tuple[float, ...] = ()
    listed: str | None = None
    balanced: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A yes-or-no question.

    Attributes:
        text: The question.
        truth: Whether the answer is yes.
        word: What it claims; claims are drawn so that all words are equally common.
        shapes: As in ``Asked``.
        times: As in ``Asked``.
    """

    text: str
    truth: bool
    word: str = ""
    shapes: tuple[int, ...] = ()
    times: tuple[float, ...] = ()


def without(answer: str, choices: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct choices without the answer."""
    return tuple(choice for choice in dict.fromkeys(choices) if choice != answer)


def claims_of(look: Look, asked: Sequence[Asked], say: Callable[[Asked, str], str]) -> list[Claim]:
    """Turn each question into a true claim and a false one; ``say`` words the claim that an answer is right."""
    claims = []
    for item in asked:
        pool = item.near if item.near and look.rng.random() < NEAR_SHARE else item.wrong
        wrong = pool[look.rng.integers(len(pool))]
        claims.append(Claim(say(item, item.answer), True, item.answer, item.shapes, item.times))
        claims.append(Claim(say(item, wrong), False, wrong, item.shapes, item.times))
    return claims
