"""How many frames, and how many tokens of each, fit: decided from the layout alone, before a frame is decoded.

A sampler says how many frames it would like, and with ``overflow`` what gives way where they do not fit:
``fewer_frames`` takes as many as fit, evenly of those chosen; ``fewer_tokens`` keeps the frames and asks the connector
for fewer tokens of each. Text never gives way. What came of it is in the ``VideoPlan`` of each video.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tinyvid.types import Overflow, TokenBudget


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """What is looked at of one video.

    Attributes:
        indices: Frames of the clip.
        wanted: Frames that the sampler chose, before some of them gave way.
        duration: Of the clip, in seconds.
        budget: What the connector makes of the frames.
        reason: What the sampler says of its choice; empty where the rule says it all.
    """

    indices: tuple[int, ...]
    wanted: int
    duration: float
    budget: TokenBudget
    reason: str = ""

    @property
    def num_places(self) -> int:
        """Places of video tokens in each slot that shows the video."""
        return self.budget(len(self.indices))

    @property
    def most_tokens(self) -> int:
        """Most video tokens of each slot that shows the video: what the LLM must have room for."""
        return self.budget.bound(len(self.indices))

    @property
    def fps(self) -> float:
        """Effective frames per second: of the frames that are looked at, over the clip."""
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
    """Return plans that fit, as close as possible to those given; ``None`` where nothing that may give way helps.

    Args:
        plans: One per video.
        fits: Whether a sample laid out by plans fits; called some times, of plans with fewer and fewer tokens.
        overflow: What may give way.
        smaller: Tokens per frame that the connector can make instead, in falling order.
    """
    if fits(plans):
        return plans
    if overflow == "fewer_tokens":
        candidates = [tuple(replace(plan, budget=TokenBudget(per_frame=n)) for plan in plans) for n in smaller]
        return next((candidate for candidate in candidates if fits(candidate)), None)
    if overflow == "fewer_frames" and plans:
        most = max(len(plan.indices) for plan in plans)
        # Whether it fits is monotone in the number of frames: look for the first number that does not.
        count = bisect_right(range(1, most), False, key=lambda n: not fits(thin(plans, n, most)))
        return thin(plans, count, most) if count else None
    return None


def thin(plans: Plans, count: int, most: int) -> Plans:
    """Return plans with ``count`` of ``most`` frames, evenly; of several videos the same share, at least one frame."""

    def fewer(plan: VideoPlan) -> VideoPlan:
        total = len(plan.indices)
        kept = max(1, total * count // most)
        places = [0] if kept == 1 else [i * (total - 1) // (kept - 1) for i in range(kept)]
        return replace(plan, indices=tuple(plan.indices[place] for place in places))

    return tuple(map(fewer, plans))
