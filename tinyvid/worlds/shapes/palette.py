"""Colors, kinds of shapes and motions of the world, and the pairs held out to test composition."""

from typing import Literal

Motion = Literal["left", "right", "up", "down", "still", "bounce"]
EventKind = Literal["appear", "disappear", "recolor", "pass", "collide"]
Pair = tuple[str, str]  # a color and a kind

RGB: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 185, 60),
    "blue": (45, 85, 235),
    "yellow": (235, 220, 50),
    "purple": (160, 55, 205),
    "cyan": (50, 215, 225),
    "white": (240, 240, 240),
    "orange": (245, 135, 25),
    "pink": (250, 120, 185),
}
EXTRA_COLORS = ("orange", "pink")  # drawn only on request: reserved for teaching a new skill
COLORS = tuple(color for color in RGB if color not in EXTRA_COLORS)
KINDS = ("circle", "square", "triangle", "cross")
DIRECTIONS: tuple[Motion, ...] = ("left", "right", "up", "down")
MOTIONS: tuple[Motion, ...] = (*DIRECTIONS, "still", "bounce")
OPPOSITE: dict[str, Motion] = {"left": "right", "right": "left", "up": "down", "down": "up"}
STEP: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}  # y grows downwards
HELD_OUT: tuple[Pair, ...] = (("red", "cross"), ("blue", "triangle"), ("yellow", "circle"), ("cyan", "square"))
MAX_SHAPES = 4
