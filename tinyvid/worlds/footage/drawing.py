"""Draw a clip: the view of the camera, the shots, the freeze, the brightness and the small picture on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tinyvid.worlds.footage.loading import Material
from tinyvid.worlds.footage.plan import DIRECTIONS, RAMP, Patch, Plan
from tinyvid.worlds.footage.pool import MAX_UPSCALING

MARGIN = 0.06  # between a corner picture and the edges of the frame
PASTED = 0.8  # of a photo or frame, from its middle, that a small picture shows
PATH = np.linspace(0, 1, 65)  # times at which the path of the camera is measured


@dataclass(frozen=True, slots=True)
class View:
    """Where the camera is in a picture.

    Attributes:
        size: Size of the view, as a fraction of the largest one whose path stays inside the picture; the view is larger
            if it would be blurred.
        x: Place of the path in the space that it has, from 0 to 1.
        y: The same, downwards.
    """

    size: float
    x: float
    y: float


def camera(plan: Plan, times: np.ndarray) -> np.ndarray:
    """Return where the camera is: right and down in sizes of the view, and the scale of the view, (N, 3)."""
    done = plan.clock(times)
    if plan.speed == "faster":
        done = (1 - RAMP) * done + RAMP * done**2
    elif plan.speed == "slower":
        done = (1 + RAMP) * done - RAMP * done**2
    phases = [done]
    if plan.course == "return":
        phases = [1 - np.abs(2 * done - 1)]
    elif plan.course == "two":
        phases = [np.minimum(2 * done, 1), np.maximum(2 * done - 1, 0)]
    place = np.zeros((len(times), 3))
    for move, phase in zip(plan.moves, phases, strict=True):
        if move in DIRECTIONS:
            place[:, :2] += plan.amount * phase[:, None] * DIRECTIONS[move]
        elif move != "still":
            place[:, 2] += np.log(plan.zoom) * phase * (1 if move == "out" else -1)
    place[:, 2] = np.exp(place[:, 2])
    return place


def boxes(
    plan: Plan, view: View, picture: tuple[int, int], frame: tuple[int, int], times: np.ndarray
) -> np.ndarray | None:
    """Return what the camera sees of a picture: left, top, right and bottom in its pixels, (N, 4).

    Args:
        plan: The plan.
        view: Where the path of the camera is.
        picture: Width and height of the picture.
        frame: Width and height of the clip.
        times: Times of the frames.

    Returns:
        The boxes, which are inside the picture; ``None`` if it is so small that they would be blurred.
    """
    path = camera(plan, PATH)
    aspect = np.array([frame[0] / frame[1], 1.0])
    low = (path[:, :2] - path[:, 2:] / 2).min(0) * aspect  # in heights of the view
    high = (path[:, :2] + path[:, 2:] / 2).max(0) * aspect
    largest = float((np.array(picture) / (high - low)).min())
    sharp = frame[1] / (MAX_UPSCALING * float(path[:, 2].min()))
    if largest < sharp:
        return None
    height = max(view.size * largest, sharp)
    free = np.array(picture) - height * (high - low)
    origin = free * (view.x, view.y) - height * low
    now = camera(plan, times)
    middle = origin + height * aspect * now[:, :2]
    half = height * aspect * now[:, 2:] / 2
    found: np.ndarray = np.concatenate([middle - half, middle + half], 1)
    return found.clip(0, [*picture, *picture])  # rounding only


def patch_box(plan: Plan, patch: Patch, frame: tuple[int, int], time: float) -> tuple[int, int, int] | None:
    """Return left, top and side of the small picture in pixels at a time; ``None`` before it appears."""
    if time < patch.appears:
        return None
    side = round(patch.size * min(frame))
    space = np.array(frame) - side
    if patch.corner:
        near = MARGIN * min(frame)
        left = near if "left" in patch.corner else space[0] - near
        top = near if "top" in patch.corner else space[1] - near
        return round(left), round(top), side
    place = np.array([patch.place, patch.along])
    if patch.motion in DIRECTIONS:
        step = np.array(DIRECTIONS[patch.motion])
        moved = (1 - patch.length) / 2 + patch.length * float(plan.clock(np.array([time]))[0])
        place = np.where(step == 0, patch.place, np.where(step > 0, moved, 1 - moved))
    return round(place[0] * space[0]), round(place[1] * space[1]), side


def pasted(picture: Image.Image, side: int) -> np.ndarray:
    """Return the small picture, uint8 (side, side, 3)."""
    half = min(picture.size) * PASTED / 2
    x, y = picture.width / 2, picture.height / 2
    return crop(picture, np.array([x - half, y - half, x + half, y + half]), (side, side))


def crop(picture: Image.Image, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a part of a picture in the size of the clip, uint8 (H, W, 3)."""
    left, top, right, bottom = box.tolist()
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom)))


def draw(
    plan: Plan,
    shots: Sequence[tuple[Material, np.ndarray]],
    small: Image.Image | None,
    frame: tuple[int, int],
    times: np.ndarray,
    chosen: Sequence[int],
) -> np.ndarray:
    """Draw frames.

    Args:
        plan: The plan.
        shots: The pictures of each shot, and what the camera sees of them at each of ``times``.
        small: The small picture, if the plan has one.
        frame: Width and height.
        times: Times of all frames of the clip.
        chosen: Numbers of the frames to draw.

    Returns:
        uint8 (len(chosen), H, W, 3).
    """
    done = plan.clock(times)
    which = np.searchsorted(plan.cuts, times, side="right")
    drawn = []
    for number in chosen:
        material, views = shots[which[number]]
        picture = crop(material.at(number), views[number], frame).astype(np.float32)
        if plan.patch is not None and small is not None:
            box = patch_box(plan, plan.patch, frame, float(times[number]))
            if box is not None:
                left, top, side = box
                picture[top : top + side, left : left + side] = pasted(small, side)
        drawn.append((picture * _brightness(plan, float(done[number]))).clip(0, 255).astype(np.uint8))
    return np.stack(drawn)


def _brightness(plan: Plan, done: float) -> float:
    dark = {"constant": 0.0, "darker": done, "brighter": 1 - done}[plan.fade]
    return plan.light * (1 - dark * (1 - plan.dim))
