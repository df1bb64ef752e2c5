"""Questions about objects: color, shape, count, existence, position."""

from __future__ import annotations

import numpy as np

from tinyvid.worlds.shapes.facts import Asked, Claim, Look, claims_of, without
from tinyvid.worlds.shapes.palette import KINDS, MAX_SHAPES
from tinyvid.worlds.shapes.wording import color_is_unique, kind_is_unique, with_article

OFF_CENTER = 0.08  # of the picture: closer to a middle line, the corner is unclear
ASIDE = 0.15  # of the picture: minimum distance of a shape that is left of another, or above it
WHEN = {"start": np.array([0.0, 1 / 16]), "end": np.array([15 / 16, 1.0])}  # extent of the start and the end
CORNERS = ("top left", "top right", "bottom left", "bottom right")
HARD_SHARE = 0.8  # fraction of wrong pairs that share the color or the kind with an existing one


def color(look: Look) -> list[Asked]:
    """Ask for the color of shapes that keep it and have a unique kind."""
    asked = []
    for index, shape in enumerate(look.scene.shapes):
        if kind_is_unique(look.scene, index) and shape.recolor is None:
            wrong, near = without(shape.color, look.palette), without(shape.color, look.colors)
            asked.append(Asked(f"What color is the {shape.kind}?", shape.color, wrong, near, (index,)))
    return asked


def color_claims(look: Look) -> list[Claim]:
    """Claim colors of shapes."""
    return claims_of(look, color(look), lambda item, word: f"Is the {look.scene.shapes[item.shapes[0]].kind} {word}?")


def shape(look: Look) -> list[Asked]:
    """Ask for the kind of shapes that have a unique color."""
    kinds = tuple(shape.kind for shape in look.scene.shapes)
    asked = []
    for index, shape in enumerate(look.scene.shapes):
        if color_is_unique(look.scene, index):
            wrong, near = without(shape.kind, KINDS), without(shape.kind, kinds)
            asked.append(Asked(f"What shape is the {shape.color} object?", shape.kind, wrong, near, (index,)))
    return asked


def shape_claims(look: Look) -> list[Claim]:
    """Claim kinds of shapes."""
    shapes = look.scene.shapes
    return claims_of(
        look,
        shape(look),
        lambda item, word: f"Is the {shapes[item.shapes[0]].color} object {with_article(word)}?",
    )


def count(look: Look) -> list[Asked]:
    """Ask how many shapes there are: in all, at the start, at the end, of a kind, of a color."""
    return [
        Asked(f"How many {what} are there{when}?", str(number), without(str(number), numbers))
        for what, when, number, numbers in _counted(look)
    ]


def count_claims(look: Look) -> list[Claim]:
    """Claim counts: for all objects, the right one and a neighbor; for kinds and colors, one that some of them have.

    For example, the same number is right for circles and wrong for squares of the same scene, so the number alone is
    no clue.
    """
    claims = []
    groups: dict[str, list[tuple[str, str, int]]] = {"kind": [], "color": []}
    for what, when, number, numbers in _counted(look):
        if what != "objects":
            groups["color" if what.endswith("objects") else "kind"].append((what, when, number))
            continue
        near = [n for n in numbers if abs(int(n) - number) == 1]
        for word, truth in ((str(number), True), (near[look.rng.integers(len(near))], False)):
            claims.append(Claim(_exactly(int(word), what, when), truth, f"objects{when}"))
    for group, things in groups.items():
        counted = {number for _, _, number in things}
        for number in counted if len(counted) > 1 else ():
            for truth in (True, False):
                fitting = [(what, when) for what, when, found in things if (found == number) is truth]
                what, when = fitting[look.rng.integers(len(fitting))]
                claims.append(Claim(_exactly(number, what, when), truth, f"{group} {number}"))
    return claims


def _exactly(number: int, what: str, when: str) -> str:
    if number != 1:
        return f"Are there exactly {number} {what}{when}?"
    return f"Is there exactly 1 {'cross' if what == 'crosses' else what.removesuffix('s')}{when}?"


