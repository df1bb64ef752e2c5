"""A viewer of the footage world: finds out from frames what happens in a clip. It shares no code with the generator."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

SIDE, BLOCK, REACH = 96, 16, 9  # pixels
NAMES = {(0, 1): "right", (0, -1): "left", (1, 1): "down", (1, -1): "up", (2, 1): "in", (2, -1): "out"}


@dataclass
class Viewer:
    """What a viewer sees.

    Attributes:
        frames: All frames of a clip, uint8 (T, H, W, 3).
        bare: The same without a small picture on top.
    """

    frames: np.ndarray
    bare: np.ndarray

    @cached_property
    def gray(self):
        small = [Image.fromarray(frame).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX) for frame in self.bare]
        return np.stack([np.asarray(frame, dtype=np.float32) for frame in small])  # (T, SIDE, SIDE)

    @cached_property
    def steps(self):
        """How the camera moves from each frame to the next: right, down, in; gain of brightness; agreement."""
        return np.array([step(one, two) for one, two in zip(self.gray, self.gray[1:], strict=False)])

    @cached_property
    def cuts(self):
        """The numbers of the frames with which a new shot begins."""
        return [number + 1 for number, (*_, agreement) in enumerate(self.steps) if agreement < 0.88]

    @cached_property
    def path(self):
        """Where the camera is at each frame: right and down in views, and the logarithm of its zoom (T, 3)."""
        steps = self.steps[:, :3].copy()
        steps[[cut - 1 for cut in self.cuts]] = 0  # unknown; the camera of this world goes on
        return np.concatenate([np.zeros((1, 3)), steps.cumsum(0)])

    def moved(self, first, last):
        """How the camera moves between two frames, in one word."""
        far = (self.path[last] - self.path[first]) / (0.1, 0.1, 0.15)
        axis = int(np.abs(far).argmax())
        return "still" if abs(far[axis]) < 1 else NAMES[axis, int(np.sign(far[axis]))]

    @property
    def camera(self):
        return self.moved(0, -1)

    @property
    def halves(self):
        middle = len(self.frames) // 2
        return self.moved(0, middle), self.moved(middle, -1)

    @property
    def returns(self):
        """Whether the camera is at the end where it began, after it was elsewhere."""
        return self.moved(0, -1) == "still" and self.moved(0, len(self.frames) // 2) != "still"

    @property
    def speed(self):
        far = np.abs(self.path[-1]) / (0.1, 0.1, 0.15)
        steps = np.abs(np.diff(self.path[:, int(far.argmax())]))
        third = len(steps) // 3
        ratio = steps[-third:].sum() / max(steps[:third].sum(), 1e-6)
        return "faster" if ratio > 1.6 else "slower" if ratio < 0.625 else "steady"

    @property
    def frozen(self):
        """The first and the last frame of the longest run of equal pictures; ``None`` if nothing freezes."""
        same = np.abs(np.diff(self.frames.astype(np.int16), axis=0)).mean((1, 2, 3)) < 1.2
        edges = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(int), [0]])))
        runs = sorted(zip(edges[::2], edges[1::2], strict=True), key=lambda run: run[0] - run[1])
        return runs[0] if runs and runs[0][1] - runs[0][0] >= 2 else None

    @property
    def fade(self):
        within = [step for number, step in enumerate(self.steps) if number + 1 not in self.cuts]
        gain = float(np.mean([step[3] for step in within]) * (len(self.frames) - 1))
        return "constant" if abs(gain) < 0.3 else "darker" if gain < 0 else "brighter"

    @property
    def first_again(self):
        """Whether the last shot shows the first one from where the camera then is; None if little is shared."""
        last, first = self.cuts[0] - 1, self.cuts[1]
        unknown = (first - last) / (first - last - 2)  # the two steps over cuts are like those between them
        right, down, zoom = (self.path[first] - self.path[last]) * unknown
        size = np.exp(-zoom)
        low = np.maximum(np.array([right, down]) - size / 2, -0.5)  # what both see, in the first of them
        high = np.minimum(np.array([right, down]) + size / 2, 0.5)
        if (high - low).min() < 0.25:
            return None
        low, high = low + 0.12 * (high - low), high - 0.12 * (high - low)
        box = [*(((low - (right, down)) / size + 0.5) * SIDE), *(((high - (right, down)) / size + 0.5) * SIDE)]
        shape = tuple(np.maximum((SIDE * (high - low)).round().astype(int), 8).tolist())
        part = Image.fromarray(self.gray[first]).resize(shape, Image.Resampling.BILINEAR, box=tuple(box))
        match, _ = matches(np.asarray(part), self.gray[last])
        return float(match.max()) > 0.75

    @cached_property
    def patch(self):
        """Where the small picture is in each frame (x, y), from 0 to 1, or None."""
        differs = np.abs(self.frames.astype(np.int16) - self.bare).max(-1) > 2
        found = []
        for mask in differs:
            rows, columns = np.nonzero(mask)
            far = (columns.mean() / mask.shape[1], rows.mean() / mask.shape[0]) if len(rows) > 30 else None
            found.append(far)
        return found

    @property
    def patch_begins(self):
        return next((number for number, place in enumerate(self.patch) if place), None)

    @property
    def patch_corner(self):
        x, y = self.patch[-1]
        return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"

    @property
    def patch_moves(self):
        far = np.subtract(self.patch[-1], self.patch[0])
        axis = int(np.abs(far).argmax())
        return "still" if abs(far[axis]) < 0.1 else NAMES[axis, int(np.sign(far[axis]))]


def step(one, two):
    """Compare two pictures: how the camera moves (right, down, in), the gain, and how well they then agree."""
    corners = range(REACH, SIDE - BLOCK - REACH + 1, 30)
    places, moves, gains, agreements = [], [], [], []
    for top in corners:
        for left in corners:
            part = one[top : top + BLOCK, left : left + BLOCK]
            around = two[top - REACH : top + BLOCK + REACH, left - REACH : left + BLOCK + REACH]
            match, light = matches(part, around)
            y, x = np.unravel_index(match.argmax(), match.shape)
            places.append(((left + BLOCK / 2) / SIDE - 0.5, (top + BLOCK / 2) / SIDE - 0.5))
            moves.append(((x - REACH + fine(match[y], x)) / SIDE, (y - REACH + fine(match[:, x], y)) / SIDE))
            gains.append(np.log((light[y, x] + 1) / (part.mean() + 1)))
            agreements.append(match[y, x])
    places, moves = np.array(places), np.array(moves)
    shift = np.median(moves, 0)
    far = np.abs(places) > 0.2
    grows = ((moves - shift)[far] / places[far]) if far.any() else np.zeros(1)
    return [-shift[0], -shift[1], float(np.median(grows)), float(np.median(gains)), float(np.median(agreements))]


def matches(part, picture):
    """How well a part agrees with each place of a picture, from -1 to 1, and how bright the place is."""
    view = np.lib.stride_tricks.sliding_window_view(picture, part.shape)
    light = view.mean((2, 3))
    part = part - part.mean()
    spread = (view**2).sum((2, 3)) - part.size * light**2
    return np.einsum("ijkl,kl->ij", view, part) / np.sqrt(np.maximum(spread, 1) * (part**2).sum() + 1), light


def fine(values, best):
    """Where the maximum is between whole pixels."""
    if not 0 < best < len(values) - 1:
        return 0.0
    before, here, after = values[best - 1 : best + 2]
    return 0.5 * (before - after) / (before - 2 * here + after - 1e-9)
