"""A shape and its path, as functions of time from 0 to 1, on a stage that is the unit square with y downwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyvid.worlds.shapes.palette import Motion


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a path with one motion.

    Attributes:
        motion: ``left``, ``right``, ``up``, ``down``, ``still`` or ``bounce``.
        start: When it begins; before that, the shape is at ``origin``.
        end: When it ends; from then on, the shape is at ``target``.
        origin: Center at the start, as (x, y) on the stage.
        target: Center at the end. The movement in between is straight, at constant speed.
        bounces: Number of bounces.
        height: Height of a bounce, as a fraction of the stage.
    """

    motion: Motion
    start: float
    end: float
    origin: tuple[float, float]
    target: tuple[float, float]
    bounces: int = 0
    height: float = 0.0

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return the center (T, 2) on the stage at ``times`` (T,)."""
        share = np.clip((times - self.start) / (self.end - self.start), 0.0, 1.0)
        places = np.empty((len(times), 2))
        for axis in (0, 1):
            places[:, axis] = self.origin[axis] + share * (self.target[axis] - self.origin[axis])
        if self.bounces:
            places[:, 1] -= self.height * np.abs(np.sin(np.pi * self.bounces * share))
        return places


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape with its path and lifetime.

    Attributes:
        color: Color at the start of its lifetime; together with ``kind``, its name throughout.
        kind: ``circle``, ``square``, ``triangle`` or ``cross``.
        radius: Radius, as a fraction of the stage.
        phases: Its path: one phase, or two in sequence.
        appears: Time at which it appears, or ``None`` if it is present from the beginning.
        disappears: Time at which it disappears, or ``None`` if it stays to the end.
        recolor: Time of its color change and the new color, or ``None``.
        shade: How its color differs from the palette: three RGB offsets and a factor.
    """

    color: str
    kind: str
    radius: float
    phases: tuple[Phase, ...]
    appears: float | None = None
    disappears: float | None = None
    recolor: tuple[float, str] | None = None
    shade: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)

    @property
    def motion(self) -> Motion:
        """Its only motion, or the first of two."""
        return self.phases[0].motion

    @property
    def second_motion(self) -> Motion | None:
        """The second of two motions, or ``None`` if it has only one."""
        return self.phases[1].motion if len(self.phases) > 1 else None

    @property
    def bounces(self) -> int:
        """Number of bounces."""
        return self.phases[0].bounces

    @property
    def start(self) -> float:
        """Start of its lifetime, from 0 to 1."""
        return 0.0 if self.appears is None else self.appears

    @property
    def end(self) -> float:
        """End of its lifetime, from 0 to 1."""
        return 1.0 if self.disappears is None else self.disappears

    @property
    def last_color(self) -> str:
        """Its color at the end of its lifetime."""
        return self.recolor[1] if self.recolor else self.color

    @property
    def colors(self) -> tuple[str, ...]:
        """All of its colors, in order."""
        return (self.color, self.recolor[1]) if self.recolor else (self.color,)

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return the center (T, 2) on the stage at ``times`` (T,), even while it is hidden."""
        places = self.phases[0].at(times)
        for phase in self.phases[1:]:
            later = times >= phase.start
            places[later] = phase.at(times[later])
        return places

    def visible(self, times: np.ndarray) -> np.ndarray:
        """Return whether the shape is present at ``times`` (T,), as bool (T,)."""
        return (times >= self.start) & (times < self.end if self.disappears is not None else times <= 1.0)
