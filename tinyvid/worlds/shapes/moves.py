"""Questions about paths: motion, the order of two motions, passing, colliding, bounces."""

from __future__ import annotations

from tinyvid.worlds.shapes.facts import Asked, Claim, Look, claims_of, without
from tinyvid.worlds.shapes.palette import DIRECTIONS, MOTIONS, OPPOSITE
from tinyvid.worlds.shapes.wording import does, full_name

BOUNCES = ("1", "2", "3", "4")


def motion(look: Look) -> list[Asked]:
    """Ask how shapes with a single motion move."""
    shapes = look.scene.shapes
    asked = []
    for index, shape in enumerate(shapes):
        if shape.second_motion is None:
            others = [other.motion for other in shapes] + [OPPOSITE.get(shape.motion, "still")]
            near = without(shape.motion, others)
            text = f"How does {look.the(index)} move?"
            asked.append(Asked(text, shape.motion, without(shape.motion, MOTIONS), near, (index,)))
    return asked


def motion_claims(look: Look) -> list[Claim]:
    """Claim motions."""
    return claims_of(look, motion(look), lambda item, word: f"Does {look.the(item.shapes[0])} {does(word)}?")


def order_within(look: Look) -> list[Asked]:
    """Ask for the order of the two motions of a shape."""
    asked = []
    for index, shape in enumerate(look.scene.shapes):
        first, last = shape.motion, shape.second_motion
        if last is None:
            continue
        turn = (shape.phases[1].start,)
        for when, answer, other in (("first", first, last), ("last", last, first)):
            text = f"Where does {look.the(index)} move {when}?"
            asked.append(Asked(text, answer, without(answer, DIRECTIONS), (other,), (index,), turn))
        orders = [f"{one}, then {two}" for one in DIRECTIONS for two in DIRECTIONS if one != two]
        right, reverse = f"{first}, then {last}", f"{last}, then {first}"
        text = f"In which order does {look.the(index)} move?"
        asked.append(Asked(text, right, without(right, orders), (reverse,), (index,), turn))
    return asked


def order_within_claims(look: Look) -> list[Claim]:
    """Claim that one motion comes before the other."""
    claims = []
    for index, shape in enumerate(look.scene.shapes):
        if shape.second_motion is None:
            continue
        turn = (shape.phases[1].start,)
        for one, two, truth in ((shape.motion, shape.second_motion, True), (shape.second_motion, shape.motion, False)):
            text = f"Does {look.the(index)} move {one} before it moves {two}?"
            claims.append(Claim(text, truth, "", (index,), turn))
    return claims


def passing(look: Look) -> list[Asked]:
    """Ask which object a shape passes, if it passes exactly one and clearly no other."""
    scene = look.scene
    asked = []
    for mover in range(len(scene.shapes)):
        others = [index for index in range(len(scene.shapes)) if index != mover]
        passed = [index for index in others if scene.passing(mover, index)]
        unclear = any(scene.passing(mover, index) is None and scene.shapes[index].motion == "still" for index in others)
        if len(passed) == 1 and not unclear:
            asked.append(_other(look, f"Which object does {look.the(mover)} pass?", mover, passed[0]))
    return asked


def passing_claims(look: Look) -> list[Claim]:
    """Claim that one shape passes another."""
    scene, numbers = look.scene, range(len(look.scene.shapes))
    claims = []
    for mover in numbers:
        for other in numbers:
            truth = scene.passing(mover, other)
            if truth is not None:
                text = f"Does {look.the(mover)} pass {look.the(other)}?"
                claims.append(Claim(text, truth, "", (mover, other), _times(look, "pass", mover, other)))
    return claims


def collision(look: Look) -> list[Asked]:
    """Ask which object a shape collides with."""
    return [
        _other(look, f"Which object does {look.the(one)} collide with?", one, two)
        for event in look.scene.collisions
        for one, two in ((event.shape, event.other), (event.other, event.shape))
        if one is not None and two is not None
    ]


def collision_claims(look: Look) -> list[Claim]:
    """Claim that two shapes collide."""
    claims = []
    together = {frozenset((event.shape, event.other)) for event in look.scene.collisions}
    for one in range(len(look.scene.shapes)):
        for two in range(len(look.scene.shapes)):
            if one != two:
                text = f"Do {look.the(one)} and {look.the(two)} collide?"
                times = _times(look, "collide", one, two) + _times(look, "collide", two, one)
                claims.append(Claim(text, frozenset((one, two)) in together, "", (one, two), times))
    return claims


def bounce_count(look: Look) -> list[Asked]:
    """Ask how often a shape bounces."""
    return [
        Asked(f"How many times does {look.the(index)} bounce?", str(shape.bounces),
              without(str(shape.bounces), BOUNCES), (), (index,))
        for index, shape in enumerate(look.scene.shapes)
        if shape.motion == "bounce"
    ]  # fmt: skip


def bounce_count_claims(look: Look) -> list[Claim]:
    """Claim the number of bounces."""
    return claims_of(
        look,
        bounce_count(look),
        lambda item, word: f"Does {look.the(item.shapes[0])} bounce exactly {word} time{'s' * (word != '1')}?",
    )


def _other(look: Look, text: str, one: int, two: int) -> Asked:
    """Ask for the name of shape ``two``; other shapes are plausible wrong answers, other colors are further ones."""
    shapes = look.scene.shapes
    near = tuple(full_name(shape) for index, shape in enumerate(shapes) if index not in (one, two))
    present = {f"{color} {shape.kind}" for shape in shapes for color in shape.colors}
    similar = [f"{color} {shapes[two].kind}" for color in look.palette]
    wrong = [pair for pair in similar if pair not in present]
    times = _times(look, "pass", one, two) + _times(look, "collide", one, two) + _times(look, "collide", two, one)
    return Asked(text, full_name(shapes[two]), (*near, *wrong), near, (one, two), times)


def _times(look: Look, kind: str, one: int, two: int) -> tuple[float, ...]:
    events = look.scene.events
    return tuple(event.time for event in events if (event.kind, event.shape, event.other) == (kind, one, two))
