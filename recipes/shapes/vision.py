"""Train the vision tower to classify patches, and store its features of all clips."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from recipes.shapes.fitting import Engine, Metrics, fit
from recipes.shapes.progress import progress
from tinyvid.models.vision_towers.siglip import SiglipTower
from tinyvid.worlds.shapes import COLORS, KINDS

FRAMES = 128  # per step
BACKGROUND = 0.15  # loss weight of patches without a shape
INSIDE = 0.8  # a patch shows a shape if its center is within this fraction of the radius


class PatchHeads(nn.Module):
    """Predict color, shape and the shape's center for each patch. For training only.

    Args:
        tower: The vision tower.
    """

    def __init__(self, tower: SiglipTower) -> None:
        super().__init__()
        self.tower = tower
        dim = tower.features.dim
        self.norm = nn.LayerNorm(dim)
        self.color = nn.Linear(dim, len(COLORS) + 1)
        self.kind = nn.Linear(dim, len(KINDS) + 1)
        self.center = nn.Linear(dim, 2)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map pixels (N, 3, S, S) to logits of colors (N, P, 8), of kinds (N, P, 5), and centers (N, P, 2)."""
        hidden = self.norm(self.tower(pixels))
        return self.color(hidden), self.kind(hidden), self.center(hidden)


def to_pixels(frames: np.ndarray, device: torch.device) -> Tensor:
    """Convert frames uint8 (N, S, S, 3) to the pixels of the vision tower, (N, 3, S, S)."""
    return (torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def nearest_shapes(
    clips: Mapping[str, np.ndarray], clip: np.ndarray, frame: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each patch the index of the nearest visible shape (N, P), and whether the patch shows it (N, P)."""
    center, radius = clips["center"][clip, frame], clips["radius"][clip, frame]  # (N, S, 2)
    middle = (np.arange(side) + 0.5) / side
    grid = np.stack(np.meshgrid(middle, middle), -1).reshape(1, -1, 1, 2)  # (1, P, 1, 2) of x, y, row by row
    distance = np.abs((grid - center[:, None]) / np.maximum(radius[:, None], 1e-6)).max(-1)  # (N, P, S) in radii
    distance = np.where(clips["visible"][clip, frame][:, None], distance, 9.0)
    nearest = distance.argmin(-1)  # (N, P)
    return nearest, np.take_along_axis(distance, nearest[..., None], -1)[..., 0] < INSIDE


def patch_targets(
    clips: Mapping[str, np.ndarray], clip: np.ndarray, frame: np.ndarray, side: int
) -> tuple[Tensor, ...]:
    """Return the targets of patches: color and kind (N, P), the last class for background, and center (N, P, 2)."""
    nearest, shown = nearest_shapes(clips, clip, frame, side)
    rows = np.arange(len(clip))[:, None]
    color = np.where(shown, clips["color"][clip, frame][rows, nearest], len(COLORS))
    kind = np.where(shown, clips["kind"][clip][rows, nearest], len(KINDS))
    center = clips["center"][clip, frame][rows, nearest]
    return torch.from_numpy(color), torch.from_numpy(kind), torch.from_numpy(center)


def train_tower(
    tower: SiglipTower,
    clips: dict[str, np.ndarray],
    engine_of: Callable[[nn.Module], Engine],
    *,
    count: int,
    steps: int,
    seed: int,
    after: Callable[[int, Metrics], None],
) -> None:
    """Train the tower to predict color, shape and the shape's center for each patch."""
    heads = PatchHeads(tower).to(next(tower.parameters()).device)
    engine = engine_of(heads)
    assert tower.features.grid is not None  # SigLIP's patches fill a square
    side = tower.features.grid[0]
    rng = np.random.default_rng([seed, 1])

    def shares(step: int) -> list[tuple[Tensor, ...]]:
        shares = []
        for _ in engine.replicas:
            clip = np.sort(rng.integers(0, count, FRAMES // len(engine.replicas)))
            frame = rng.integers(0, clips["frames"].shape[1], len(clip))
            pixels = to_pixels(clips["frames"][clip, frame], engine.device)
            targets = [t.to(engine.device) for t in patch_targets(clips, clip, frame, side)]
            shares.append((pixels, *targets))
        return shares

    def compute(module: PatchHeads, share: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        pixels, color, kind, center = share
        color_logits, kind_logits, predicted_center = module(pixels)
        shown = color < len(COLORS)
        weight = torch.where(shown, 1.0, BACKGROUND).flatten()
        losses = [
            (F.cross_entropy(logits.flatten(0, 1).float(), target.flatten().long(), reduction="none") * weight).sum()
            / weight.sum()
            for logits, target in ((color_logits, color), (kind_logits, kind))
        ]
        error = (predicted_center.float() - center)[shown].abs().mean()
        kind_accuracy = (kind_logits.argmax(-1) == kind)[shown].float().mean()
        color_accuracy = (color_logits.argmax(-1) == color)[shown].float().mean()
        loss = losses[0] + losses[1] + 4 * error
        metrics = {"color": color_accuracy.item(), "shape": kind_accuracy.item(), "center": error.item()}
        return loss, {"loss": loss.item(), **metrics}

    fit("vision", engine, compute, shares, steps=steps, lr=2e-3, after=after)


def keep_features(
    tower: SiglipTower, clips: dict[str, np.ndarray], path: Path, *, threads: int, chunk: int = 16
) -> None:
    """Write the tower's features of all clips as float16 (clips, T, P, Dv)."""
    device = next(tower.parameters()).device
    frames = clips["frames"]
    shape = (len(frames), frames.shape[1], tower.features.num_patches, tower.features.dim)
    partial = path.with_suffix(".partial")
    out = open_memmap(partial, mode="w+", dtype="float16", shape=shape)

    @torch.no_grad()
    def keep(first: int) -> int:
        part = frames[first : first + chunk]
        features = tower(to_pixels(part.reshape(-1, *part.shape[2:]), device))
        out[first : first + chunk] = features.view(len(part), *shape[1:]).half().cpu().numpy()
        return len(part)

    with ThreadPoolExecutor(threads) as pool, progress("features", len(frames)) as tick:
        for done in pool.map(keep, range(0, len(frames), chunk)):
            tick(done)
    out.flush()
    partial.rename(path)
