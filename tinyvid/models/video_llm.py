"""The model: vision tower, connector and LLM joined by one scatter.

The Processor has laid the sequence out, so the model does not pad, cut or relabel: it computes video tokens, puts
them where ``video_mask`` says, and calls the LLM. The LM head runs at label positions only, because a vocabulary of
151,936 times a sequence of 3,000 in float32 is otherwise the largest tensor of a training step.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyvid.caches import FeatureCache, check_frozen
from tinyvid.errors import ConfigError, DataError
from tinyvid.processing.batch import Batch, Output
from tinyvid.protocols import Connector, VisionTower
from tinyvid.types import IGNORE_INDEX, Question, Slot

PARTS = ("llm", "vision_tower", "connector")  # of a VideoLLM, by the names of its members


class VideoLLM(nn.Module):
    """Answer questions about videos, or learn to.

    Args:
        llm: A causal LM of transformers.
        vision_tower: Fulfills ``protocols.VisionTower``.
        connector: Fulfills ``protocols.Connector``.
        tower_chunk: Frames that go through the vision tower at once; bounds memory, changes no number.
    """

    def __init__(self, llm: Any, vision_tower: VisionTower, connector: Connector, *, tower_chunk: int = 32) -> None:
        super().__init__()
        self.llm = llm
        self.vision_tower = vision_tower
        self.connector = connector
        self.tower_chunk = tower_chunk

    @property
    def device(self) -> torch.device:
        """Where the embeddings of the LLM lie, and a batch must too."""
        return self.llm.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the embeddings of the LLM are in, and what its layers compute in, quantized or not."""
        return self.llm.get_input_embeddings().weight.dtype

    def forward(self, batch: Batch) -> Output:
        """Compute the loss of a batch, and the logits at its label positions.

        Args:
            batch: On the model's device.

        Returns:
            ``logits`` (N, vocabulary) in float32 and their mean cross-entropy. If N is 0, ``loss`` is ``None``, or in
            training mode a zero that every trainable weight has a gradient of.
        """
        targets = batch.labels[:, 1:]  # (B, L-1): position t predicts token t+1
        wanted = F.pad(targets != IGNORE_INDEX, (0, 1))  # (B, L)
        embeddings = self.embed(batch)  # (B, L, D)
        if self.training and (not wanted.any() or not batch.slots or self._tower_learns()):
            embeddings = embeddings + self._reach_all()
        with _head_at(self.llm, wanted):
            logits = self.llm(
                inputs_embeds=embeddings,
                attention_mask=self._visible(batch, embeddings.dtype),
                position_ids=_positions(batch.attention_mask, batch.blocks),
                use_cache=False,
            ).logits
        logits = logits[0].float()  # (N, vocabulary)
        labels = targets[targets != IGNORE_INDEX]  # (N,)
        loss = F.cross_entropy(logits, labels) if len(labels) else None
        if loss is None and self.training:
            loss = logits.sum()  # of nothing: a zero with a gradient
        return Output(loss=loss, logits=logits, num_targets=len(labels))

    def _visible(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """Return the attention mask of the LLM: (B, L) of real tokens, or (B, 1, L, L) of packed samples.

        Raises:
            ConfigError: The attention implementation takes no such mask.
        """
        if batch.blocks is None:
            return batch.attention_mask
        attention = self.llm.config._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise ConfigError(f"recipe.pack above 1 needs llm.attention=sdpa or eager, not {attention!r}")
        mask = _block_mask(batch.attention_mask, batch.blocks)
        if attention == "sdpa":
            return mask
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)

    def _reach_all(self) -> Tensor:
        """Return a zero that depends on every trainable weight, to be added to the embeddings.

        A batch without a video or without a target uses only some of them, and a vision tower none above its chosen
        layer; processes that train together wait for the gradients of all, and FSDP for those of the embeddings too.
        The layers of the LLM are reached from the logits; where FSDP has cut them into shards, they are left out here.
        """
        reached = [p for p in self.parameters() if p.requires_grad and not hasattr(p, "full_tensor")]
        return torch.stack([p.flatten()[0].float() * 0 for p in reached]).sum() if reached else torch.zeros(())

    def embed(self, batch: Batch) -> Tensor:
        """Return the input embeddings of a batch, video tokens in place: (B, L, D).

        Raises:
            DataError: The connector made more or fewer video tokens than the sequence has room for.
        """
        embeddings = self.llm.get_input_embeddings()(batch.input_ids)  # (B, L, D)
        if not batch.slots:
            return embeddings
        tokens = self.video_tokens(batch)  # (sum of K, D)
        room = int(batch.video_mask.sum())
        if len(tokens) != room:
            raise DataError(
                f"samples {list(batch.ids)}: the connector made {len(tokens)} video tokens for {room} places; "
                "the connector's budget and its output disagree"
            )
        mask = batch.video_mask.unsqueeze(-1)  # (B, L, 1)
        return embeddings.masked_scatter(mask, tokens.to(embeddings.dtype))

    def video_tokens(self, batch: Batch) -> Tensor:
        """Return the video tokens of every slot of a batch, end to end: (sum of K, D)."""
        reads = self.connector.tokens.reads_question
        asked = [self.question(slot) if reads else None for slot in batch.slots]
        tokens: list[list[Tensor]] = [[] for _ in batch.slots]
        for video, pieces in enumerate(self.pieces(batch)):
            places = [place for place, slot in enumerate(batch.slots) if slot.video == video]
            for features in pieces:  # (T, P, Dv), or in pieces of it
                made: dict[Slot | int | None, Tensor] = {}  # slots that ask the same of a video share its tokens
                for place in places:
                    slot = batch.slots[place]
                    key = slot if reads else slot.per_frame
                    if key not in made:
                        made[key] = self.connector(features, asked[place], per_frame=slot.per_frame)  # (K, D)
                    tokens[place].append(made[key])
        return torch.cat([piece for slot in tokens for piece in slot])

    def question(self, slot: Slot) -> Question:
        """Return the question of a slot as the connector reads it; the LLM's embeddings of it keep no graph."""
        ids = torch.tensor(slot.ids, dtype=torch.long, device=self.device)  # (L,)
        decoder = self.connector.text_decoder
        if decoder is None or not decoder.reads_embeddings:
            return Question(slot.question, ids)
        with torch.no_grad():
            embeddings = self.llm.get_input_embeddings()(ids)  # (L, D)
        return Question(slot.question, ids, embeddings)

    def pieces(self, batch: Batch) -> Iterator[Iterable[Tensor]]:
        """Yield for every video of a batch its patch features: whole, or those of a stream in pieces as they come."""
        streams = batch.streams or (None,) * len(batch.num_frames)
        clips = iter(self.clips(batch))
        for stream in streams:
            yield [next(clips)] if stream is None else map(self.encode, stream)

    def clips(self, batch: Batch) -> list[Tensor]:
        """Return the patch features (T, P, Dv) of every video of a batch that is no stream, in order."""
        encoded = iter(self.encode(batch.pixels).split(_in_pixels(batch))) if batch.pixels is not None else iter(())
        streams = batch.streams or (None,) * len(batch.num_frames)
        known = batch.features or (None,) * len(batch.num_frames)
        whole = [clip for clip, stream in zip(known, streams, strict=True) if stream is None]
        return [(next(encoded) if clip is None else clip).to(self.connector.dtype) for clip in whole]

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the patch features of frames: (N, 3, S, S) to (N, P, Dv). A frozen tower keeps no graph."""
        return self._run_tower(pixels).to(self.connector.dtype)

    @torch.no_grad()
    def fill_features(self, batch: Batch, cache: FeatureCache | None = None) -> Batch:
        """Run the frozen tower over the pixels of a batch, keep the features, and return the batch with them.

        Each video goes through the tower alone, so that what is kept, and what a run computes, does not depend on
        which videos a batch happens to bring along, or which of them were kept before. Streams stay streams.

        Args:
            batch: On the model's device.
            cache: Where to keep features under ``batch.feature_keys``.

        Raises:
            ConfigError: The tower trains: its features would be old after a step.
        """
        check_frozen(self.get_submodule("vision_tower"))
        if batch.pixels is None:
            return batch
        known = batch.features or (None,) * len(batch.num_frames)
        streams = batch.streams or (None,) * len(batch.num_frames)
        with torch.autocast(batch.pixels.device.type, enabled=False):  # whatever a run does, one key is one dtype
            fresh = iter([self._run_tower(pixels) for pixels in batch.pixels.split(_in_pixels(batch))])
        features = tuple(
            next(fresh) if clip is None and stream is None else clip
            for clip, stream in zip(known, streams, strict=True)
        )
        if cache is not None and batch.feature_keys:
            for before, clip, key in zip(known, features, batch.feature_keys, strict=True):
                if before is None and clip is not None:
                    cache.write(key, clip)
        return replace(batch, pixels=None, features=features)

    def _run_tower(self, pixels: Tensor) -> Tensor:
        with torch.set_grad_enabled(self._tower_learns() and torch.is_grad_enabled()):
            chunks = pixels.to(self.device, self.vision_tower.dtype).split(self.tower_chunk)
            return torch.cat([self.vision_tower(chunk) for chunk in chunks])  # (N, P, Dv)

    def _tower_learns(self) -> bool:
        return any(p.requires_grad for p in self.get_submodule("vision_tower").parameters())

    def train(self, mode: bool = True) -> "VideoLLM":
        """Switch to training mode, except parts that are frozen entirely: those stay in eval mode."""
        super().train(mode)
        for part in map(self.get_submodule, PARTS):
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()
        if mode:
            for layer in self.llm.modules():
                # transformers recomputes activations in training mode only. The gradient of a connector passes through
                # a frozen LLM, too. The layer's own flag suffices; what it consists of, such as dropout, stays in eval.
                if getattr(layer, "gradient_checkpointing", False):
                    layer.training = True
        return self


def _in_pixels(batch: Batch) -> list[int]:
    """Return the frames T of each video whose pixels the batch holds."""
    known = batch.features or (None,) * len(batch.num_frames)
    streams = batch.streams or (None,) * len(batch.num_frames)
    clips = zip(batch.num_frames, known, streams, strict=True)
    return [count for count, *elsewhere in clips if elsewhere == [None, None]]


def _positions(attention_mask: Tensor, blocks: Tensor | None = None) -> Tensor:
    """Count positions from the first real token, so that left and right padding give the same numbers.

    Args:
        attention_mask: (B, L).
        blocks: (B, L) of packed samples; each of them is counted on from the end of the shared prefix.
    """
    index = (attention_mask.cumsum(-1) - 1).clamp(min=0)  # (B, L)
    if blocks is None:
        return index
    begins = F.pad(blocks[:, 1:] != blocks[:, :-1], (1, 0), value=True)  # (B, L)
    start = torch.where(begins, index, 0).cummax(dim=-1).values  # (B, L): where the block of a token begins
    prefix = ((blocks == 0) & attention_mask.bool()).sum(-1, keepdim=True)  # (B, 1)
    return torch.where(blocks == 0, index, prefix + index - start)


def _block_mask(attention_mask: Tensor, blocks: Tensor) -> Tensor:
    """Return which token sees which, bool (B, 1, L, L): itself, and before it the prefix and its own block."""
    length = blocks.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=blocks.device).tril()
    seen = (blocks == 0)[:, None, :] | (blocks[:, :, None] == blocks[:, None, :])  # (B, L, L)
    return (seen & causal & attention_mask.bool()[:, None, :])[:, None]


@contextmanager
def _head_at(llm: Any, wanted: Tensor) -> Iterator[None]:
    """Let the LM head see only the hidden states where ``wanted`` (B, L) is true, as (1, N, D).

    A hook on the head, rather than a call of the decoder and then the head, keeps whatever the model does to its
    logits afterwards (soft-capping, scaling) and works under peft and quantization alike.
    """

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][wanted].unsqueeze(0), *inputs[1:])  # (B, L, D) -> (1, N, D)

    hook = llm.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        hook.remove()
