"""Average patches with learned weights: each slot attends to all patches of a frame, or of the clip."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.registry import REDUCERS, PositiveInt
from tinyvid.types import FeatureSpec, Question, TokenBudget, VideoTokens

WAVES = 16  # periods of the time code: 1, 2, 4, ... seconds, up to nine hours


@REDUCERS.register("slots")
class Slots(nn.Module):
    """Average the patches of each frame, or of the whole clip, with learned weights that depend on the patch alone.

    Averages do not depend on the order of the patches. Slots of a clip can know when something happens only from
    ``times``, a code of the seconds that is added to the patches and is zero at the start of training.
    Sources: Guo et al., VTG-LLM, arXiv:2405.13382 (256 slots of the clip, with times); Guo et al., TRACE,
    arXiv:2410.05643 (8 slots of each frame). VTG-LLM looks its code up by whole second; here it is a linear layer on
    sines and cosines, so no time is untrained.

    Args:
        slots: Tokens of a frame or of the clip.
        of: ``frame`` or ``clip``.
        times: Whether to add the time code.
    """

    positions = "closed"
    weightless = False
    reads_question = False

    def __init__(
        self,
        *,
        features: FeatureSpec,
        slots: PositiveInt = 8,
        of: Literal["frame", "clip"] = "frame",
        times: bool = False,
    ) -> None:
        super().__init__()
        if of == "frame" and slots > features.num_patches:
            raise ConfigError(
                f"reducer 'slots': reducer.slots={slots} is more than the {features.num_patches} patches of a frame; "
                "use fewer, or reducer.of=clip"
            )
        self.of = of
        self.causal = of == "frame"
        self.reads_times = times
        self.budget = TokenBudget(per_frame=slots) if of == "frame" else TokenBudget(fixed=slots)
        self.norm = nn.LayerNorm(features.dim, bias=False)  # a bias would add the same to all scores
        self.score = nn.Linear(features.dim, slots, bias=False)
        self.time = nn.Linear(2 * WAVES, features.dim, bias=False) if times else None
        if self.time is not None:
            nn.init.zeros_(self.time.weight)

    def forward(
        self, features: Tensor, state: Any = None, *, times: Tensor | None = None, question: Question | None = None
    ) -> tuple[VideoTokens, Any]:
        """Map the features (T, P, Dv) of a clip to (T * slots, Dv), or to (slots, Dv) if they are slots of the clip."""
        if self.time is not None:
            assert times is not None  # reads_times
            code = _waves(times.to(features.device)).to(features.dtype)  # (T, 2 * WAVES)
            features = features + self.time(code)[:, None]
        groups = features if self.of == "frame" else features.flatten(0, 1)[None]  # (G, N, Dv)
        scores = self.score(self.norm(groups))  # (G, N, slots)
        weights = scores.softmax(1, dtype=torch.float32).to(groups.dtype)
        x = (weights.transpose(1, 2) @ groups).flatten(0, 1)  # (G * slots, Dv)
        places = torch.arange(len(x), device=x.device)
        return VideoTokens(x, places // weights.shape[-1], places), None


def _waves(times: Tensor) -> Tensor:
    """Return sines and cosines of times (T,) in seconds, float32 (T, 2 * WAVES)."""
    turns = times.float()[:, None] / 2.0 ** torch.arange(WAVES, device=times.device)  # (T, WAVES)
    angles = 2 * math.pi * (turns % 1)  # exact up to here
    return torch.cat([angles.sin(), angles.cos()], -1)
