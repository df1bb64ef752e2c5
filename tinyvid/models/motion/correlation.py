"""Where each patch was in earlier frames, from the cosines of neighboring patches."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.registry import MOTIONS, AtLeast, AtMost, PositiveFloat, PositiveInt
from tinyvid.types import FeatureSpec

MAX_GAP = 1000  # so many frames are kept between pieces
COSINES = 2**24  # between the patches of frames, at once; limits memory and does not change the result
# Connectors begin with small weights, so channels of at most 1 are learned late beside features, whose length is ten to
# thirty; measured in docs/motion.md. All channels of similarity change at once, so each needs less.
SCALE, SIMILARITY_SCALE = 10.0, 5.0
LITTLE = 0.3  # moving patches: fewer count less, so that noise in a still frame is no motion


@MOTIONS.register("correlation")
class Correlation(nn.Module):
    """Append to each patch where it was in earlier frames, and to each frame which frames it resembles.

    A patch is compared with the patches of an earlier frame up to ``radius`` rows and columns away: the cosine, after
    the mean of each frame is subtracted, and a softmax over the displacements. For each gap, there are twice
    ``(2 * radius + 1)^2`` channels. The first half are these probabilities minus those of a patch that surely stands
    still, so they are small where a patch that differs from its neighbors stands still; on a plain background, all
    displacements are equally likely. The second half are the same for all patches of a frame: the share of each
    displacement in what moves, however little that is. Displacements are ordered by rows and columns, from the upper
    left to the lower right. What is earlier than the first frame equals the first frame.

    Args:
        features: What the vision tower returns.
        radius: Largest displacement, in patches.
        gaps: How many frames earlier the compared frames are, among the frames that the sampler chooses.
        temperature: Of the softmax; the lower, the more the most similar patch counts.
        similarity: Number of frames, evenly spaced from the first to the last, with which each frame is compared as a
            whole; each gives one channel. 0 for none; only then, a clip can be passed in pieces.

    Raises:
        ConfigError: The tower's patches do not form a rectangle, ``radius`` exceeds it, or ``gaps`` are not increasing
            numbers from 1.
    """

    source: Tensor  # int64 (P, C)
    inside: Tensor  # bool (P, C)
    still: Tensor  # (C,): 1 for no displacement, 0 for the others

    def __init__(
        self,
        *,
        features: FeatureSpec,
        radius: PositiveInt = 2,
        gaps: Sequence[int] = (1, 4),
        temperature: PositiveFloat = 0.07,
        similarity: Annotated[int, AtLeast(0), AtMost(1000)] = 0,
    ) -> None:
        super().__init__()
        grid = _checked(features, radius, gaps)
        self.gaps, self.temperature, self.similarity = tuple(gaps), temperature, similarity
        self.causal = not similarity
        source, inside = _sources(grid, radius)
        self.register_buffer("source", source, persistent=False)
        self.register_buffer("inside", inside, persistent=False)
        still = F.one_hot(torch.tensor(source.shape[1] // 2), source.shape[1]).float()
        self.register_buffer("still", still, persistent=False)
        channels = 2 * len(gaps) * source.shape[1] + similarity
        self.features = FeatureSpec(features.dim + channels, features.num_patches, grid)

    def forward(self, features: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Append the channels to features (T, P, Dv); the state is the frames before, (largest gap, P, Dv)."""
        memory = self.gaps[-1]
        before = features[:1].expand(memory, -1, -1) if state is None else state
        frames = torch.cat([before, features])  # (memory + T, P, Dv)
        block = max(1, COSINES // features.shape[1] ** 2)  # frames
        starts = range(0, len(features), block)
        device = "cpu" if features.is_meta else features.device.type  # the meta device has no autocast
        with torch.autocast(device, enabled=False):
            found = [torch.cat([self._displacements(frames[first : first + memory + block]) for first in starts])]
            if self.similarity:
                found.append(_similarities(features, self.similarity))
        return torch.cat([features, *(part.to(features.dtype) for part in found)], -1), frames[len(features) :]

    def _displacements(self, frames: Tensor) -> Tensor:
        """Return the channels (T, P, 2 * gaps * C) of frames (memory + T, P, Dv), the first of them earlier."""
        frames = frames.float()
        patches = F.normalize(frames - frames.mean(1, keepdim=True), dim=-1)  # (memory + T, P, Dv)
        now = patches[self.gaps[-1] :]  # (T, P, Dv)
        found: list[Tensor] = []
        for gap in self.gaps:
            then = patches[self.gaps[-1] - gap :][: len(now)]
            cosines = now @ then.transpose(1, 2)  # (T, P, P)
            near = cosines.gather(2, self.source.expand(len(now), -1, -1))  # (T, P, C)
            near = (near / self.temperature).masked_fill(~self.inside, -torch.inf)
            found += self._channels(near.softmax(-1))
        return SCALE * torch.cat(found, -1)

    def _channels(self, likely: Tensor) -> tuple[Tensor, Tensor]:
        """Map the probabilities of displacements (T, P, C) to the channels of patches and of their frame."""
        moving = (likely - likely[..., likely.shape[-1] // 2, None]).relu()  # (T, P, C), beyond standing still
        of_frame = moving.sum(1, keepdim=True)  # (T, 1, C)
        share = of_frame / (of_frame.sum(-1, keepdim=True) + LITTLE)
        return likely - self.still, share.expand_as(likely)


def _similarities(features: Tensor, count: int) -> Tensor:
    """Return the channels (T, P, count) that compare each frame (T, P, Dv) with ``count`` frames of the clip."""
    features = features.float()
    frames = F.normalize((features - features.mean((0, 1))).flatten(1), dim=-1)  # (T, P * Dv)
    shown = torch.linspace(0, len(frames) - 1, count, device=frames.device).round().long()
    alike = SIMILARITY_SCALE * (frames @ frames[shown].T - 1)  # (T, count), 0 if equal
    return alike[:, None].expand(-1, features.shape[1], -1)


def _sources(grid: tuple[int, int], radius: int) -> tuple[Tensor, Tensor]:
    """Return for each patch and each displacement the patch that it came from, and whether that is in the grid.

    Returns:
        Patch numbers (P, C), clamped to the grid, and bool (P, C), with ``C = (2 * radius + 1)^2``.
    """
    steps = torch.arange(-radius, radius + 1)
    rows, columns = (torch.arange(side)[:, None] - steps for side in grid)  # (side, 2 * radius + 1)
    inside = [(places >= 0) & (places < side) for places, side in zip((rows, columns), grid, strict=True)]
    clamped = [places.clamp(0, side - 1) for places, side in zip((rows, columns), grid, strict=True)]
    patches = clamped[0][:, None, :, None] * grid[1] + clamped[1][None, :, None, :]  # (rows, columns, steps, steps)
    both = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    return patches.flatten(2).flatten(0, 1), both.flatten(2).flatten(0, 1)


def _checked(features: FeatureSpec, radius: int, gaps: Sequence[int]) -> tuple[int, int]:
    """Return the grid of a tower, if ``correlation`` can use it with these options."""
    if features.grid is None:
        raise ConfigError(
            f"motion 'correlation' needs a rectangle of patches, but the {features.num_patches} patches of this tower "
            "do not form one; use vision_tower.select=all if it is 'patch', or motion=null"
        )
    if radius >= max(features.grid):
        size, most = "{} x {}".format(*features.grid), max(features.grid) - 1
        use = f"use at most {most}" if most else "use motion=null"
        raise ConfigError(
            f"motion 'correlation': motion.radius={radius} exceeds the tower's grid of {size} patches; {use}"
        )
    if not gaps or list(gaps) != sorted(set(gaps)) or gaps[0] < 1 or gaps[-1] > MAX_GAP:
        raise ConfigError(
            f"motion 'correlation': motion.gaps={list(gaps)} must be increasing numbers of frames from 1 to {MAX_GAP}, "
            "such as [1,4]"
        )
    return features.grid