def _counted(look: Look) -> list[tuple[str, str, int, list[str]]]:
    """Return what can be counted, when, how many there are, and the possible answers."""
    scene = look.scene
    some, any_number = [str(n) for n in range(1, MAX_SHAPES + 1)], [str(n) for n in range(MAX_SHAPES + 1)]
    found = [("objects", " in the video", len(scene.shapes), some)]
    for when, times in WHEN.items():
        visible = scene.track(times).visible.sum(1)
        found.append(("objects", f" at the {when}", int(visible[0]), any_number))
    for kind in KINDS:
        plural = "crosses" if kind == "cross" else f"{kind}s"
        found.append((plural, " in the video", sum(shape.kind == kind for shape in scene.shapes), any_number))
    changing = {color for shape in scene.shapes if shape.recolor for color in shape.colors}
    for color in look.palette:
        if color not in changing:
            number = sum(shape.color == color for shape in scene.shapes)
            found.append((f"{color} objects", " in the video", number, any_number))
    return found


def existence(look: Look) -> list[Asked]:
    """Ask which of several pairs of color and kind exists; only with options."""
    present, absent, similar = _pairs(look)
    return [
        Asked("Which of these is in the video?", with_article(pair), tuple(map(with_article, absent)),
              tuple(map(with_article, similar)))
        for pair in present
    ]  # fmt: skip


def existence_claims(look: Look) -> list[Claim]:
    """Claim that a pair, a kind or a color exists."""
    present, absent, similar = _pairs(look)
    pool = similar if similar and look.rng.random() < HARD_SHARE else absent
    kinds = {shape.kind for shape in look.scene.shapes}
    said = [(pair, True, "pair") for pair in present] + [(pool[look.rng.integers(len(pool))], False, "pair")]
    said += [(kind, kind in kinds, "kind") for kind in KINDS]
    said += [(f"{color} object", color in look.colors, "color") for color in look.palette]
    return [Claim(f"Is there {with_article(what)} in the video?", truth, word) for what, truth, word in said]


def _pairs(look: Look) -> tuple[list[str], list[str], list[str]]:
    """Return the pairs that exist at some time, those that never do, and those of the latter that are similar."""
    present = {f"{color} {shape.kind}": None for shape in look.scene.shapes for color in shape.colors}
    kinds = {shape.kind for shape in look.scene.shapes}
    absent = [(c, k) for c in look.palette for k in KINDS if f"{c} {k}" not in present]
    similar = [f"{c} {k}" for c, k in absent if c in look.colors or k in kinds]
    return list(present), [f"{c} {k}" for c, k in absent], similar


def position(look: Look) -> list[Asked]:
    """Ask for the corner in which a shape is at the start or at the end."""
    asked = []
    for when, times in WHEN.items():
        tracks = look.scene.track(times)
        for index in range(len(look.scene.shapes)):
            offset = tracks.center[:, index] - 0.5
            same = (np.sign(offset[0]) == np.sign(offset[1])).all() and np.abs(offset).min() >= OFF_CENTER
            if not (tracks.visible[:, index].all() and same):
                continue
            corner = f"{'top' if offset[0, 1] < 0 else 'bottom'} {'left' if offset[0, 0] < 0 else 'right'}"
            moment = (0.0 if when == "start" else 1.0,)
            text = f"Where is {look.the(index)} at the {when}?"
            asked.append(Asked(text, corner, without(corner, CORNERS), (), (index,), moment))
    return asked


def position_claims(look: Look) -> list[Claim]:
    """Claim corners, and the side of a shape on which another one is."""

    def say(item: Asked, word: str) -> str:
        when = "start" if item.times == (0.0,) else "end"
        return f"Is {look.the(item.shapes[0])} in the {word} at the {when}?"

    claims = claims_of(look, position(look), say)
    sides = (("left of", "right of"), ("above", "below"))
    for when, times in WHEN.items():
        tracks = look.scene.track(times)
        seen = np.flatnonzero(tracks.visible.all(0))
        for one in seen:
            for other in seen:
                gap = tracks.center[:, one] - tracks.center[:, other]
                for axis, words in enumerate(sides):
                    if one == other or gap[:, axis].min() * gap[:, axis].max() <= 0:
                        continue
                    if np.abs(gap[:, axis]).min() < ASIDE:
                        continue
                    word = words[look.rng.integers(2)]
                    truth = bool(gap[0, axis] < 0) == (word == words[0])
                    text = f"Is {look.the(int(one))} {word} {look.the(int(other))} at the {when}?"
                    moment = (0.0 if when == "start" else 1.0,)
                    claims.append(Claim(text, truth, "side", (int(one), int(other)), moment))
    return claims
