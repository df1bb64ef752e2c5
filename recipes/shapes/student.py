"""Train the connector to describe shapes, then its mixer and the LLM to answer questions."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.shapes.attention import guidance
from recipes.shapes.fitting import Engine, Metrics, fit
from recipes.shapes.questions import Share, right_replies
from recipes.shapes.sizes import TIMED
from recipes.shapes.supervision import TokenHeads, targets_of, token_loss
from tinyvid.models.connectors.blocks import refine
from tinyvid.models.video_llm import VideoLLM
from tinyvid.processing.batch import Batch, Output
from tinyvid.worlds.shapes import SceneQuestion

TOKEN_WEIGHT = 0.1  # weight of matched supervision while training on questions
GUIDE_WEIGHT = 0.1  # weight of the attention guidance
TRACE_WEIGHT = 0.2  # weight of a token of a trace
CONNECTOR_RATE = 0.3  # learning rate factor, so that gradients of an untrained LLM do not destroy the tokens


class Student(nn.Module):
    """A model with the heads that supervise its video tokens.

    Args:
        model: The model; its vision tower does not train.
        tokenizer: Tokenizer of the LLM.
    """

    def __init__(self, model: VideoLLM, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.heads = TokenHeads(model.llm.config.hidden_size, tokenizer)

    def says(self, tokens: Tensor, num_frames: int) -> dict[str, Tensor]:
        """Map the video tokens of clips (B, K, D) to predictions of every fact."""
        words = self.model.llm.get_input_embeddings().weight
        return self.heads(tokens.unflatten(1, (num_frames, -1)), words)


def resample(connector: Any, features: Tensor) -> Tensor:
    """Compute the group connector's tokens of several clips before its mixer, (B, T, P, Dv) to (B, K, D).

    Followed by ``mix``, this equals one call of the connector per clip. T must be a multiple of the number of groups.
    """
    count, groups = len(features), connector.num_groups
    media = connector.linear(features).reshape(count * groups, -1, connector.latents.shape[1])
    tokens = refine(connector.layers, connector.latents.expand(len(media), -1, -1), media)  # (B * G, q, D)
    tokens = connector.norm(tokens).view(count, -1, tokens.shape[-1])  # (B, K, D)
    return tokens + connector.positions(tokens.shape[1], like=tokens)


def mix(connector: Any, tokens: Tensor) -> Tensor:
    """Apply the mixer to the result of ``resample``; return the video tokens (B, K, D)."""
    return connector.mixer(tokens.unflatten(1, (connector.num_groups, -1))).flatten(1, 2)


@contextmanager
def known_tokens(model: VideoLLM, tokens: Tensor) -> Iterator[None]:
    """Make the model use given video tokens (B, K, D) for the slots of a batch."""
    known = tokens.flatten(0, 1), torch.ones(tokens.shape[0] * tokens.shape[1], dtype=torch.bool)
    model.slot_tokens = lambda batch: known  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.slot_tokens


def forward_with(model: VideoLLM, batch: Batch, tokens: Tensor) -> Output:
    """Run the model with given video tokens (B, K, D)."""
    with known_tokens(model, tokens):
        return model(batch)


def answer_loss(output: Output, *, mark: Sequence[int], end: int) -> Tensor:
    """Return the loss of replies in which the tokens of a trace weigh ``TRACE_WEIGHT`` as much as those of an answer.

    A trace has ten times as many tokens as the answer behind it, which would otherwise hardly be learned.

    Args:
        output: Output of the model for packed questions.
        mark: Tokens that end a trace, those of ``Answer:``.
        end: Token that ends a reply.
    """
    labels, count = output.labels, len(mark)
    places = torch.arange(len(labels), device=labels.device)
    reply = (labels == end).cumsum(0) - (labels == end).long()  # (N,), the number of the reply of each token
    found = (labels.unfold(0, count, 1) == torch.tensor(mark, device=labels.device)).all(-1).nonzero()[:, 0]
    last = torch.full((int(reply[-1]) + 1,), -1, device=labels.device)
    last[reply[found]] = found + count - 1  # of the trace of each reply
    weight = torch.where(places <= last[reply], TRACE_WEIGHT, 1.0)
    return (weight * F.cross_entropy(output.logits, labels, reduction="none")).sum() / weight.sum()


class Trainer:
    """Train a student on precomputed features or tokens of the clips.

    Args:
        clips: Arrays of the facts about all clips.
        known: Features (clips, T, P, Dv), or the tokens before the mixer (clips, K, D).
        engine: Engine with the student.
        seed: Seed of the order of the clips.
    """

    def __init__(self, clips: Mapping[str, np.ndarray], known: np.ndarray, engine: Engine, seed: int) -> None:
        self.clips = clips
        self.known = known
        self.engine = engine
        self.rng = np.random.default_rng([seed, 4])

    def describe(
        self, make: Callable[[Any, Tensor], Tensor], *, name: str, count: int, batch_size: int, steps: int, lr: float,
        after: Callable[[int, Metrics], None],
    ) -> None:  # fmt: skip
        """Train the video tokens to describe the shapes of their frame, without the LLM.

        Args:
            make: Maps the connector and features or tokens of clips to their video tokens.
            name: Name of the stage.
            count: Number of clips.
            batch_size: Clips per step.
            steps: Number of optimizer steps.
            lr: Peak learning rate.
            after: Called after each step.
        """
        replicas = len(self.engine.replicas)

        def shares(_: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
            chosen = [np.sort(self.rng.integers(0, count, batch_size // replicas)) for _ in range(replicas)]
            return [(self._known(c), targets_of(self.clips, c, self.engine.device)) for c in chosen]

        def compute(student: Student, share: tuple[Tensor, dict[str, Tensor]]) -> tuple[Tensor, Metrics]:
            known, targets = share
            tokens = make(student.model.connector, known)
            loss, metrics, _ = token_loss(student.says(tokens, targets["visible"].shape[1]), targets)
            return loss, metrics

        fit(name, self.engine, compute, shares, steps=steps, lr=lr, after=after)

    def answer(self, shares: Iterable[Share], *, steps: int, lr: float, after: Callable[[int, Metrics], None]) -> None:
        """Train the mixer and the LLM on packed questions."""
        waiting = iter(shares)

        def next_shares(_: int) -> list[tuple[Share, Tensor, dict[str, Tensor]]]:
            found = [next(waiting).to(self.engine.device) for _ in self.engine.replicas]
            return [(s, self._known(s.clips), targets_of(self.clips, s.clips, self.engine.device)) for s in found]

        def compute(student: Student, part: tuple[Share, Tensor, dict[str, Tensor]]) -> tuple[Tensor, Metrics]:
            share, known, targets = part
            tokens = mix(student.model.connector, known)
            answered = forward_with(student.model, share.batch, tokens).loss
            assert answered is not None  # every question has a reply to learn
            extra, metrics, described = token_loss(student.says(tokens, targets["visible"].shape[1]), targets)
            guide = guidance(student.model.llm, share.batch, share.asked, described.flatten(1), share.options)
            shown = {name: metrics[name] for name in ("tokens", "motion", "rank", "frame")}
            loss = answered + TOKEN_WEIGHT * extra + GUIDE_WEIGHT * guide
            return loss, {"loss": answered.item(), "guide": guide.item(), **shown}

        slow = {"connector": CONNECTOR_RATE, "heads": CONNECTOR_RATE}
        fit("answers", self.engine, compute, next_shares, steps=steps, lr=lr, slow=slow, after=after)

    def _known(self, chosen: np.ndarray) -> Tensor:
        return torch.from_numpy(self.known[chosen]).to(self.engine.device).float()


def accuracy(
    engine: Engine, shares: Sequence[Share], known: np.ndarray, make: Callable[[Any, Tensor], Tensor] = mix
) -> dict[str, float]:
    """Return the accuracy overall (without captions and times), by family and by format.

    Args:
        engine: Engine with the student; each replica answers a part of the shares.
        shares: Packed questions, including the questions.
        known: What ``make`` maps to video tokens: for ``mix``, the tokens before the mixer (clips, K, D).
        make: Maps the connector and what is known about several clips to their video tokens.
    """
    count = len(engine.replicas)
    parts = [shares[number::count] for number in range(count)]
    found: dict[str, list[bool]] = defaultdict(list)
    answered = engine.pool.map(
        lambda student, part: _answered(student.model, part, known, make), engine.replicas, parts
    )
    for question, right in (pair for part in answered for pair in part):
        if question.format != "caption" and question.family not in TIMED:
            found["overall"].append(right)
        found[question.family].append(right)
        found[f"format/{question.format}"].append(right)
    return {name: sum(rights) / len(rights) for name, rights in sorted(found.items())}


@torch.no_grad()  # grad mode is per thread
def _answered(
    model: VideoLLM, shares: Sequence[Share], known: np.ndarray, make: Callable[[Any, Tensor], Tensor]
) -> list[tuple[SceneQuestion, bool]]:
    """Return the questions of shares, and whether the model would generate the correct reply to each."""
    found: list[tuple[SceneQuestion, bool]] = []
    for share in shares:
        tokens = make(model.connector, torch.from_numpy(known[share.clips]).to(model.device).float())
        batch = share.batch.to(model.device)
        replies = right_replies(forward_with(model, batch, tokens).logits, batch)
        found += zip(share.questions, replies, strict=True)
    return found
