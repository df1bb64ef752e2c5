"""The model: vision tower, connector and LLM joined by one scatter.

The Processor has laid the sequence out, so the model does not pad, cut or relabel: it computes video tokens, puts
them where ``video_mask`` says, and calls the LLM. The LM head runs at label positions only, because a vocabulary of
151,936 times a sequence of 3,000 in float32 is otherwise the largest tensor of a training step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyvid.caches import FeatureCache, check_frozen
from tinyvid.errors import DataError
from tinyvid.types import IGNORE_INDEX, Batch, Output


class VideoLLM(nn.Module):
    """Answer questions about videos, or learn to.

    Args:
        llm: A causal LM of transformers.
        vision_tower: Fulfils ``protocols.VisionTower``.
        connector: Fulfils ``protocols.Connector``.
        tower_chunk: Frames that go through the vision tower at once; bounds memory, changes no number.
    """

    def __init__(self, llm: Any, vision_tower: Any, connector: Any, *, tower_chunk: int = 32) -> None:
        super().__init__()
        self.llm = llm
        self.vision_tower = vision_tower
        self.connector = connector
        self.tower_chunk = tower_chunk

    @property
    def device(self) -> torch.device:
        """Where the embeddings of the LLM lie, and a batch must too."""
        return self.llm.get_input_embeddings().weight.device

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
                attention_mask=batch.attention_mask,
                position_ids=_positions(batch.attention_mask),
                use_cache=False,
            ).logits
        logits = logits[0].float()  # (N, vocabulary)
        labels = targets[targets != IGNORE_INDEX]  # (N,)
        loss = F.cross_entropy(logits, labels) if len(labels) else None
        if loss is None and self.training:
            loss = logits.sum()  # of nothing: a zero with a gradient
        return Output(loss=loss, logits=logits, num_targets=len(labels))

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
        clips = self.clips(batch)
        reads = self.connector.reads_question
        return torch.cat([self.connector(clips[s.video], s.question if reads else None) for s in batch.slots])

    def clips(self, batch: Batch) -> list[Tensor]:
        """Return the patch features (T, P, Dv) of every video of a batch: those it brings, the rest from the tower."""
        known = batch.features or (None,) * len(batch.num_frames)
        missing = [count for count, clip in zip(batch.num_frames, known, strict=True) if clip is None]
        encoded = iter(self.encode(batch.pixels).split(missing)) if batch.pixels is not None else iter(())
        clips = [next(encoded) if clip is None else clip for clip in known]
        dtype = next(self.connector.parameters()).dtype
        return [clip.to(dtype) for clip in clips]

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the patch features of frames: (N, 3, S, S) to (N, P, Dv). A frozen tower keeps no graph."""
        return self._run_tower(pixels).to(next(self.connector.parameters()).dtype)

    @torch.no_grad()
    def fill_features(self, batch: Batch, cache: FeatureCache | None = None) -> Batch:
        """Run the frozen tower over the pixels of a batch, keep the features, and return the batch with them.

        Each video goes through the tower alone, so that what is kept, and what a run computes, does not depend on
        which videos a batch happens to bring along, or which of them were kept before.

        Args:
            batch: On the model's device.
            cache: Where to keep features under ``batch.feature_keys``.

        Raises:
            ConfigError: The tower trains: its features would be old after a step.
        """
        check_frozen(self.vision_tower)
        if batch.pixels is None:
            return batch
        known = batch.features or (None,) * len(batch.num_frames)
        missing = [count for count, clip in zip(batch.num_frames, known, strict=True) if clip is None]
        with torch.autocast(batch.pixels.device.type, enabled=False):  # whatever a run does, one key is one dtype
            fresh = iter([self._run_tower(pixels) for pixels in batch.pixels.split(missing)])
        features = tuple(next(fresh) if clip is None else clip for clip in known)
        if cache is not None and batch.feature_keys:
            for before, clip, key in zip(known, features, batch.feature_keys, strict=True):
                if before is None:
                    cache.write(key, clip)
        return replace(batch, pixels=None, features=features)

    def _run_tower(self, pixels: Tensor) -> Tensor:
        parameter = next(self.vision_tower.parameters())
        with torch.set_grad_enabled(self._tower_learns() and torch.is_grad_enabled()):
            chunks = pixels.to(parameter.device, parameter.dtype).split(self.tower_chunk)
            return torch.cat([self.vision_tower(chunk) for chunk in chunks])  # (N, P, Dv)

    def _tower_learns(self) -> bool:
        return any(p.requires_grad for p in self.vision_tower.parameters())

    def train(self, mode: bool = True) -> "VideoLLM":
        """Switch to training mode, except parts that are frozen entirely: those stay in eval mode."""
        super().train(mode)
        for part in (self.llm, self.vision_tower, self.connector):
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()
        if mode:
            for layer in self.llm.modules():
                # transformers recomputes activations in training mode only. The gradient of a connector passes through
                # a frozen LLM, too. The layer's own flag suffices; what it consists of, such as dropout, stays in eval.
                if getattr(layer, "gradient_checkpointing", False):
                    layer.training = True
        return self

    @torch.inference_mode()
    def generate(self, batch: Batch, **options: Any) -> Tensor:
        """Return the ids of the replies to a left-padded batch of prompts: (B, new tokens).

        Args:
            batch: Collated with ``padding_side="left"``, on the model's device.
            **options: For ``transformers``' ``generate``: ``max_new_tokens``, ``generation_config``, ``streamer``.
        """
        embeddings = self.embed(batch)
        return self.llm.generate(inputs_embeds=embeddings, attention_mask=batch.attention_mask, **options)


def _positions(attention_mask: Tensor) -> Tensor:
    """Count positions from the first real token, so that left and right padding give the same numbers."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)  # (B, L)


@contextmanager
def _head_at(llm: Any, wanted: Tensor) -> Iterator[None]:
    """Let the LM head see only the hidden states where ``wanted`` (B, L) is true, as (1, N, D).

    A hook on the head, rather than a call of the decoder and then the head, keeps whatever the model does to its
    logits afterwards (soft-capping, scaling) and works under peft and quantisation alike.
    """

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][wanted].unsqueeze(0), *inputs[1:])  # (B, L, D) -> (1, N, D)

    hook = llm.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        hook.remove()
