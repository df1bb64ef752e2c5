"""Decide how many frames, and how many tokens per frame, fit in the context, before any frame is decoded.

A sampler chooses frames. Its ``overflow`` says what to reduce if they do not fit: ``fewer_frames`` keeps as many of the
chosen frames as fit, evenly spaced; ``fewer_tokens`` keeps all frames and requests fewer tokens per frame from the
connector. Text is never shortened. The ``VideoPlan`` of each video gives the result.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tinyvid.types import Overflow, TokenBudget


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """The frames of one video to decode, and the places for their tokens.

    Attributes:
        indices: Indices of the frames in the clip.
        wanted: Number of frames that the sampler chose.
        duration: Duration of the clip, in seconds.
        budget: Number of places for the frames.
        reason: Why the sampler chose the frames; empty if it did not look at them.
    """

    indices: tuple[int, ...]
    wanted: int
    duration: float
    budget: TokenBudget
    reason: str = ""

    @property
    def num_places(self) -> int:
        """The number of places in each slot of the video."""
        return self.budget(len(self.indices))

    @property
    def most_tokens(self) -> int:
        """The maximum number of video tokens in each slot of the video, for which the LLM must have room."""
        return self.budget.bound(len(self.indices))

    @property
    def fps(self) -> float:
        """The effective frames per second: chosen frames over the duration of the clip."""
        return len(self.indices) / self.duration if self.duration > 0 else 0.0

    def __str__(self) -> str:
        fewer = f" of {self.wanted:,}" if len(self.indices) < self.wanted else ""
        each = f", {self.budget.per_frame} tokens each" if self.budget.per_frame else ""
        why = f" ({self.reason})" if self.reason else ""
        return f"{len(self.indices):,}{fewer} frames of {self.duration:,.1f} s, {self.fps:.3g} frames/s{each}{why}"


Plans = tuple[VideoPlan, ...]


def fit(
    plans: Plans, *, fits: Callable[[Plans], bool], overflow: Overflow, smaller: Sequence[int] = ()
) -> Plans | None:
    """Return the largest plans that fit, or ``None`` if none do.

    Args:
        plans: One per video.
        fits: Returns whether a sample fits with the given plans.
        overflow: What to reduce.
        smaller: Other numbers of tokens per frame that the connector supports, in decreasing order.
    """
    if fits(plans):
        return plans
    if overflow == "fewer_tokens":
        candidates = [tuple(replace(plan, budget=TokenBudget(per_frame=n)) for plan in plans) for n in smaller]
        return next((candidate for candidate in candidates if fits(candidate)), None)
    if overflow == "fewer_frames" and plans:
        most = max(len(plan.indices) for plan in plans)
        # Fitting is monotone in the number of frames: bisect for the first number that does not fit.
        count = bisect_right(range(1, most), False, key=lambda n: not fits(thin(plans, n, most)))
        return thin(plans, count, most) if count else None
    return None


def thin(plans: Plans, count: int, most: int) -> Plans:
    """Keep ``count`` of ``most`` frames, evenly spaced; every video keeps the same fraction, and at least one."""

    def fewer(plan: VideoPlan) -> VideoPlan:
        total = len(plan.indices)
        kept = max(1, total * count // most)
        places = [0] if kept == 1 else [i * (total - 1) // (kept - 1) for i in range(kept)]
        return replace(plan, indices=tuple(plan.indices[place] for place in places))

    return tuple(map(fewer, plans))
