"""Matched supervision: every video token must describe one shape of its frame and what happens to it in the clip.

A frame has as many tokens as a scene can have shapes. In each frame, tokens are matched to visible shapes at the lowest
cost. Each matched token is then trained to predict what the frame shows (color, shape, position) and what only other
frames show (motion, event, its time and rank, partners, counts), which trains the temporal mixer before the LLM needs
it. Predictions of colors, shapes and motions use the embeddings of the LLM's words as classifier weights, so the LLM
can match the words of a question to tokens.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.shapes.facts import CHOICES, EVENTS, NONE, NUMBERS
from recipes.shapes.fitting import Metrics
from recipes.shapes.sizes import MAX_SHAPES
from tinyvid.worlds.shapes import COLORS, KINDS, MOTIONS

VERBS = {"nothing": " nothing", "appear": " appears", "disappear": " disappears", "recolor": " changes"}
WORDS: dict[str, tuple[str, ...]] = {
    "color": tuple(f" {color}" for color in COLORS),
    "kind": tuple(f" {kind}" for kind in KINDS),
    "motion": tuple(f" {motion}" for motion in MOTIONS),
    "event": tuple(VERBS[event] for event in EVENTS),
}
# Facts predicted as words. The two facts of a shape's name use the token directly, all others a linear map.
SAID = {
    "first_color": "color",
    "kind": "kind",
    "color": "color",
    "last_color": "color",
    "motion": "motion",
    "second_motion": "motion",
    "event": "event",
    "passes_color": "color",
    "passes_kind": "kind",
    "collides_color": "color",
    "collides_kind": "kind",
}
PLAIN = tuple(name for name in CHOICES if name not in SAID)
NAME = ("first_color", "kind")
PERMUTATIONS = torch.tensor(list(itertools.permutations(range(MAX_SHAPES))))  # (24, 4): the shape of each token
CENTER_WEIGHT = 5.0
NUMBER_WEIGHT = 3.0


class TokenHeads(nn.Module):
    """Predict facts from video tokens. For training only.

    Args:
        dim: D, width of the tokens.
        tokenizer: Every word of ``WORDS`` must be one token.
    """

    def __init__(self, dim: int, tokenizer: Any) -> None:
        super().__init__()
        self.words = {kind: [single(tokenizer, word) for word in words] for kind, words in WORDS.items()}
        self.maps = nn.ModuleDict({name: nn.Linear(dim, dim, bias=False) for name in SAID if name not in NAME})
        self.plain = nn.ModuleDict({name: nn.Linear(dim, CHOICES[name]) for name in PLAIN})
        self.numbers = nn.ModuleDict({name: nn.Linear(dim, width) for name, width in NUMBERS.items()})
        self.center = nn.Linear(dim, 2)
        self.present = nn.Linear(dim, 1)

    def forward(self, tokens: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
        """Map tokens (..., D) to predictions of every fact; ``embeddings`` (V, D) are those of the LLM."""
        tokens = F.rms_norm(tokens.float(), tokens.shape[-1:])
        said = {}
        for name, kind in SAID.items():
            spoken = self.maps[name](tokens) if name in self.maps else tokens
            said[name] = spoken @ embeddings[self.words[kind]].T
        said |= {name: head(tokens) for heads in (self.plain, self.numbers) for name, head in heads.items()}
        return said | {"center": self.center(tokens), "present": self.present(tokens)[..., 0]}


def targets_of(clips: Mapping[str, np.ndarray], chosen: np.ndarray, device: torch.device) -> dict[str, Tensor]:
    """Return the targets of clips: ``visible``, ``color`` (B, T, N), ``center`` (B, T, N, 2), facts (B, N, ...)."""
    names = ("visible", "color", "center", *CHOICES, *NUMBERS)
    return {name: torch.from_numpy(np.ascontiguousarray(clips[name][chosen])).to(device) for name in names}


@torch.no_grad()
def match(said: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Match the tokens of each frame to shapes; return (B, T, q), the index of the shape that each token describes."""
    num_frames = targets["visible"].shape[1]
    cost = torch.zeros(*said["present"].shape, MAX_SHAPES, device=said["present"].device)  # (B, T, q, N)
    for name in ("color", "kind"):
        right = targets[name].long().clamp(min=0)
        if right.ndim == 2:
            right = right[:, None].expand(-1, num_frames, -1)  # (B, T, N)
        logs = said[name].float().log_softmax(-1)  # (B, T, q, C)
        cost -= logs.gather(-1, right[:, :, None].expand(-1, -1, MAX_SHAPES, -1))
    cost += CENTER_WEIGHT * (said["center"].float()[:, :, :, None] - targets["center"][:, :, None]).abs().sum(-1)
    cost -= said["present"].float()[..., None]
    cost = cost * targets["visible"][:, :, None]
    ways = PERMUTATIONS.to(cost.device)
    total = cost[:, :, torch.arange(MAX_SHAPES, device=cost.device), ways].sum(-1)  # (B, T, 24)
    return ways[total.argmin(-1)]


def token_loss(said: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> tuple[Tensor, Metrics, Tensor]:
    """Return the loss of what the tokens say, how much of it is right, and which shape each describes, or -1 (B, T, q).

    Args:
        said: From ``TokenHeads``.
        targets: From ``targets_of``.
    """
    pair = match(said, targets)  # (B, T, q)
    shown = targets["visible"].gather(2, pair)  # (B, T, q)
    loss = F.binary_cross_entropy_with_logits(said["present"].float(), shown.float())
    batch = torch.arange(len(pair), device=pair.device)[:, None, None].expand_as(pair)[shown]  # (M,)
    frame = torch.arange(pair.shape[1], device=pair.device)[None, :, None].expand_as(pair)[shown]
    shape = pair[shown]
    metrics: Metrics = {}
    loss = loss + CENTER_WEIGHT * F.l1_loss(said["center"].float()[shown], targets["center"][batch, frame, shape])
    for name in (*SAID, *PLAIN):
        right = targets[name]
        right = right[batch, frame, shape] if name == "color" else right[batch, shape]
        known = right >= 0
        logits, right = said[name].float()[shown][known], right[known].long()
        if not len(right):
            metrics[name] = 1.0
            continue
        loss = loss + F.cross_entropy(logits, right)
        metrics[name] = (logits.argmax(-1) == right).float().mean().item()
    for name in NUMBERS:
        right = targets[name][batch, shape]
        known = right.isfinite().all(-1)
        if known.any():
            off = F.l1_loss(said[name].float()[shown][known], right[known])
            loss = loss + NUMBER_WEIGHT * off
            metrics[name] = off.item()
        else:
            metrics[name] = 0.0
    return loss, {"tokens": loss.item(), **metrics}, pair.masked_fill(~shown, NONE)


def single(tokenizer: Any, word: str) -> int:
    """Return the id of a word that is one token."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"the tokenizer splits {word!r} into {len(ids)} tokens; train it with this word as one token")
    return int(ids[0])
